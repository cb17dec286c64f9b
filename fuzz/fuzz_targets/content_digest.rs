//! `Content-Digest`, first line, and a body, the rest: an answer and no panic, the same however the body is
//! cut; what is produced for the body is accepted for it, and for no longer one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_protocol::signature::digest::ContentDigest;

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (field, body) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let check = |digest: ContentDigest, pieces: &[&[u8]]| {
        let mut verifier = digest.verifier();
        pieces.iter().for_each(|piece| verifier.update(piece));
        verifier.finish().is_ok()
    };
    if let Ok(digest) = ContentDigest::parse(field) {
        let (first, second) = body.split_at(body.len() / 3);
        assert_eq!(check(digest, &[body]), check(digest, &[first, second]));
    }
    let own =
        ContentDigest::parse(ContentDigest::field_sha256(body).as_bytes()).expect("what is produced is read");
    assert!(check(own, &[body]));
    assert!(!check(own, &[body, b"x"]));
});
