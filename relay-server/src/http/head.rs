//! Whether the head of a request is small enough to be looked at.

use http::uri::Authority;
use http::{Request, Version, header};
use relay_protocol::problem::{Code, Problem};

use crate::config::Limits;

/// What a header costs besides its name and value: `": "` and the end of its line.
const PER_HEADER: usize = 4;

/// Refuses a request that does not say for which host it is, or says it twice (RFC 9112 section 3.2): what
/// is in front of the relay may have read another one.
pub fn check_host<B>(request: &Request<B>) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let clear = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => false,
        (Some(host), None) => {
            host.to_str().is_ok_and(|host| host.is_empty() || host.parse::<Authority>().is_ok())
        }
        (None, _) => request.version() != Version::HTTP_11,
    };
    if clear {
        Ok(())
    } else {
        Err(Problem::new(
            Code::BadRequest,
            "The request needs one Host header with a host name, and only one.",
        ))
    }
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
