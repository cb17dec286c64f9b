//! Which paths are the agent's own (PROTOCOL.md section 3): `/_relay` and all below it is never
//! forwarded.
//!
//! The caller may be lying in the spelling: a local server that decodes or normalises more than it
//! should could read `/x/..%2f_relay` as `/_relay`. So the exact spelling is matched first, on the bytes as they
//! came; every other spelling that some server might read so is refused. Only the decision looks at a
//! decoded path; what is forwarded stays byte for byte.

use relay_protocol::AGENT_PREFIX;

/// Rounds of percent-decoding that are looked through: one more than servers are known to do by mistake.
const DECODE_ROUNDS: usize = 3;

/// Whose path it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The local server's: forwarded untouched.
    Local,
    /// The agent's, spelled as it should be.
    Agent,
    /// Some servers would read it as the agent's. Nobody gets it.
    Disguised,
}

/// Decides by the path as it stands in the request target, without its query.
pub fn owner(path: &str) -> Owner {
    match path.strip_prefix(AGENT_PREFIX) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => return Owner::Agent,
        _ => {}
    }
    // Nearly every path: nothing to decode, and the name is nowhere in it. Decided without a copy.
    if !path.contains('%') && !names_agent(path.as_bytes()) {
        return Owner::Local;
    }
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..=DECODE_ROUNDS {
        if normalises_to_agent(&bytes) {
            return Owner::Disguised;
        }
        let decoded = decode_once(&bytes);
        if decoded == bytes {
            return Owner::Local;
        }
        bytes = decoded;
    }
    // Encoded deeper than anything honest is. Harmless unless the name is in it.
    if names_agent(&bytes) { Owner::Disguised } else { Owner::Local }
}

/// Whether the prefix's name is anywhere in it, in any case.
fn names_agent(path: &[u8]) -> bool {
    let name = AGENT_PREFIX.trim_start_matches('/').as_bytes();
    path.windows(name.len()).any(|window| window.eq_ignore_ascii_case(name))
}

/// Whether the path's first segment is the agent's once empty and dot segments, backslashes, path
/// parameters and case are treated as the most lenient server would.
fn normalises_to_agent(path: &[u8]) -> bool {
    let name = AGENT_PREFIX.trim_start_matches('/').as_bytes();
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.split(|b| matches!(b, b'/' | b'\\')) {
        // `/_relay;a=b` and `/_relay\0` are cut by servers that know parameters or C strings.
        let segment = segment.split(|b| matches!(b, b';' | b'\0' | b'?' | b'#')).next().unwrap_or_default();
        match segment.trim_ascii() {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    segments.first().is_some_and(|first| first.eq_ignore_ascii_case(name))
}

fn decode_once(path: &[u8]) -> Vec<u8> {
    let hex = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%'
            && let [high, low, tail @ ..] = after
            && let (Some(high), Some(low)) = (hex(high), hex(low))
        {
            decoded.push(high << 4 | low);
            rest = tail;
        } else {
            decoded.push(*first);
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::{Owner::*, *};

    #[test]
    fn the_agents_paths_are_told_in_every_spelling() {
        for (path, expected) in [
            ("/", Local),
            ("/index.html", Local),
            ("/_relayed", Local),
            ("/_relay.js", Local),
            ("/a/_relay", Local),
            ("/a/_relay/pairing", Local),
            ("//a//b", Local),
            ("/a%2Fb", Local),
            ("/100%", Local),
            ("/%zz", Local),
            ("/a/../b", Local),
            ("/_relax/../b", Local),
            ("/%255f%2525", Local),
            ("/%252525252541", Local),
            ("/_relay", Agent),
            ("/_relay/", Agent),
            ("/_relay/pairing/start", Agent),
            ("/_relay/../x", Agent),
            ("//_relay", Disguised),
            ("/./_relay/x", Disguised),
            ("/a/../_relay", Disguised),
            ("/../_relay", Disguised),
            ("/a/..//_relay/", Disguised),
            ("/%5frelay", Disguised),
            ("/%5Frelay/pairing", Disguised),
            ("/_rela%79", Disguised),
            ("/_relay%2Fpairing", Disguised),
            ("/%2F_relay", Disguised),
            ("/%2e/_relay", Disguised),
            ("/a/%2e%2e/_relay", Disguised),
            ("/a%2f..%2f_relay", Disguised),
            ("/%255frelay", Disguised),
            ("/%25255frelay", Disguised),
            ("/%2525255frelay", Disguised),
            ("/_RELAY/x", Disguised),
            ("/a/../_Relay", Disguised),
            ("/A_RELAY", Local),
            ("/_relay;v=1/x", Disguised),
            ("/_relay%00", Disguised),
            ("/_relay%3fx", Disguised),
            ("/\\_relay", Disguised),
            ("/a\\..\\_relay", Disguised),
            ("/_relay%20", Disguised),
        ] {
            assert_eq!(owner(path), expected, "{path}");
        }
    }

    proptest::proptest! {
        /// Whatever is called the local server's does not decode to the agent's prefix at the front.
        #[test]
        fn nothing_local_decodes_to_the_prefix(path in "/[a-z_%0-9./\\\\]{0,12}(_|%5f|%255F)relay[/a-z]{0,4}") {
            if owner(&path) == Local {
                let once = decode_once(path.as_bytes());
                proptest::prop_assert!(!once.starts_with(b"/_relay/") && once != b"/_relay");
            }
        }
    }
}
