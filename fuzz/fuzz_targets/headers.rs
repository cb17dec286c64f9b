//! The header policy, header fields one in each line: whatever comes in, nothing of the relay's own goes
//! to a local server, and nothing that rules the relay's origin goes to a browser.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use relay_server::proxy::{headers, path};

const TARGET: &str =
    "/v1/relay/h/0d1f0c57-3b4e-4a7f-9e38-0a4b4c5d6e7f/s/7c9e6679-7425-40de-944b-e07fc1f90ae7/page";
const SESSION: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
const HOST: &str = "relay.example";

fuzz_target!(|data: &[u8]| {
    let given = parse(data);
    let target = path::split(TARGET).expect("the target is one");
    request(given.clone(), target);
    response(given, target);
});

fn parse(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// The relay's own cookies have names that are text; others are somebody else's.
fn own_cookie(pair: &[u8]) -> bool {
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
    let Ok(name) = std::str::from_utf8(name) else { return false };
    ["relay_", "__Host-relay_", "__Secure-relay_"].iter().any(|own| name.starts_with(own))
}

fn request(mut headers: HeaderMap, target: path::Target<'_>) {
    let known = headers::Request {
        forwarded_for: HeaderValue::from_static("192.0.2.1"),
        scheme: "https",
        host: None,
        target,
        request_id: HeaderValue::from_static("r"),
    };
    headers::request(&mut headers, known, |token| token == "own", |name| name == "private");
    for name in [
        "connection",
        "transfer-encoding",
        "upgrade",
        "te",
        "forwarded",
        "x-real-ip",
        "x-relayed",
        "x-vk-relayed",
    ] {
        assert!(!headers.contains_key(name), "{name}");
    }
    for (name, only) in [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-prefix", target.public_prefix()),
    ] {
        assert!(headers.get_all(name).iter().eq([only]), "{name}");
    }
    for value in headers.get_all(header::AUTHORIZATION) {
        let text = value.as_bytes().trim_ascii().to_ascii_lowercase();
        let own = text.strip_prefix(b"bearer ").is_some_and(|token| token.trim_ascii() == b"own");
        assert!(!own || !value.as_bytes().ends_with(b"own"), "{value:?}");
    }
    for value in headers.get_all(header::COOKIE) {
        for pair in value.as_bytes().split(|byte| *byte == b';') {
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
            assert!(!own_cookie(pair) && name != b"private", "{value:?}");
        }
    }
    for value in headers.values() {
        let text = value.as_bytes().to_ascii_lowercase();
        assert!(!text.windows(SESSION.len()).any(|part| part == SESSION.as_bytes()), "{value:?}");
    }
}

fn response(mut headers: HeaderMap, target: path::Target<'_>) {
    let (prefix, public_prefix) = (target.prefix, target.public_prefix());
    let known = headers::Response { prefix, public_prefix, scheme: "https", host: HOST };
    headers::response(&mut headers, known);
    for name in [
        "strict-transport-security",
        "clear-site-data",
        "service-worker-allowed",
        "alt-svc",
        "transfer-encoding",
    ] {
        assert!(!headers.contains_key(name), "{name}");
    }
    let below = |path: &[u8]| {
        path.strip_prefix(target.prefix.as_bytes())
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'/' | b'?' | b'#')))
    };
    for value in headers.get_all(header::LOCATION).iter().take(1).filter(|value| value.to_str().is_ok()) {
        let bytes = value.as_bytes();
        assert!(!bytes.starts_with(b"/") || bytes.starts_with(b"//") || below(bytes), "{value:?}");
    }
    for value in headers.get_all(header::SET_COOKIE) {
        let mut parts = value.as_bytes().split(|byte| *byte == b';');
        assert!(!own_cookie(parts.next().unwrap_or_default()), "{value:?}");
        for attribute in parts.map(<[u8]>::trim_ascii) {
            let at = attribute.iter().position(|byte| *byte == b'=').unwrap_or(attribute.len());
            let (key, set) = (attribute[..at].trim_ascii(), attribute.get(at + 1..).unwrap_or_default());
            assert!(!key.eq_ignore_ascii_case(b"domain"), "{value:?}");
            assert!(!key.eq_ignore_ascii_case(b"path") || below(set), "{value:?}");
        }
    }
}
