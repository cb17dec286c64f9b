//! Signature fields and signed queries: an answer and no panic; what was understood is written in the one
//! form that reads the same; nothing verifies that nobody signed.
//!
//! Three lines: the value of `Signature-Input`, that of `Signature`, a query.
#![no_main]

use http::{HeaderMap, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use relay_protocol::{
    keys::BrowserSigningKey,
    signature::{
        input::{Parsed, SIGNATURE, SIGNATURE_INPUT, parse_input},
        request::{MAX_COMPONENTS, Parts, Signed},
        split_query,
    },
};

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [SIGNATURE_INPUT, SIGNATURE] {
        if let Ok(value) = HeaderValue::from_bytes(lines.next().unwrap_or_default()) {
            headers.insert(name, value);
        }
    }
    if let Ok(Some(Parsed { input, .. })) = Parsed::from_headers(&headers, "relay") {
        let again = format!("relay={}", input.as_str());
        assert_eq!(parse_input(again.as_bytes(), "relay"), Ok(Some(input)));
    }
    if let Ok(Some(signed)) = Signed::from_headers(&headers) {
        refused(&signed, None, &headers);
    }
    let Ok(query) = std::str::from_utf8(lines.next().unwrap_or_default()) else { return };
    match split_query(query) {
        Ok((rest, Some(signed))) => refused(&signed, rest, &headers),
        Ok((rest, None)) => assert_eq!(rest, Some(query)),
        Err(_) => {}
    }
});

/// A signature of this protocol, but of no key.
fn refused(signed: &Signed, query: Option<&str>, headers: &HeaderMap) {
    assert!(!signed.key_id().is_empty());
    let parts = Parts { method: &Method::GET, path: "/", query, headers, has_body: false };
    let Ok(covered) = signed.cover(&parts) else { return };
    let key = BrowserSigningKey::from_seed(&[7; 32]).verifying_key();
    assert!(covered.verify(&parts, &key).is_err(), "at most {MAX_COMPONENTS} components");
}
