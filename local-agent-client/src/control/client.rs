//! The commands' side of local control: finds the running agent through the state folder.

use super::{
    Contact, FILE,
    api::{EndView, NewCode, PairRequest},
};
use crate::state::{self, StateError};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use relay_protocol::problem::Problem;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

/// For an answer to begin and, unless it lasts, to end. The server is on this machine.
const ANSWER: Duration = Duration::from_secs(10);
/// Bytes of an answer: 64 browsers and everything around them are far less.
const MAX_ANSWER: usize = 1024 * 1024;
/// An agent that has just started has not told yet where it is.
const LOOKS: u32 = 20;
/// Between looks.
const LOOK: Duration = Duration::from_millis(100);

/// Why the running agent could not be asked, or what it said.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// None runs.
    #[error(
        "no agent runs with the state folder {0}; start it with `local-agent-client run`, or name another folder with --state-dir"
    )]
    NotRunning(PathBuf),
    /// One runs, and nobody can ask it.
    #[error("the agent runs without local control; start it without `--control off`")]
    Off,
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// `control.json` holds something else.
    #[error("{0} is not as the agent writes it; restart the agent")]
    BadContact(PathBuf),
    /// It did not answer.
    #[error("the running agent does not answer: {0}")]
    Unreachable(String),
    /// It answered, and refused.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
}

fn unreachable(error: impl std::fmt::Display) -> ControlError {
    ControlError::Unreachable(error.to_string())
}

/// A way to the running agent.
pub struct Client {
    address: SocketAddr,
    authorization: Zeroizing<String>,
}

impl Client {
    /// Finds the agent that runs with this state folder.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn find(dir: &Path) -> Result<Self, ControlError> {
        for _ in 0..LOOKS {
            if !state::is_running(dir)? {
                return Err(ControlError::NotRunning(dir.to_owned()));
            }
            if let Some(text) = state::read(dir, FILE)? {
                let contact: Contact =
                    serde_json::from_slice(&text).map_err(|_| ControlError::BadContact(dir.join(FILE)))?;
                if !contact.address.ip().is_loopback() {
                    return Err(ControlError::BadContact(dir.join(FILE)));
                }
                let authorization = Zeroizing::new(format!("Bearer {}", contact.secret.0));
                return Ok(Self { address: contact.address, authorization });
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(ControlError::Off)
    }

    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ControlError> {
        let answer = async {
            let (response, _connection) = self.send(method, path, body).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(unreachable)?;
            let body = body.to_bytes();
            // What has no content is `()` to the caller.
            let text: &[u8] = if status == StatusCode::NO_CONTENT { b"null" } else { &body };
            serde_json::from_slice(text).map_err(unreachable)
        };
        timeout(ANSWER, answer).await.map_err(unreachable)?
    }

    /// Shows a code that lives so many seconds, 300 unless given. As long as the value lives, so does the code.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn pair(&self, life: Option<i64>) -> Result<(NewCode, Waiting), ControlError> {
        let begin = async {
            let asked = PairRequest { life };
            let (response, connection) = self.send(Method::POST, "/api/pair", Some(&asked)).await?;
            let mut waiting =
                Waiting { body: response.into_body(), read: Vec::new(), _connection: connection };
            let code = waiting.line().await?;
            Ok((code, waiting))
        };
        timeout(ANSWER, begin).await.map_err(unreachable)?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), ControlError> {
        let content = body.map(serde_json::to_vec).transpose().map_err(unreachable)?.unwrap_or_default();
        let mut authorization: http::HeaderValue = self.authorization.parse().map_err(unreachable)?;
        authorization.set_sensitive(true);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::AUTHORIZATION, authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(content)))
            .map_err(unreachable)?;
        let socket = TcpStream::connect(self.address).await.map_err(unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(unreachable)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // Its end shows in the answer.
            let _ = connection.await;
        }));
        let response = sender.send_request(request).await.map_err(unreachable)?;
        if response.status().is_success() {
            return Ok((response, connection));
        }
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(unreachable)?;
        match serde_json::from_slice(&body.to_bytes()) {
            Ok(problem) => Err(ControlError::Refused(problem)),
            Err(_) => Err(unreachable(status)),
        }
    }
}

/// Waits for the end of a code. Dropping it withdraws the code.
pub struct Waiting {
    body: Incoming,
    read: Vec<u8>,
    _connection: AbortOnDropHandle<()>,
}

impl Waiting {
    /// How the code ended.
    ///
    /// # Errors
    /// When the agent ended first.
    pub async fn ended(mut self) -> Result<EndView, ControlError> {
        self.line().await
    }

    async fn line<T: DeserializeOwned>(&mut self) -> Result<T, ControlError> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(unreachable);
            }
            let frame = self.body.frame().await.ok_or_else(|| unreachable("it has ended"))?;
            if let Some(data) = frame.map_err(unreachable)?.data_ref() {
                if self.read.len() + data.len() > MAX_ANSWER {
                    return Err(unreachable("its answer is too long"));
                }
                self.read.extend_from_slice(data);
            }
        }
    }
}
