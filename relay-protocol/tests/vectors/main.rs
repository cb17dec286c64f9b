//! Every golden vector against the library, and the committed files against their generator.
//!
//! The vectors say what must hold in Rust and in TypeScript alike; the tests here read the files, as the
//! other side does, and not the generator's values.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

#[path = "../../examples/vectors/cases/mod.rs"]
mod cases;
mod exchange;
mod pairing;
mod record;
mod sealed;
mod signature;
mod yamux;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}

fn load(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path(name)).unwrap()).unwrap()
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_else(|| panic!("no hex: {value}"));
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    unhex(value).try_into().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// The members of an array; a file without cases would test nothing.
fn list(value: &Value) -> &[Value] {
    let list = value.as_array().unwrap();
    assert!(!list.is_empty());
    list
}

/// Header fields; each byte of a value is one code point.
fn headers(value: &Value) -> HeaderMap {
    let mut map = HeaderMap::new();
    for field in value.as_array().unwrap() {
        let bytes: Vec<u8> = text(&field[1]).chars().map(|c| u8::try_from(c).unwrap()).collect();
        map.append(HeaderName::try_from(text(&field[0])).unwrap(), HeaderValue::from_bytes(&bytes).unwrap());
    }
    map
}

/// What this crate's generator does not write: what others have published, and the bus between relays, whose vectors the
/// relay's own tests check.
const ELSEWHERE: [&str; 2] = ["bus.json", "noise-published.json"];

#[test]
fn what_is_committed_is_what_the_generator_writes() {
    let files = cases::files();
    for (name, value) in &files {
        let text = format!("{}\n", serde_json::to_string_pretty(value).unwrap());
        let committed = std::fs::read_to_string(path(name)).unwrap();
        assert!(committed == text, "{name} differs: cargo run -p relay-protocol --example vectors");
    }
    let mut committed: Vec<String> = std::fs::read_dir(path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut generated: Vec<&str> = files.iter().map(|(name, _)| *name).chain(ELSEWHERE).collect();
    committed.sort();
    generated.sort_unstable();
    assert_eq!(committed, generated);
}
