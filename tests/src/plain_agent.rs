//! An existing agent: no sub-protocol, yamux as it comes, HTTP/1.1 on every stream.

use std::{convert::Infallible, net::SocketAddr};

use futures_util::StreamExt;
use http::{HeaderValue, Request, Response, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};
use tokio_yamux::{Config, Session};

use crate::{client::Body, wire::Bytestream};

/// How the existing agent behaves.
#[derive(Debug, Clone)]
pub struct PlainOptions {
    /// `machine_id` in the query.
    pub machine_id: String,
    /// `name` in the query.
    pub name: String,
    /// Whether a stream serves more than one request.
    pub keep_alive: bool,
    /// Whether bytes that are UTF-8 are sent as text messages.
    pub text: bool,
}

impl PlainOptions {
    /// An agent of that name with persistent streams.
    pub fn new(name: &str) -> Self {
        Self { machine_id: format!("machine-{name}"), name: name.to_owned(), keep_alive: true, text: false }
    }
}

/// A connected agent. It leaves when it is dropped.
#[derive(Debug)]
pub struct PlainAgent {
    /// `x-relay-host-id` of the 101.
    pub host_id: Option<String>,
    task: JoinHandle<()>,
}

impl Drop for PlainAgent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PlainAgent {
    /// Dials the relay and serves the handler on every stream.
    pub async fn connect<H, Fut>(
        relay: SocketAddr,
        token: &str,
        options: PlainOptions,
        handler: H,
    ) -> Result<Self, tungstenite::Error>
    where
        H: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        let path = format!(
            "ws://{relay}/v1/relay/connect?machine_id={}&name={}&agent_version=0.0.1",
            options.machine_id, options.name
        );
        let mut request = path.into_client_request()?;
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).expect("a token is a header value");
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        let tcp = TcpStream::connect(relay).await?;
        tcp.set_nodelay(true)?;
        let (ws, response) = tokio_tungstenite::client_async(request, tcp).await?;
        assert!(
            response.headers().get(header::SEC_WEBSOCKET_PROTOCOL).is_none(),
            "no sub-protocol was offered, so none may be selected"
        );
        let host_id =
            response.headers().get("x-relay-host-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let task = tokio::spawn(serve(Bytestream::new(ws, options.text), options.keep_alive, handler));
        Ok(Self { host_id, task })
    }
}

async fn serve<H, Fut>(io: Bytestream<TcpStream>, keep_alive: bool, handler: H)
where
    H: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let mut session = Session::new_client(io, Config::default());
    let mut streams = tokio::task::JoinSet::new();
    while let Some(Ok(stream)) = session.next().await {
        let handler = handler.clone();
        streams.spawn(async move {
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            hyper::server::conn::http1::Builder::new()
                .keep_alive(keep_alive)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await
                .ok();
        });
        while streams.try_join_next().is_some() {}
    }
}
