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
use super::serve::{Peer, Place};
use super::{head, problem};
use crate::admin;
use crate::config::{Config, Limits};
use crate::forward::arrival::Arrival;
use crate::forward::{self, Word};
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
    /// Whether another relay passed it on: it goes no further.
    pub forwarded: bool,
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
    relays: forward::Door,
    warned: AtomicBool,
    /// Whether the operator's interface is there.
    admin: bool,
    responses: Responses,
}

impl Front {
    /// From the configuration, for the relay of this name.
    pub fn new(config: &Config, relay_id: &str, shutdown: Shutdown) -> Self {
        Self {
            limits: config.limits.clone(),
            trusted: config.trusted_proxies.clone(),
            policy: Policy::new(config),
            shutdown,
            relays: forward::Door::new(config, relay_id),
            warned: AtomicBool::new(false),
            admin: config.admin.token.is_some(),
            responses: Responses::new(),
        }
    }

    /// Answers the request itself, or with what `inner` answers.
    pub async fn handle<B, F>(
        &self,
        mut request: Request<B>,
        peer: Peer,
        inner: impl FnOnce(Request<B>, Context) -> F,
    ) -> Response<Body>
    where
        F: Future<Output = Response<Body>>,
    {
        let received = Instant::now();
        let place = request.extensions_mut().remove::<Place>();
        let arrival = self.relays.take(&mut request);
        if let (Ok(Some(_)), Some(place)) = (&arrival, place) {
            place.give_back();
        }
        let context = match &arrival {
            // Whoever really calls, the other relay knows.
            Ok(Some(Arrival { client, id })) => {
                Context { client: client.clone(), request_id: id.clone(), forwarded: true }
            }
            Ok(None) | Err(_) => self.context(&request, peer),
        };
        let client = &context.client;
        let entry = access_log::enabled().then(|| Entry::new(request.method(), request.uri().path()));
        let mut origin = self.policy.decide(request.headers(), client);
        let for_operator = self.admin && admin::is_path(request.uri().path());
        if for_operator && matches!(origin, Decision::Allowed(_)) {
            // No page reads there: the token is not for pages to have.
            origin = Decision::Refused;
        }

        let lines = || if context.forwarded { Ok(()) } else { head::check_lines(&request) };
        let mut response = if let Err(refused) = head::check(&request, &self.limits)
            .and_then(|()| lines())
            .and_then(|()| head::check_host(&request))
        {
            problem::respond(refused)
        } else if arrival.is_err() {
            forward_refused()
        } else if cors::is_preflight(request.method(), request.headers()) {
            let mut response = cors::preflight(request.headers(), &origin);
            self.finish(&mut response, &context, entry, received);
            return response;
        } else if self.shutdown.is_draining() && request.uri().path() != HEALTH_PATH && !for_operator {
            let mut response =
                problem::refuse(Code::Draining, "The relay is about to restart. Try again in a few seconds.");
            response.extensions_mut().insert(Word::Draining);
            response
        } else {
            inner(request, context.clone()).await
        };
        cors::apply(response.headers_mut(), &origin);
        self.finish(&mut response, &context, entry, received);
        response
    }

    /// What the connection and the headers say.
    fn context<B>(&self, request: &Request<B>, peer: Peer) -> Context {
        let client = client_info(peer.addr, request.uri().authority(), request.headers(), &self.trusted);
        if client.looks_like_forgotten_proxy {
            self.warn_once(client.addr);
        }
        let request_id = RequestId::choose(request.headers().get(X_REQUEST_ID), client.from_trusted);
        Context { client, request_id, forwarded: false }
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
        let refused = response.extensions().get::<Word>() == Some(&Word::Refused);
        if context.forwarded || refused {
            forward::arrival::mark(response);
        }
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

/// To whoever claims to be a relay that passes a request on.
fn forward_refused() -> Response<Body> {
    let mut response = problem::refuse(
        Code::ForwardRefused,
        "Only relays pass requests on, with what they share, and each request once. Leave x-relay-forwarded out.",
    );
    response.extensions_mut().insert(Word::Refused);
    response
}
