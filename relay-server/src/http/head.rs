//! Whether the head of a request is small enough to be looked at.

use http::Request;
use relay_protocol::problem::{Code, Problem};

use crate::config::Limits;

/// What a header costs besides its name and value: `": "` and the end of its line.
const PER_HEADER: usize = 4;

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
