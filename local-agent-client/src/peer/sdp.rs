//! What is asked of a browser's offer before the engine gets to see it, and what the engine gets to see of it
//! (PROTOCOL.md section 6). Pure.
//!
//! The offer comes from a paired browser, inside a protected exchange. What is checked is that it asks for
//! a data channel and nothing else, and that it stays within bounds: every candidate in it is an address
//! that the agent sends packets to. What the engine would read otherwise than it is meant is put right here,
//! or refused.

use std::net::IpAddr;

/// Bytes of an offer or an answer.
pub const MAX_SDP: usize = 48 * 1024;
/// Bytes of one message of the channel, in either direction.
pub const MAX_MESSAGE: usize = 65_536;
/// Lines; an offer with fifty candidates has seventy.
const MAX_LINES: usize = 512;
/// Candidates: a browser on a machine with many interfaces finds twenty or thirty.
const MAX_CANDIDATES: usize = 64;
/// Candidates that are used: each is checked from each of the agent's addresses.
const USED: usize = 16;
/// Those of them that are kept for what leads further than the browser's own network, if there are so many.
const USED_FAR: usize = 8;
/// Bytes of a SHA-256.
const HASH: usize = 32;

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
    /// Nothing says who the other end is, or two things do: the engine would look at the first alone.
    #[error("the SDP must have one SHA-256 fingerprint")]
    Fingerprint,
    /// No ICE credentials.
    #[error("the SDP must have ICE credentials")]
    Credentials,
    /// Not an IP address (or a `.local` name) and a port.
    #[error("a candidate of the SDP cannot be read")]
    Candidate,
    /// No port of SCTP.
    #[error("the SDP has no valid sctp-port")]
    Port,
    /// The browser takes less than the agent may send.
    #[error("the SDP's max-message-size must be 0 or at least {MAX_MESSAGE}")]
    Message,
    /// The agent is the server of DTLS.
    #[error("the SDP must let the agent be passive (a=setup:actpass or active)")]
    Setup,
}

