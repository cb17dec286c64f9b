//! What happens to every request before and after somebody answers it: who calls, under which id,
//! whether it is small enough, whether the relay still takes it, which pages may read the answer,
//! and the line in the access log. Below this nobody reads `X-Forwarded-*` or `Origin` again.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::body::Body;
use http::{Request, Response};
use ipnet::IpNet;
use relay_protocol::headers::X_REQUEST_ID;
use relay_protocol::problem::Code;

use super::access_log::{self, Entry};
use super::client_addr::{ClientInfo, RateKey, client_info};
use super::cors::{self, Decision, Policy};
use super::metrics::Responses;
use super::request_id::RequestId;
use super::serve::Peer;
use super::{head, problem};
use crate::admin;
use crate::config::{Config, Limits};
use crate::shutdown::Shutdown;

/// The path that is answered while draining, besides those of the operator.
pub const HEALTH_PATH: &str = "/health";

/// What is known of a request besides itself. Handlers of the API find it among the extensions.
#[derive(Debug, Clone)]
pub struct Context {
    /// Who calls.
    pub client: ClientInfo,
    /// The request's id.
    pub request_id: RequestId,
}

impl Context {
    /// The key by which the caller is counted.
    pub fn rate_key(&self) -> RateKey {
        RateKey::of(self.client.addr)
    }

    /// The key by which the caller's network is counted besides, when it may have many addresses.
    pub fn network_key(&self) -> Option<RateKey> {
        RateKey::of_network(self.client.addr)
    }
}

/// One for the whole relay.
pub struct Front {
    limits: Limits,
    trusted: Vec<IpNet>,
    policy: Policy,
    shutdown: Shutdown,
    warned: AtomicBool,
    /// Whether the operator's interface is there.
    admin: bool,
    responses: Responses,
}

impl Front {
    /// From the configuration.
    pub fn new(config: &Config, shutdown: Shutdown) -> Self {
        Self {
            limits: config.limits.clone(),
            trusted: config.trusted_proxies.clone(),
            policy: Policy::new(config),
            shutdown,
            warned: AtomicBool::new(false),
            admin: config.admin.token.is_some(),
            responses: Responses::new(),
        }
    }

    /// Answers the request itself, or with what `inner` answers.
    pub async fn handle<B, F>(
        &self,
        request: Request<B>,
        peer: Peer,
        inner: impl FnOnce(Request<B>, Context) -> F,
    ) -> Response<Body>
    where
        F: Future<Output = Response<Body>>,
    {
        let received = Instant::now();
        let client = client_info(peer.addr, request.uri().authority(), request.headers(), &self.trusted);
        if client.looks_like_forgotten_proxy {
            self.warn_once(client.addr);
        }
        let request_id = RequestId::choose(request.headers().get(X_REQUEST_ID), client.from_trusted);
        let entry = access_log::enabled().then(|| Entry::new(request.method(), request.uri().path()));
        let mut origin = self.policy.decide(request.headers(), &client);
        let for_operator = self.admin && admin::is_path(request.uri().path());
        if for_operator && matches!(origin, Decision::Allowed(_)) {
            // No page reads there: the token is not for pages to have.
            origin = Decision::Refused;
        }
        let context = Context { client, request_id };

        let mut response = if let Err(refused) =
            head::check(&request, &self.limits).and_then(|()| head::check_host(&request))
        {
            problem::respond(refused)
        } else if cors::is_preflight(request.method(), request.headers()) {
            let mut response = cors::preflight(request.headers(), &origin);
            self.finish(&mut response, &context, entry, received);
            return response;
        } else if self.shutdown.is_draining() && request.uri().path() != HEALTH_PATH && !for_operator {
            problem::refuse(Code::Draining, "The relay is about to restart. Try again in a few seconds.")
        } else {
            inner(request, context.clone()).await
        };
        cors::apply(response.headers_mut(), &origin);
        self.finish(&mut response, &context, entry, received);
        response
    }

    fn finish(
        &self,
        response: &mut Response<Body>,
        context: &Context,
        entry: Option<Entry>,
        received: Instant,
    ) {
        self.responses.count(response.status());
        problem::finish(response, &context.request_id);
        if let Some(entry) = entry {
            entry.write(response, &context.client, &context.request_id, received.elapsed());
        }
    }

    fn warn_once(&self, peer: IpAddr) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %peer,
                "a private address sends X-Forwarded-For and is not in RELAY_TRUSTED_PROXIES: if it is your proxy, name it \
                 there, or all browsers behind it share one address and its limits"
            );
        }
    }
}
