use super::*;
use crate::config::sources::Sources;
use crate::forward::envelope::Nonce;
use crate::http::client_addr::Scheme;

const TARGET: &str = "/v1/relay/h/x/s/y/a?b=c";
const SECRET: &str = "0123456789abcdef";

fn config(key: Option<&'static str>) -> Config {
    Config::load(&Sources {
        flag: &|_| None,
        env: &|name| key.filter(|_| name == "RELAY_BUS_HMAC_KEY").map(Into::into),
    })
    .unwrap()
}

fn door(key: Option<&'static str>) -> Door {
    Door::new(&config(key), "b")
}

fn envelope(at: u64, count: u64) -> Envelope {
    Envelope {
        from: "a".to_owned(),
        to: "b".to_owned(),
        at,
        nonce: Nonce { life: 1, count },
        client: ClientInfo {
            addr: "203.0.113.9".parse().unwrap(),
            scheme: Scheme::Https,
            host: Some("relay.example".parse().unwrap()),
            forwarded_for: HeaderValue::from_static("203.0.113.9"),
            from_trusted: false,
            looks_like_forgotten_proxy: false,
        },
        expects: false,
        id: RequestId::from_text("req-1").unwrap(),
    }
}

fn request(envelope: &Envelope, target: &str) -> Request<()> {
    let key = Key::derive(config(Some(SECRET)).relays.hmac_key.as_ref().unwrap()).unwrap();
    let header = envelope.seal(&key, &http::Method::GET, target).unwrap();
    Request::get(target).header(FORWARDED, header).header("expect", "100-continue").body(()).unwrap()
}

#[test]
fn a_good_one_tells_who_calls_and_is_taken_out() {
    let door = door(Some(SECRET));
    let mut plain = Request::get(TARGET).body(()).unwrap();
    assert!(door.take(&mut plain).unwrap().is_none());
    for expects in [false, true] {
        let sent = Envelope { expects, ..envelope(unix_ms(), 1 + u64::from(expects)) };
        let mut request = request(&sent, TARGET);
        let arrival = door.take(&mut request).unwrap().unwrap();
        assert_eq!((arrival.client, arrival.id.as_str()), (sent.client, "req-1"));
        assert!(!request.headers().contains_key(FORWARDED));
        assert_eq!(request.headers().contains_key("expect"), expects, "only the caller's own goes on");
    }
}

#[test]
fn whom_and_when_it_is_for() {
    let door = door(Some(SECRET));
    let start = door.started;
    let minute = start + 60_000;
    // signed at, arrived at, what is changed, the fault
    type Case = (u64, u64, fn(&mut Envelope), Option<Fault>);
    let cases: &[Case] = &[
        (minute, minute, |_| {}, None),
        (minute, minute + 15_000, |_| {}, None),
        (minute, minute + 15_001, |_| {}, Some(Fault::Stale)),
        (minute, minute - 15_000, |_| {}, None),
        (minute, minute - 15_001, |_| {}, Some(Fault::Stale)),
        (start, start, |_| {}, None),
        (start - 1, start, |_| {}, Some(Fault::Stale)),
        (minute, minute, |e| e.to = "c".to_owned(), Some(Fault::Misdirected)),
        (minute, minute, |e| e.from = "b".to_owned(), Some(Fault::Misdirected)),
        (minute, minute, |e| e.nonce.count = 1, Some(Fault::Replayed)),
    ];
    for (count, (at, now, change, fault)) in cases.iter().enumerate() {
        let mut sent = envelope(*at, count as u64 + 1);
        change(&mut sent);
        let checked = door.check(&request(&sent, TARGET), *now);
        assert_eq!(checked.err(), *fault, "case {count}");
    }
}

#[test]
fn what_is_refused_before_it_is_read() {
    let now = unix_ms();
    let door_with = door(Some(SECRET));
    let good = || request(&envelope(now.max(door_with.started), 1), TARGET);
    let twice = {
        let mut request = good();
        let value = request.headers()[FORWARDED].clone();
        request.headers_mut().append(FORWARDED, value);
        request
    };
    let elsewhere = request(&envelope(now.max(door_with.started), 2), "/v1/relay/hosts");
    let unsigned = Request::get(TARGET).header(FORWARDED, "v=1;from=a;to=b").body(()).unwrap();
    let other_target = {
        let mut request = good();
        *request.uri_mut() = "/v1/relay/h/x/s/z/a?b=c".parse().unwrap();
        request
    };
    for (request, fault) in [
        (twice, Fault::Malformed),
        (elsewhere, Fault::Unwanted),
        (unsigned, Fault::Malformed),
        (other_target, Fault::Forged),
    ] {
        assert_eq!(door_with.check(&request, now).err(), Some(fault));
    }
    assert_eq!(door(None).check(&good(), now).err(), Some(Fault::Unwanted), "a relay that is alone");
    assert_eq!(door(Some("another-key-than-ours")).check(&good(), now).err(), Some(Fault::Forged));
    assert!(door_with.take(&mut good()).is_ok(), "none of them used up the good one");
}

#[test]
fn the_word_on_an_answer_is_the_relays_own() {
    for (left, word) in [(None, "answered"), (Some(Word::Moved), "moved"), (Some(Word::Refused), "refused")] {
        let mut response = Response::new(());
        response.headers_mut().insert(FORWARDED, HeaderValue::from_static("moved"));
        response.headers_mut().append(FORWARDED, HeaderValue::from_static("refused"));
        left.map(|word| response.extensions_mut().insert(word));
        mark(&mut response);
        let values: Vec<_> = response.headers().get_all(FORWARDED).iter().collect();
        assert_eq!(values, [word]);
        assert_eq!(Word::read(word.as_bytes()).map(Word::as_str), Some(word));
    }
    assert_eq!(Word::read(b"moved, answered"), None);
}