/// Checks an offer, and gives what the engine is to see of it: without the candidates that are no use, and with
/// no bound on messages. A message over the bound has to be seen to end the peer, which the engine would drop.
///
/// # Errors
/// See [`SdpError`].
pub fn offered(sdp: &str) -> Result<String, SdpError> {
    if sdp.len() > MAX_SDP {
        return Err(SdpError::TooLong);
    }
    if !sdp.starts_with("v=0") || sdp.bytes().any(|b| (b < 0x20 && b != b'\r' && b != b'\n') || b == 0x7f) {
        return Err(SdpError::Malformed);
    }
    let (mut lines, mut candidates, mut media) = (0, 0, 0);
    let (mut hash, mut ufrag, mut pwd) = (None, false, false);
    let mut seen = String::with_capacity(sdp.len());
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for line in sdp.lines() {
        lines += 1;
        let mut chars = line.chars();
        if !chars.next().is_some_and(|c| c.is_ascii_lowercase()) || chars.next() != Some('=') {
            return Err(SdpError::Malformed);
        }
        if let Some(section) = line.strip_prefix("m=") {
            media += 1;
            is_data(section)?;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        match name {
            "a=candidate" => {
                candidates += 1;
                match candidate(value)? {
                    Some(Reach::Near) => near.push(line),
                    Some(Reach::Far) => far.push(line),
                    None => {}
                }
            }
            "a=fingerprint" => {
                // Of other hashes the engine would take the first, whatever it is.
                let Some(found) = sha256(value)? else { continue };
                if hash.get_or_insert_with(|| found.clone()) != &found {
                    return Err(SdpError::Fingerprint);
                }
                add(&mut seen, &format!("a=fingerprint:sha-256 {found}"));
            }
            "a=max-message-size" => match value.parse::<u64>() {
                Ok(size) if size == 0 || size >= MAX_MESSAGE as u64 => {}
                _ => return Err(SdpError::Message),
            },
            "a=sctp-port" if value.parse::<u16>().is_ok_and(|port| port > 0) => add(&mut seen, line),
            "a=sctp-port" => return Err(SdpError::Port),
            "a=setup" if value == "actpass" || value == "active" => add(&mut seen, line),
            "a=setup" => return Err(SdpError::Setup),
            _ => add(&mut seen, line),
        }
        ufrag |= name == "a=ice-ufrag";
        pwd |= name == "a=ice-pwd";
        if lines > MAX_LINES || candidates > MAX_CANDIDATES {
            return Err(SdpError::TooMany);
        }
    }
    match (media, hash.is_some(), ufrag && pwd) {
        (1, true, true) => {}
        (1, false, _) => return Err(SdpError::Fingerprint),
        (1, true, false) => return Err(SdpError::Credentials),
        _ => return Err(SdpError::Media),
    }
    let kept = far.len().min(USED_FAR.max(USED.saturating_sub(near.len())));
    near.truncate(USED - kept);
    far.truncate(kept);
    near.iter().chain(&far).for_each(|line| add(&mut seen, line));
    add(&mut seen, "a=max-message-size:0");
    Ok(seen)
}

/// The engine's answer with the bound that holds.
pub fn answered(sdp: &str) -> String {
    let mut told = String::with_capacity(sdp.len());
    for line in sdp.lines() {
        if line.starts_with("a=max-message-size:") {
            add(&mut told, &format!("a=max-message-size:{MAX_MESSAGE}"));
        } else {
            add(&mut told, line);
        }
    }
    told
}

fn add(sdp: &mut String, line: &str) {
    sdp.push_str(line);
    sdp.push_str("\r\n");
}

fn is_data(section: &str) -> Result<(), SdpError> {
    let mut words = section.split(' ');
    let data = words.next() == Some("application")
        && words.next().is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
        && words.next() == Some("UDP/DTLS/SCTP")
        && words.next() == Some("webrtc-datachannel")
        && words.next().is_none();
    if data { Ok(()) } else { Err(SdpError::Media) }
}

/// A SHA-256 in capitals (RFC 8122 section 5), or `None` for other hashes.
fn sha256(fingerprint: &str) -> Result<Option<String>, SdpError> {
    let (hash, value) = fingerprint.split_once(' ').ok_or(SdpError::Fingerprint)?;
    if !hash.eq_ignore_ascii_case("sha-256") {
        return Ok(None);
    }
    let is_byte = |byte: &str| byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
    if value.split(':').count() != HASH || !value.split(':').all(is_byte) {
        return Err(SdpError::Fingerprint);
    }
    Ok(Some(value.to_ascii_uppercase()))
}

/// Where a candidate leads.
#[derive(Debug, PartialEq, Eq)]
enum Reach {
    /// To an address of the browser's machine.
    Near,
    /// To its router, or to a relay.
    Far,
}

/// What a candidate (RFC 8839 section 5.1) is good for: `None` for what is not sent to. Names are not looked up,
/// and only those of mDNS are names that browsers give.
fn candidate(value: &str) -> Result<Option<Reach>, SdpError> {
    let mut words = value.split(' ').skip(2);
    let transport = words.next().ok_or(SdpError::Candidate)?;
    let address = words.nth(1).ok_or(SdpError::Candidate)?;
    let port = words.next().and_then(|port| port.parse::<u16>().ok()).ok_or(SdpError::Candidate)?;
    let kind = words.nth(1).ok_or(SdpError::Candidate)?;
    if address.ends_with(".local") {
        return Ok(None);
    }
    let ip = address.parse::<IpAddr>().map_err(|_| SdpError::Candidate)?;
    if !transport.eq_ignore_ascii_case("udp") || port == 0 || !is_one_machine(ip) {
        return Ok(None);
    }
    Ok(Some(if kind == "host" { Reach::Near } else { Reach::Far }))
}

/// Whether packets to it reach one machine at the most.
fn is_one_machine(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => !ip.is_broadcast() && !ip.is_multicast() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:\
        01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF";
    const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\n\
        a=ice-pwd:0123456789abcdef0123456789\r\na=fingerprint:sha-256 01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:\
        01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF\r\na=setup:actpass\r\na=mid:0\r\n\
        a=sctp-port:5000\r\n";

    #[test]
    fn an_offer_is_for_one_data_channel_and_within_bounds() {
        let candidate = "a=candidate:1 1 udp 1 192.0.2.1 5 typ host\r\n";
        let fingerprint = |hash: &str| format!("a=fingerprint:sha-256 {hash}\r\n");
        let other = HASH.replace("01", "02");
        let audio = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n";
        for (what, sdp, expected) in [
            ("a browser's", OFFER.to_owned(), Ok(())),
            ("with newlines alone", OFFER.replace("\r\n", "\n"), Ok(())),
            ("many candidates", OFFER.to_owned() + &candidate.repeat(MAX_CANDIDATES), Ok(())),
            ("too many", OFFER.to_owned() + &candidate.repeat(MAX_CANDIDATES + 1), Err(SdpError::TooMany)),
            ("lines", OFFER.to_owned() + &"a=x\r\n".repeat(MAX_LINES), Err(SdpError::TooMany)),
            ("long", OFFER.to_owned() + &"a=".repeat(MAX_SDP / 2), Err(SdpError::TooLong)),
            ("sound", OFFER.to_owned() + audio, Err(SdpError::Media)),
            (
                "two of them",
                OFFER.to_owned() + OFFER.get(OFFER.find("m=").unwrap()..).unwrap(),
                Err(SdpError::Media),
            ),
            ("over TCP", OFFER.replace("UDP/", "TCP/"), Err(SdpError::Media)),
            ("rejected", OFFER.replace(" 9 ", " 0 "), Err(SdpError::Media)),
            (
                "old",
                OFFER.replace("UDP/DTLS/SCTP webrtc-datachannel", "DTLS/SCTP 5000"),
                Err(SdpError::Media),
            ),
            ("nobody", OFFER.replace("sha-256", "sha-1"), Err(SdpError::Fingerprint)),
            ("two fingerprints", OFFER.to_owned() + &fingerprint(&other), Err(SdpError::Fingerprint)),
            ("the same twice", OFFER.to_owned() + &fingerprint(&HASH.to_lowercase()), Ok(())),
            (
                "a short fingerprint",
                OFFER.replace("01:23:45:67:89:AB:CD:EF:01", "01"),
                Err(SdpError::Fingerprint),
            ),
            ("no fingerprint", OFFER.replace("EF\r", "EG\r"), Err(SdpError::Fingerprint)),
            ("nothing of one", OFFER.to_owned() + "a=fingerprint:\r\n", Err(SdpError::Fingerprint)),
            ("no port", OFFER.replace(":5000", ":0"), Err(SdpError::Port)),
            ("a large port", OFFER.replace(":5000", ":65536"), Err(SdpError::Port)),
            ("a word for a port", OFFER.replace(":5000", ":"), Err(SdpError::Port)),
            ("small messages", OFFER.to_owned() + "a=max-message-size:65535\r\n", Err(SdpError::Message)),
            ("a word for a size", OFFER.to_owned() + "a=max-message-size:big\r\n", Err(SdpError::Message)),
            ("large messages", OFFER.to_owned() + "a=max-message-size:1073741823\r\n", Ok(())),
            ("any messages", OFFER.to_owned() + "a=max-message-size:0\r\n", Ok(())),
            ("passive itself", OFFER.replace("actpass", "passive"), Err(SdpError::Setup)),
            ("no role", OFFER.replace("actpass", "x"), Err(SdpError::Setup)),
            (
                "no candidate",
                OFFER.to_owned() + "a=candidate:1 1 udp 1 192.0.2.1\r\n",
                Err(SdpError::Candidate),
            ),
            (
                "a name",
                OFFER.to_owned() + &candidate.replace("192.0.2.1", "a.example"),
                Err(SdpError::Candidate),
            ),
            (
                "a large port in a candidate",
                OFFER.to_owned() + &candidate.replace(" 5 ", " 65536 "),
                Err(SdpError::Candidate),
            ),
            ("no password", OFFER.replace("ice-pwd", "ice-x"), Err(SdpError::Credentials)),
            ("empty", String::new(), Err(SdpError::Malformed)),
            ("no SDP", "GET / HTTP/1.1\r\n\r\n".to_owned(), Err(SdpError::Malformed)),
            ("control characters", OFFER.replace("s=-", "s=\0"), Err(SdpError::Malformed)),
            ("no lines", "v=0 nothing".to_owned(), Err(SdpError::Media)),
            ("a gap", OFFER.replace("t=0", "\r\nt=0"), Err(SdpError::Malformed)),
        ] {
            assert_eq!(offered(&sdp).map(drop), expected, "{what}");
        }
    }

    fn candidates(sdp: &str) -> Vec<&str> {
        sdp.lines().filter(|line| line.starts_with("a=candidate:")).collect()
    }

    #[test]
    fn only_what_reaches_one_machine_is_sent_to() {
        for (address, port, transport, used) in [
            ("192.0.2.1", 5, "udp", true),
            ("192.0.2.1", 5, "UDP", true),
            ("127.0.0.1", 5, "udp", true),
            ("2001:db8::1", 5, "udp", true),
            ("192.0.2.1", 0, "udp", false),
            ("192.0.2.1", 9, "tcp", false),
            ("255.255.255.255", 5, "udp", false),
            ("224.0.0.251", 5, "udp", false),
            ("0.0.0.0", 5, "udp", false),
            ("::", 5, "udp", false),
            ("ff02::1", 5, "udp", false),
            ("::ffff:224.0.0.251", 5, "udp", false),
            ("4f0c1a3e-0000-4000-8000-000000000000.local", 5, "udp", false),
        ] {
            let line = format!("a=candidate:1 1 {transport} 1 {address} {port} typ host");
            let seen = offered(&format!("{OFFER}{line}\r\n")).unwrap();
            assert_eq!(candidates(&seen), if used { vec![line.as_str()] } else { vec![] }, "{line}");
        }
    }

    #[test]
    fn of_many_candidates_some_of_each_kind_are_used() {
        let of = |kind: &str, count: usize| -> String {
            (1..=count).map(|n| format!("a=candidate:1 1 udp 1 192.0.2.{n} 5 typ {kind}\r\n")).collect()
        };
        for (hosts, relays, expected) in
            [(3, 2, (3, 2)), (16, 0, (16, 0)), (30, 30, (8, 8)), (30, 2, (14, 2)), (2, 30, (2, 14))]
        {
            let seen = offered(&format!("{OFFER}{}{}", of("host", hosts), of("relay", relays))).unwrap();
            let kinds = |kind: &str| candidates(&seen).iter().filter(|line| line.ends_with(kind)).count();
            assert_eq!((kinds("host"), kinds("relay")), expected, "{hosts} {relays}");
        }
    }

    #[test]
    fn the_engine_sees_one_fingerprint_and_no_bound_on_messages() {
        let others = "a=fingerprint:sha-512 AA\r\na=fingerprint:sha-384 BB\r\n";
        let offer =
            OFFER.replace("a=fingerprint", &format!("{others}a=fingerprint")).replace("sha-256", "SHA-256");
        let seen = offered(&(offer + "a=max-message-size:65536\r\n")).unwrap();
        let of = |name: &str| -> Vec<&str> { seen.lines().filter(|line| line.starts_with(name)).collect() };
        assert_eq!(of("a=fingerprint"), [format!("a=fingerprint:sha-256 {HASH}")]);
        assert_eq!(of("a=max-message-size"), ["a=max-message-size:0"]);
        let told = answered("v=0\r\na=max-message-size:1114112\r\na=mid:0\r\n");
        assert_eq!(told, "v=0\r\na=max-message-size:65536\r\na=mid:0\r\n");
    }
}
