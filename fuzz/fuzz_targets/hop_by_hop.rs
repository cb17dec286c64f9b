//! Header fields, one in each line: after the hop-by-hop rule no field of the connection is left, what
//! frames or addresses the message is untouched, and applying the rule again changes nothing.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use relay_protocol::headers::{restore_hop, strip_hop_by_hop};

const GONE: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "upgrade"];
const KEPT: [&str; 4] = ["host", "content-length", "cookie", "authorization"];

fuzz_target!(|data: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let before = headers.clone();
    let hop = strip_hop_by_hop(&mut headers);
    assert!(GONE.iter().all(|name| !headers.contains_key(*name)));
    for name in KEPT {
        assert!(headers.get_all(name).iter().eq(before.get_all(name).iter()), "{name} changed");
    }
    let once = headers.clone();
    assert_eq!(strip_hop_by_hop(&mut headers), Default::default());
    assert_eq!(headers, once);
    // What is told to the next hop is what it would tell to its next.
    restore_hop(&mut headers, &hop);
    let again = strip_hop_by_hop(&mut headers);
    assert_eq!(again.upgrade, hop.upgrade);
    assert!(hop.upgrade.is_some() || again.trailers == hop.trailers);
});
