//! Whether the head of a request is small enough to be looked at.

use std::net::Ipv6Addr;

use http::uri::Authority;
use http::{Request, Version, header};
use relay_protocol::problem::{Code, Problem};

use crate::config::Limits;

/// What a header costs besides its name and value: `": "` and the end of its line.
const PER_HEADER: usize = 4;
/// Lines of a header. On its way to the local server a request gets more of them, from one or two relays and the
/// agent; each of these takes [`MAX_LINES_WITH_OURS`], so that what passes here does not fail there.
const MAX_LINES: usize = 100;
/// What our own servers of HTTP/1.1 take.
pub const MAX_LINES_WITH_OURS: usize = 128;

/// Refuses a request that does not say for which host it is, or says it twice (RFC 9112 section 3.2): what
/// is in front of the relay may have read another one. Who a request is for is told to local servers and goes into
/// addresses, so it has to be a host and a port, and nothing that only begins or ends like one.
pub fn check_host<B>(request: &Request<B>) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let clear = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => false,
        (Some(host), None) => host.to_str().is_ok_and(|host| host.is_empty() || is_host(host)),
        (None, _) => request.version() != Version::HTTP_11,
    };
    // HTTP/2 has it there, and a client of HTTP/1.1 may write it there too.
    if clear && request.uri().authority().is_none_or(|authority| is_host(authority.as_str())) {
        Ok(())
    } else {
        Err(Problem::new(
            Code::BadRequest,
            "The request needs one Host header with a host name, and only one.",
        ))
    }
}

/// Whether this is an authority of RFC 3986 section 3.2 without user information and with a port that there can be.
fn is_host(text: &str) -> bool {
    let parts = match text.strip_prefix('[') {
        Some(rest) => rest
            .split_once(']')
            .filter(|(address, after)| {
                address.parse::<Ipv6Addr>().is_ok() && (after.is_empty() || after.starts_with(':'))
            })
            .map(|(_, after)| after.strip_prefix(':')),
        None => {
            let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            is_name(name).then_some(port)
        }
    };
    let Some(port) = parts else { return false };
    let is_port = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok())
    };
    // What comes after this reads it as such.
    port.is_none_or(is_port) && text.parse::<Authority>().is_ok()
}

/// Whether this is a `reg-name`, which IPv4 addresses are too. An empty one names nobody, and one with percent signs
/// is taken for none by what comes after this.
fn is_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte);
    !name.is_empty() && name.bytes().all(known)
}

/// Refuses more lines of a header than may pass. Not for what another relay passes on: it has counted, and added some.
pub fn check_lines<B>(request: &Request<B>) -> Result<(), Problem> {
    if request.headers().len() <= MAX_LINES {
        return Ok(());
    }
    Err(Problem::new(Code::HeaderTooLarge, format!("The header may have {MAX_LINES} lines.")))
}

/// Refuses a target or a header beyond the limits. Hyper has limits of its own behind these, wider,
/// so that the answer here, which says what is wrong, comes first.
pub fn check<B>(request: &Request<B>, limits: &Limits) -> Result<(), Problem> {
    let uri = request.uri();
    // The authority of an absolute target counts with the header.
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > limits.max_uri_bytes {
        let detail = format!("The path and query together may have {} bytes.", limits.max_uri_bytes);
        return Err(Problem::new(Code::UriTooLong, detail));
    }
    let headers: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + PER_HEADER).sum();
    if headers + uri.authority().map_or(0, |authority| authority.as_str().len()) > limits.max_header_bytes {
        let detail = format!(
            "The header may have {} bytes; too many cookies for this site are the usual reason.",
            limits.max_header_bytes
        );
        return Err(Problem::new(Code::HeaderTooLarge, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;
    use crate::config::sources::Sources;

    #[test]
    fn one_host_and_only_one() {
        for (version, hosts, passes) in [
            (Version::HTTP_11, &["a"][..], true),
            (Version::HTTP_11, &[], false),
            (Version::HTTP_11, &["a", "b"], false),
            (Version::HTTP_11, &["a", "a"], false),
            (Version::HTTP_11, &["a b<script>"], false),
            (Version::HTTP_11, &["[::1]:8082"], true),
            (Version::HTTP_11, &[""], true),
            (Version::HTTP_11, &["a:"], true),
            (Version::HTTP_11, &["a.b-c_d~:65535"], true),
            (Version::HTTP_11, &["192.0.2.1:080"], true),
            (Version::HTTP_11, &["a@b"], false),
            (Version::HTTP_11, &["a@b@c"], false),
            (Version::HTTP_11, &["a:b@c:1"], false),
            (Version::HTTP_11, &["a:65536"], false),
            (Version::HTTP_11, &["a:99999999"], false),
            (Version::HTTP_11, &["a:+80"], false),
            (Version::HTTP_11, &["a:1:2"], false),
            (Version::HTTP_11, &[":80"], false),
            (Version::HTTP_11, &["a%41"], false),
            (Version::HTTP_11, &["::1"], false),
            (Version::HTTP_11, &["[::1"], false),
            (Version::HTTP_11, &["[::1]x"], false),
            (Version::HTTP_11, &["[fe80::1%25eth0]"], false),
            (Version::HTTP_11, &["[a]"], false),
            (Version::HTTP_11, &["a/b"], false),
            (Version::HTTP_11, &["a\"b"], false),
            // HTTP/2 has it in `:authority`, HTTP/1.0 need not have it.
            (Version::HTTP_2, &[], true),
            (Version::HTTP_2, &["a", "b"], false),
            (Version::HTTP_10, &[], true),
        ] {
            let mut request = Request::builder().version(version).uri("/");
            for host in hosts {
                request = request.header(header::HOST, *host);
            }
            assert_eq!(check_host(&request.body(()).unwrap()).is_ok(), passes, "{version:?} {hosts:?}");
        }
    }

    #[test]
    fn a_target_that_names_the_host_is_held_to_the_same() {
        for (target, passes) in
            [("http://a:80/", true), ("http://u@a/", false), ("http://a:99999999/", false), ("/a@b", true)]
        {
            let Ok(request) = Request::get(target).header(header::HOST, "a").body(()) else {
                assert!(!passes, "{target}");
                continue;
            };
            assert_eq!(check_host(&request).is_ok(), passes, "{target}");
        }
    }

    #[test]
    fn lines_are_counted() {
        for (lines, passes) in [(MAX_LINES, true), (MAX_LINES + 1, false)] {
            let mut request = Request::new(());
            for _ in 0..lines {
                request.headers_mut().append("x-a", http::HeaderValue::from_static(""));
            }
            let code = check_lines(&request).err().map(|problem| problem.code);
            assert_eq!(code, (!passes).then_some(Code::HeaderTooLarge), "{lines}");
        }
    }

    #[test]
    fn limits_are_exact() {
        let limits = Config::load(&Sources { flag: &|_| None, env: &|_| None }).unwrap().limits;
        let code = |path: usize, header: usize| {
            let request = Request::builder()
                .uri(format!("/{}?q", "a".repeat(path - 3)))
                .header("x-a", "v".repeat(header - 3 - PER_HEADER))
                .body(())
                .unwrap();
            check(&request, &limits).err().map(|problem| problem.code)
        };
        let (uri, header) = (limits.max_uri_bytes, limits.max_header_bytes);
        assert_eq!(code(uri, header), None);
        assert_eq!(code(uri + 1, 64), Some(Code::UriTooLong));
        assert_eq!(code(64, header + 1), Some(Code::HeaderTooLarge));
    }
}
