//! What the agent answers itself: `/_relay` and below (PROTOCOL.md sections 3, 4.1 and 5.3), as a table.

use http::Method;
use relay_protocol::exchange;
use uuid::Uuid;

/// One of the agent's own paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `GET /_relay/hello`
    Hello,
    /// `POST /_relay/pairing/start`
    Start,
    /// `POST /_relay/pairing/finish`
    Finish,
    /// `POST /_relay/pairing/code`
    Code,
    /// `POST /_relay/session`
    Session,
    /// `POST /_relay/exchange`, and an upgrade of GET
    Exchange,
    /// `GET /_relay/browsers`
    Browsers,
    /// `PATCH /_relay/browsers/{id}`
    Rename(Uuid),
    /// `DELETE /_relay/browsers/{id}`
    Revoke(Uuid),
    /// `POST /_relay/webrtc`
    Offer,
    /// `DELETE /_relay/webrtc/{id}`
    ClosePeer(Uuid),
}

/// Why it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// There is nothing at this path.
    NotFound,
    /// There is, for these methods.
    Method(&'static str),
}

/// Which one it is.
///
/// # Errors
/// When it is none.
pub fn route(method: &Method, path: &str) -> Result<Route, NoRoute> {
    let only = |wanted: Method, allow: &'static str, route: Route| {
        if *method == wanted { Ok(route) } else { Err(NoRoute::Method(allow)) }
    };
    match path {
        "/_relay/hello" => only(Method::GET, "GET", Route::Hello),
        "/_relay/pairing/start" => only(Method::POST, "POST", Route::Start),
        "/_relay/pairing/finish" => only(Method::POST, "POST", Route::Finish),
        "/_relay/pairing/code" => only(Method::POST, "POST", Route::Code),
        "/_relay/session" => only(Method::POST, "POST", Route::Session),
        exchange::PATH => match *method {
            Method::POST | Method::GET => Ok(Route::Exchange),
            _ => Err(NoRoute::Method("POST, GET")),
        },
        "/_relay/browsers" => only(Method::GET, "GET", Route::Browsers),
        "/_relay/webrtc" => only(Method::POST, "POST", Route::Offer),
        _ => match (id_below("/_relay/browsers/", path), id_below("/_relay/webrtc/", path)) {
            (Some(id), _) => match *method {
                Method::PATCH => Ok(Route::Rename(id)),
                Method::DELETE => Ok(Route::Revoke(id)),
                _ => Err(NoRoute::Method("PATCH, DELETE")),
            },
            (None, Some(id)) => only(Method::DELETE, "DELETE", Route::ClosePeer(id)),
            (None, None) => Err(NoRoute::NotFound),
        },
    }
}

/// An id, hyphenated as everywhere, in either case.
fn id_below(start: &str, path: &str) -> Option<Uuid> {
    path.strip_prefix(start).filter(|id| id.len() == 36)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_own_paths() {
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let with_id = format!("/_relay/browsers/{}", id.to_string().to_uppercase());
        let peer = format!("/_relay/webrtc/{id}");
        let without_hyphens = format!("/_relay/browsers/{}", id.simple());
        for (method, path, expected) in [
            (Method::GET, "/_relay/hello", Ok(Route::Hello)),
            (Method::HEAD, "/_relay/hello", Err(NoRoute::Method("GET"))),
            (Method::POST, "/_relay/pairing/start", Ok(Route::Start)),
            (Method::GET, "/_relay/pairing/start", Err(NoRoute::Method("POST"))),
            (Method::POST, "/_relay/pairing/finish", Ok(Route::Finish)),
            (Method::POST, "/_relay/pairing/code", Ok(Route::Code)),
            (Method::POST, "/_relay/session", Ok(Route::Session)),
            (Method::POST, "/_relay/exchange", Ok(Route::Exchange)),
            (Method::GET, "/_relay/exchange", Ok(Route::Exchange)),
            (Method::PUT, "/_relay/exchange", Err(NoRoute::Method("POST, GET"))),
            (Method::GET, "/_relay/browsers", Ok(Route::Browsers)),
            (Method::PATCH, &with_id, Ok(Route::Rename(id))),
            (Method::DELETE, &with_id, Ok(Route::Revoke(id))),
            (Method::GET, &with_id, Err(NoRoute::Method("PATCH, DELETE"))),
            (Method::DELETE, &without_hyphens, Err(NoRoute::NotFound)),
            (Method::DELETE, "/_relay/browsers/", Err(NoRoute::NotFound)),
            (Method::POST, "/_relay/webrtc", Ok(Route::Offer)),
            (Method::GET, "/_relay/webrtc", Err(NoRoute::Method("POST"))),
            (Method::DELETE, &peer, Ok(Route::ClosePeer(id))),
            (Method::POST, &peer, Err(NoRoute::Method("DELETE"))),
            (Method::POST, "/_relay/webrtc/", Err(NoRoute::NotFound)),
            (Method::GET, "/_relay", Err(NoRoute::NotFound)),
            (Method::GET, "/_relay/", Err(NoRoute::NotFound)),
            (Method::GET, "/_relay/hello/", Err(NoRoute::NotFound)),
            (Method::GET, "/_relay//hello", Err(NoRoute::NotFound)),
            (Method::GET, "/_relay/x/../hello", Err(NoRoute::NotFound)),
            (Method::GET, "/_relay/Hello", Err(NoRoute::NotFound)),
        ] {
            assert_eq!(route(&method, path), expected, "{method} {path}");
        }
    }
}
