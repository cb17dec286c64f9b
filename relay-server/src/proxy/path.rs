//! Where a proxied request goes: pure, and strict.
//!
//! `/v1/relay/h/<host>/s/<session>` must match to the letter; what follows is the local server's and is
//! not read, let alone normalised: `%2F`, `//` and `..` pass as they came.

use http::uri::PathAndQuery;
use uuid::Uuid;

/// What every proxied path begins with.
pub const PREFIX: &str = "/v1/relay/h/";
const SESSION: &str = "/s/";
/// A hyphenated UUID.
const ID: usize = 36;

/// A proxied request's target, taken apart.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Target<'a> {
    /// The host that the path names.
    pub host: Uuid,
    /// The browser session that the path names.
    pub session: Uuid,
    /// The prefix as the caller wrote it, session included, without a slash at its end.
    pub prefix: &'a str,
    /// What follows the prefix, query included: empty, or starting with `/` or `?`.
    pub rest: &'a str,
}

impl Target<'_> {
    /// The path and query as the local server gets it.
    pub fn local(&self) -> Option<PathAndQuery> {
        match self.rest.as_bytes().first() {
            Some(b'/') => PathAndQuery::try_from(self.rest).ok(),
            _ => PathAndQuery::try_from(format!("/{}", self.rest)).ok(),
        }
    }

    /// The prefix without the session id: what a local server may know.
    pub fn public_prefix(&self) -> &str {
        self.prefix.get(..PREFIX.len() + ID).unwrap_or_default()
    }

    /// Whether a relative link on the page would leave the session: nothing follows the session id.
    pub fn lacks_slash(&self) -> bool {
        !self.rest.starts_with('/')
    }
}

/// Takes a path and query apart. `None` is an unknown path: there is no fall-through.
pub fn split(path_and_query: &str) -> Option<Target<'_>> {
    let after = path_and_query.strip_prefix(PREFIX)?;
    let (host, after) = (id(after.get(..ID)?)?, after.get(ID..)?);
    let after = after.strip_prefix(SESSION)?;
    let (session, rest) = (id(after.get(..ID)?)?, after.get(ID..)?);
    if !matches!(rest.as_bytes().first(), None | Some(b'/' | b'?')) {
        return None;
    }
    let prefix = path_and_query.get(..path_and_query.len() - rest.len())?;
    Some(Target { host, session, prefix, rest })
}

/// An id as it stands in paths, in either case. Hyphenated only: the other spellings that a parser may take
/// are no ids of ours.
pub fn id(text: &str) -> Option<Uuid> {
    let hyphens = [8, 13, 18, 23].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
    if text.len() == ID && hyphens { Uuid::try_parse(text).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: &str = "0d1f0c57-3b4e-4a7f-9e38-0a4b4c5d6e7f";
    const S: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

    #[test]
    fn what_follows_the_prefix_passes_byte_for_byte() {
        for (rest, local) in [
            ("", "/"),
            ("/", "/"),
            ("?a=1", "/?a=1"),
            ("/index.html?q=%20&r", "/index.html?q=%20&r"),
            ("//double//", "//double//"),
            ("/a%2Fb/%2e%2e/../c", "/a%2Fb/%2e%2e/../c"),
            ("/v1/relay/h/x", "/v1/relay/h/x"),
        ] {
            let path = format!("{PREFIX}{H}/s/{S}{rest}");
            let target = split(&path).unwrap();
            assert_eq!(target.local().unwrap().as_str(), local, "{path}");
            assert_eq!((target.host.to_string(), target.session.to_string()), (H.into(), S.into()));
            assert_eq!(target.prefix, format!("{PREFIX}{H}/s/{S}"));
            assert_eq!(target.public_prefix(), format!("{PREFIX}{H}"));
        }
    }

    #[test]
    fn upper_case_ids_are_the_same_ids() {
        let path = format!("{PREFIX}{}/s/{}/x", H.to_uppercase(), S.to_uppercase());
        let target = split(&path).unwrap();
        assert_eq!((target.host.to_string(), target.session.to_string()), (H.into(), S.into()));
    }

    #[test]
    fn anything_else_is_no_proxied_path() {
        for path in [
            "/".to_owned(),
            PREFIX.to_owned(),
            format!("{PREFIX}{H}"),
            format!("{PREFIX}{H}/s"),
            format!("{PREFIX}{H}/s/"),
            format!("{PREFIX}{H}/S/{S}/"),
            format!("{PREFIX}{H}/s/{S}x"),
            format!("{PREFIX}{H}/s/{S}%2Fx"),
            format!("{PREFIX}{H}//s/{S}/x"),
            format!("/{PREFIX}{H}/s/{S}/x"),
            format!("/v1/relay/H/{H}/s/{S}/x"),
            format!("{PREFIX}{H}x/s/{S}/x"),
            format!("{PREFIX}{}/s/{S}/x", H.replace('-', "")),
            format!("{PREFIX}{{{H}}}/s/{S}/x"),
            format!("{PREFIX}urn:uuid:{H}/s/{S}/x"),
            format!("{PREFIX}{}ü/s/{S}/x", &H[..35]),
            format!("{PREFIX}{H}/s/{}z/", &S[..35]),
        ] {
            assert_eq!(split(&path), None, "{path}");
        }
    }
}
