//! What is asked of a browser's offer before the engine gets to see it (PROTOCOL.md section 6). Pure.
//!
//! The offer comes from a paired browser, inside a protected exchange. What is checked is that it asks for
//! a data channel and nothing else, and that it stays within bounds: every candidate in it is an address
//! that the agent sends packets to.

/// Bytes of an offer or an answer.
pub const MAX_SDP: usize = 48 * 1024;
/// Lines; an offer with fifty candidates has seventy.
const MAX_LINES: usize = 512;
/// Candidates: a browser on a machine with many interfaces finds twenty or thirty.
const MAX_CANDIDATES: usize = 64;

/// What is wrong with an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// More than [`MAX_SDP`].
    #[error("an SDP has at most {MAX_SDP} bytes")]
    TooLong,
    /// More lines or candidates than an offer has.
    #[error("the SDP has too many lines or candidates")]
    TooMany,
    /// Not lines of `letter=value`.
    #[error("the SDP cannot be read")]
    Malformed,
    /// Something else than one section for data channels.
    #[error("the SDP must have one media section, for data channels over UDP")]
    Media,
    /// Nothing says who the other end is.
    #[error("the SDP must have a SHA-256 fingerprint")]
    Fingerprint,
    /// No ICE credentials.
    #[error("the SDP must have ICE credentials")]
    Credentials,
}

/// Checks an offer.
///
/// # Errors
/// See [`SdpError`].
pub fn check(sdp: &str) -> Result<(), SdpError> {
    if sdp.len() > MAX_SDP {
        return Err(SdpError::TooLong);
    }
    if !sdp.starts_with("v=0") || sdp.bytes().any(|b| (b < 0x20 && b != b'\r' && b != b'\n') || b == 0x7f) {
        return Err(SdpError::Malformed);
    }
    let (mut lines, mut candidates, mut media) = (0, 0, 0);
    let (mut fingerprint, mut ufrag, mut pwd) = (false, false, false);
    for line in sdp.lines() {
        lines += 1;
        let mut chars = line.chars();
        if !chars.next().is_some_and(|c| c.is_ascii_lowercase()) || chars.next() != Some('=') {
            return Err(SdpError::Malformed);
        }
        if let Some(section) = line.strip_prefix("m=") {
            media += 1;
            let mut words = section.split(' ');
            let data = words.next() == Some("application")
                && words.next().is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
                && words.next() == Some("UDP/DTLS/SCTP")
                && words.next() == Some("webrtc-datachannel")
                && words.next().is_none();
            if !data {
                return Err(SdpError::Media);
            }
        }
        candidates += usize::from(line.starts_with("a=candidate:"));
        fingerprint |=
            line.get(..22).is_some_and(|start| start.eq_ignore_ascii_case("a=fingerprint:sha-256 "));
        ufrag |= line.starts_with("a=ice-ufrag:");
        pwd |= line.starts_with("a=ice-pwd:");
        if lines > MAX_LINES || candidates > MAX_CANDIDATES {
            return Err(SdpError::TooMany);
        }
    }
    match (media, fingerprint, ufrag && pwd) {
        (1, true, true) => Ok(()),
        (1, false, _) => Err(SdpError::Fingerprint),
        (1, true, false) => Err(SdpError::Credentials),
        _ => Err(SdpError::Media),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\n\
        a=ice-pwd:0123456789abcdef0123456789\r\na=fingerprint:sha-256 AA:BB\r\na=setup:actpass\r\na=mid:0\r\n\
        a=sctp-port:5000\r\n";

    #[test]
    fn an_offer_is_for_one_data_channel_and_within_bounds() {
        let candidate = "a=candidate:1 1 udp 1 192.0.2.1 5 typ host\r\n";
        let audio = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n";
        for (what, sdp, expected) in [
            ("a browser's", OFFER.to_owned(), Ok(())),
            ("with newlines alone", OFFER.replace("\r\n", "\n"), Ok(())),
            ("many candidates", OFFER.to_owned() + &candidate.repeat(MAX_CANDIDATES), Ok(())),
            ("too many", OFFER.to_owned() + &candidate.repeat(MAX_CANDIDATES + 1), Err(SdpError::TooMany)),
            ("lines", OFFER.to_owned() + &"a=x\r\n".repeat(MAX_LINES), Err(SdpError::TooMany)),
            ("long", OFFER.to_owned() + &"a=".repeat(MAX_SDP / 2), Err(SdpError::TooLong)),
            ("sound", OFFER.to_owned() + audio, Err(SdpError::Media)),
            ("two of them", OFFER.to_owned() + OFFER.get(48..).unwrap(), Err(SdpError::Media)),
            ("over TCP", OFFER.replace("UDP/", "TCP/"), Err(SdpError::Media)),
            ("rejected", OFFER.replace(" 9 ", " 0 "), Err(SdpError::Media)),
            (
                "old",
                OFFER.replace("UDP/DTLS/SCTP webrtc-datachannel", "DTLS/SCTP 5000"),
                Err(SdpError::Media),
            ),
            ("nobody", OFFER.replace("sha-256", "sha-1"), Err(SdpError::Fingerprint)),
            ("no password", OFFER.replace("ice-pwd", "ice-x"), Err(SdpError::Credentials)),
            ("empty", String::new(), Err(SdpError::Malformed)),
            ("no SDP", "GET / HTTP/1.1\r\n\r\n".to_owned(), Err(SdpError::Malformed)),
            ("control characters", OFFER.replace("s=-", "s=\0"), Err(SdpError::Malformed)),
            ("no lines", "v=0 nothing".to_owned(), Err(SdpError::Media)),
            ("a gap", OFFER.replace("t=0", "\r\nt=0"), Err(SdpError::Malformed)),
        ] {
            assert_eq!(check(&sdp), expected, "{what}");
        }
    }
}
