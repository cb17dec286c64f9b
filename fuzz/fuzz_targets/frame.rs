//! Frames of `/ws` and paths of workers: an answer and no panic; what passes is JSON that another parser reads in
//! the same way, and what lies below a prefix does so for a URL parser too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_server::frames::frame::{Frame, MAX_CHANNEL, MAX_ID, is_channel};
use relay_server::frames::transport::lies_below;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(frame) = Frame::parse(text) {
        let tree: Value = serde_json::from_str(text).expect("what passes is JSON");
        let says = |key: &str, read: &str| assert_eq!(tree[key].as_str(), Some(read));
        let id = |key: &str, id: &str| {
            assert!((1..=MAX_ID).contains(&id.len()));
            says(key, id);
        };
        let channel = |name: &str| {
            assert!(name.len() <= MAX_CHANNEL && is_channel(name));
            says("channel", name);
        };
        match &frame {
            Frame::Envelope { session, .. } | Frame::KeyUpdate { session } => id("sessionId", session),
            Frame::KeyResponse { request, session, .. } => {
                id("requestId", request);
                id("sessionId", session);
            }
            Frame::KeyInit { request, .. }
            | Frame::PairingRequest { request, .. }
            | Frame::PairingResponse { request, .. }
            | Frame::TransportResponse { request } => id("requestId", request),
            Frame::Subscription { request, channel: name, .. } => {
                if let Some(request) = request {
                    id("requestId", request);
                }
                channel(name);
            }
            Frame::SessionEvent { channel: name } => channel(name),
            Frame::TransportRequest { request, path } => {
                id("requestId", request);
                says("path", path);
            }
        }
    }
    if lies_below(text, "/jobs") {
        assert!(text.starts_with('/') && !text.starts_with("//"));
    }
});
