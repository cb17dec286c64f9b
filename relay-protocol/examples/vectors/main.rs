//! Writes the golden vectors into `vectors/`, the same bytes each time:
//! `cargo run -p relay-protocol --example vectors`. A test checks that what is committed is what this writes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a generator for tests"
)]

mod cases;

fn main() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    for (name, value) in cases::files() {
        let text = format!("{}\n", serde_json::to_string_pretty(&value).unwrap());
        std::fs::write(folder.join(name), text).unwrap();
    }
}
