use super::*;
use crate::config::{Config, sources::Sources};
use proptest::prelude::*;

fn key(secret: &'static str) -> Key {
    let config = Config::load(&Sources {
        flag: &|_| None,
        env: &|name| (name == "RELAY_BUS_HMAC_KEY").then(|| secret.into()),
    })
    .unwrap();
    Key::derive(config.relays.hmac_key.as_ref().unwrap()).unwrap()
}

fn ours() -> Key {
    key("0123456789abcdef")
}

fn envelope() -> Envelope {
    Envelope {
        from: "a".to_owned(),
        to: "relay-b.1_2".to_owned(),
        at: 1_700_000_000_123,
        nonce: Nonce { life: 0x0102_0304_0506_0708, count: 9 },
        client: ClientInfo {
            addr: "203.0.113.9".parse().unwrap(),
            scheme: Scheme::Https,
            host: Some("relay.example:8443".parse().unwrap()),
            forwarded_for: HeaderValue::from_static("203.0.113.9, 10.0.0.1"),
            from_trusted: false,
            looks_like_forgotten_proxy: false,
        },
        expects: false,
        id: RequestId::from_text("req-1").unwrap(),
    }
}

const TARGET: &str = "/v1/relay/h/x/s/y/a?b=c";

#[test]
fn it_stands_as_it_is_written_down() {
    let header = envelope().seal(&ours(), &Method::GET, TARGET).unwrap();
    let text = header.to_str().unwrap();
    let (fields, signature) = text.split_once(";sig=").unwrap();
    assert_eq!(
        fields,
        "v=1;from=a;to=relay-b.1_2;ts=1700000000123;nonce=AQIDBAUGBwgAAAAAAAAACQ;client=203.0.113.9;\
         for=203.0.113.9, 10.0.0.1;scheme=https;host=cmVsYXkuZXhhbXBsZTo4NDQz;expect=0;id=req-1"
    );
    let expected = ours().sign(&[format!("GET\n{TARGET}\n{fields}").as_bytes()]);
    assert_eq!(B64.decode(signature).unwrap(), expected);
}

#[test]
fn what_was_sealed_is_read_and_what_was_changed_is_not() {
    let no_host = Envelope { client: ClientInfo { host: None, ..envelope().client }, ..envelope() };
    let odd = Envelope {
        client: ClientInfo {
            addr: "2001:db8::1".parse().unwrap(),
            host: Some("a;sig=b;id=c".parse().unwrap()),
            scheme: Scheme::Http,
            ..envelope().client
        },
        expects: true,
        ..envelope()
    };
    for envelope in [envelope(), no_host, odd] {
        let header = envelope.seal(&ours(), &Method::POST, TARGET).unwrap();
        assert_eq!(Envelope::open(&header, &ours(), &Method::POST, TARGET), Ok(envelope));
        for (method, target) in
            [(Method::PUT, TARGET), (Method::POST, "/v1/relay/h/x/s/y/a?b=d"), (Method::POST, "")]
        {
            assert_eq!(Envelope::open(&header, &ours(), &method, target), Err(Fault::Forged), "{target}");
        }
        let other = key("0123456789abcdeg");
        assert_eq!(Envelope::open(&header, &other, &Method::POST, TARGET), Err(Fault::Forged));
    }
}

#[test]
fn what_is_signed_and_no_envelope_is_malformed() {
    let good = envelope().seal(&ours(), &Method::GET, TARGET).unwrap();
    let (good, _) = good.to_str().unwrap().split_once(";sig=").unwrap();
    for (from, to) in [
        ("v=1", "v=2"),
        ("from=a;", ""),
        ("from=a;to=relay-b.1_2", "to=relay-b.1_2;from=a"),
        ("ts=1700000000123", "ts=-1"),
        ("ts=1700000000123", "ts=99999999999999999999"),
        ("nonce=AQIDBAUGBwgAAAAAAAAACQ", "nonce=AQIDBAUGBwgAAAAAAAAA"),
        ("client=203.0.113.9", "client=203.0.113"),
        ("scheme=https", "scheme=wss"),
        ("host=cmVsYXkuZXhhbXBsZTo4NDQz", "host=***"),
        ("host=cmVsYXkuZXhhbXBsZTo4NDQz", "host=YSBi"),
        ("expect=0", "expect=2"),
        ("id=req-1", "id=two words"),
        ("id=req-1", "id=req-1;more=1"),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        let signature = ours().sign(&signed(&Method::GET, TARGET, &text));
        let header = HeaderValue::try_from(format!("{text};sig={}", B64.encode(signature))).unwrap();
        assert_eq!(Envelope::open(&header, &ours(), &Method::GET, TARGET), Err(Fault::Malformed), "{to}");
    }
}

proptest! {
    #[test]
    fn nobody_without_the_key_gets_in(text in "[ -~]{0,200}", at in 0usize..400, byte in 0x20u8..0x7f) {
        let sealed = envelope().seal(&ours(), &Method::GET, TARGET).unwrap();
        let mut changed = sealed.as_bytes().to_vec();
        let at = at % changed.len();
        changed[at] = byte;
        for bytes in [text.as_bytes(), changed.as_slice()] {
            let header = HeaderValue::from_bytes(bytes).unwrap();
            let opened = Envelope::open(&header, &ours(), &Method::GET, TARGET);
            prop_assert!(opened.is_err() || bytes == sealed.as_bytes(), "{:?}", header);
        }
    }
}

#[test]
fn too_long_is_not_looked_at() {
    let header = HeaderValue::try_from("x".repeat(MAX_LEN + 1)).unwrap();
    assert_eq!(Envelope::open(&header, &ours(), &Method::GET, TARGET), Err(Fault::Malformed));
}
