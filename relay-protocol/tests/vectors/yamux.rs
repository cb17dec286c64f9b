//! The scripted yamux session, read back with the codec.

use crate::{list, load, text, unhex};
use bytes::BytesMut;
use serde_json::Value;
use tokio_util::codec::Decoder;
use tokio_yamux::frame::{Flag, Flags, Frame, FrameCodec, Type};

fn payload(value: &Value) -> Vec<u8> {
    match value.get("fill_hex") {
        Some(fill) => unhex(fill).repeat(usize::try_from(value["count"].as_u64().unwrap()).unwrap()),
        None => unhex(&value["hex"]),
    }
}

fn bytes(frame: &Value) -> Vec<u8> {
    let mut bytes = unhex(&frame["header_hex"]);
    if let Some(body) = frame.get("payload") {
        bytes.extend(payload(body));
    }
    bytes
}

fn codec() -> FrameCodec {
    FrameCodec::default().max_frame_size(512 * 1024)
}

fn flags(names: &Value) -> Flags {
    let mut flags = Flags::default();
    for name in names.as_array().unwrap() {
        flags.add(match text(name) {
            "syn" => Flag::Syn,
            "ack" => Flag::Ack,
            "fin" => Flag::Fin,
            "rst" => Flag::Rst,
            other => panic!("{other}"),
        });
    }
    flags
}

#[test]
fn every_frame_says_what_its_header_says() {
    let file = load("yamux.json");
    for step in list(&file["session"]).iter().chain(list(&file["crowded"])) {
        for frame in step["frames"].as_array().unwrap() {
            let mut line = BytesMut::from(&bytes(frame)[..]);
            let decoded: Frame = codec().decode(&mut line).unwrap().unwrap();
            assert!(line.is_empty());
            let ty = match text(&frame["type"]) {
                "data" => Type::Data,
                "window_update" => Type::WindowUpdate,
                "ping" => Type::Ping,
                "go_away" => Type::GoAway,
                other => panic!("{other}"),
            };
            assert_eq!(decoded.ty(), ty, "{step}");
            assert_eq!(decoded.flags(), flags(&frame["flags"]), "{step}");
            assert_eq!(u64::from(decoded.stream_id()), frame["stream_id"].as_u64().unwrap(), "{step}");
            assert_eq!(u64::from(decoded.length()), frame["length"].as_u64().unwrap(), "{step}");
            if let (_, Some(body)) = decoded.into_parts() {
                assert!(body.len() <= 32 * 1024, "a frame of ours has at most 32 KiB");
                assert_eq!(body, payload(&frame["payload"]));
            }
        }
    }
}

#[test]
fn what_is_no_frame_is_refused() {
    for case in list(&load("yamux.json")["refused"]) {
        let mut line = BytesMut::from(&unhex(&case["header_hex"])[..]);
        assert!(codec().decode(&mut line).is_err(), "{case}");
    }
}
