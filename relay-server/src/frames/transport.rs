//! Requests that workers send through a daemon: refused, unless they lie below the prefix that the operator chose.

use serde::Serialize;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// Whether the path lies below the prefix, however it is written.
///
/// The daemon reads the path again with a decoder of its own. So what two decoders read differently (a second
/// layer of escapes, backslashes, empty segments, control characters, parameters behind a `;`, which servlets take
/// off before they read the dots, and dots that are more than two) lies below nothing.
pub fn lies_below(path: &str, prefix: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let Some(path) = decode(path) else { return false };
    if path.contains(['%', '\\', '?', '#', ';']) || path.chars().any(char::is_control) {
        return false;
    }
    let Some(rest) = path.strip_prefix('/') else { return false };
    let mut normal: Vec<&str> = Vec::new();
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => drop(normal.pop()),
            "" if segments.peek().is_some() => return false,
            _ if segment.starts_with('.') => return false,
            "" => {}
            _ => normal.push(segment),
        }
    }
    let mut normal = normal.into_iter();
    prefix.split('/').filter(|part| !part.is_empty()).all(|part| normal.next() == Some(part))
}

/// Resolves escapes once. `None` for what is no escape, no UTF-8 behind it, or a slash, of which some decoders
/// make a new segment and some do not.
fn decode(path: &str) -> Option<String> {
    let mut bytes = path.bytes();
    let mut plain = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let byte = u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?;
                (byte != b'/').then_some(byte)?
            }
            byte => byte,
        });
    }
    String::from_utf8(plain).ok()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Refused<'a> {
    r#type: &'static str,
    request_id: &'a str,
    status: u16,
    code: &'static str,
    message: &'static str,
}

/// What a worker is answered whose request may not pass.
pub fn refused(request: &str) -> Utf8Bytes {
    let answer = Refused {
        r#type: "relay_transport_response",
        request_id: request,
        status: 403,
        code: "WORKER_TRANSPORT_DISABLED",
        message: "This relay passes no such request of a worker.",
    };
    // Texts and a number alone always become JSON.
    serde_json::to_string(&answer).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_below_a_prefix() {
        for (path, below) in [
            ("/jobs", true),
            ("/jobs/", true),
            ("/jobs/1?a=/../x", true),
            ("/jobs/1#/../../x", true),
            ("/jobs/./1", true),
            ("/jobs/1/../2", true),
            ("/other/../jobs/1", true),
            ("/%6Aobs/1", true),
            ("/jobs/%7Euser", true),
            ("/jobsx", false),
            ("/job", false),
            ("/", false),
            ("", false),
            ("jobs/1", false),
            ("/jobs/..", false),
            ("/jobs/../x", false),
            ("/jobs/%2e%2E/x", false),
            ("/jobs/%2e./x", false),
            ("/jobs%2f..%2fx", false),
            ("/jobs%2F", false),
            ("/jobs/a%2fb", false),
            ("/jobs/%252e%252e/x", false),
            ("/jobs/..\\x", false),
            ("/jobs/%5c..", false),
            ("/jobs/..;/x", false),
            ("/jobs/..;a=b/x", false),
            ("/jobs/.;/x", false),
            ("/jobs/1;v=2", false),
            ("/jobs/%3b", false),
            ("/jobs/.../x", false),
            ("/jobs/.. /x", false),
            ("/jobs/.hidden", false),
            ("/jobs/a.b..", true),
            ("/jobs//../x", false),
            ("/jobs//1", false),
            ("//jobs/1", false),
            ("//host/jobs/1", false),
            ("http://host/jobs/1", false),
            ("/jobs/%", false),
            ("/jobs/%4", false),
            ("/jobs/%zz", false),
            ("/jobs/%ff", false),
            ("/jobs/%00", false),
            ("/jobs/\n", false),
            ("/jobs/%3f", false),
            ("/Jobs/1", false),
        ] {
            assert_eq!(lies_below(path, "/jobs"), below, "{path}");
        }
        assert!(lies_below("/a/b/c", "/a/b") && !lies_below("/a/c", "/a/b") && !lies_below("/a", "/a/b"));
    }

    #[test]
    fn a_refusal_names_the_request() {
        let answer: serde_json::Value = serde_json::from_str(&refused("r\"1")).unwrap();
        assert_eq!(answer["type"], "relay_transport_response");
        assert_eq!(answer["requestId"], "r\"1");
        assert_eq!(answer["status"], 403);
        assert_eq!(answer["code"], "WORKER_TRANSPORT_DISABLED");
        assert!(answer["message"].is_string());
    }

    proptest! {
        #[test]
        fn what_lies_below_does_so_for_a_url_parser_too(path in "/(jobs|\\.\\.|%2e|\\.|/|%2f|a|\\\\|%5c|%25|[a-z%./]){0,12}") {
            if lies_below(&path, "/jobs") {
                let url = url::Url::parse("http://h/").unwrap().join(&path).unwrap();
                prop_assert_eq!(url.host_str(), Some("h"));
                prop_assert!(url.path() == "/jobs" || url.path().starts_with("/jobs/") || url.path().starts_with("/%6"), "{}", url);
            }
        }
    }
}
