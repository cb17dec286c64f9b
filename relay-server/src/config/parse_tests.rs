//! Tables for the values of settings.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn durations_and_sizes() {
    let durations: &[(&str, Option<u64>)] = &[
        ("500ms", Some(500)),
        ("10s", Some(10_000)),
        ("5m", Some(300_000)),
        ("24h", Some(86_400_000)),
        ("365d", Some(31_536_000_000)),
        ("0s", Some(0)),
        ("10", None),
        ("", None),
        ("s", None),
        ("-1s", None),
        ("+1s", None),
        ("1.5s", None),
        ("1 s", None),
        ("10S", None),
        ("99999999999999999999s", None),
        ("18446744073709551615d", None),
        ("1ß", None),
    ];
    for (text, expected) in durations {
        assert_eq!(duration(text), *expected, "{text}");
    }
    let sizes: &[(&str, Option<u64>)] = &[
        ("123", Some(123)),
        ("64KiB", Some(65536)),
        ("1MiB", Some(1 << 20)),
        ("2GiB", Some(2 << 30)),
        ("7B", Some(7)),
        ("64KB", None),
        ("64k", None),
        ("", None),
        ("18446744073709551615GiB", None),
    ];
    for (text, expected) in sizes {
        assert_eq!(size(text), *expected, "{text}");
    }
}

#[test]
fn bounds_hold_and_are_told() {
    let kind = Kind::Size { min: 256 << 10, max: 16 << 20 };
    assert_eq!(kind.number("256KiB"), Some(256 << 10));
    assert_eq!(kind.number("16MiB"), Some(16 << 20));
    assert_eq!(kind.number("262143"), None);
    assert_eq!(kind.number("16777217"), None);
    assert_eq!(kind.expects(), "a size such as `64KiB`, `1MiB` or `4096`, from 256KiB to 16MiB");
    assert_eq!(
        Kind::Duration { min: 100, max: 300_000 }.expects(),
        "a duration such as `500ms`, `10s`, `5m`, `24h` or `7d`, from 100ms to 5m"
    );
    assert_eq!(Kind::Text.number("1"), None);
}

#[test]
fn listen_addresses() {
    let cases: &[(&str, Option<(&str, u16)>)] = &[
        ("0.0.0.0:8082", Some(("0.0.0.0", 8082))),
        ("[::]:80", Some(("::", 80))),
        ("localhost:0", Some(("localhost", 0))),
        ("::1:80", None),
        (":8082", None),
        ("8082", None),
        ("host:", None),
        ("host:65536", None),
        ("host:+1", None),
        ("http://host:80", None),
    ];
    for (text, expected) in cases {
        let got = listen(text);
        assert_eq!(got.as_ref().map(|l| (l.host.as_str(), l.port)), *expected, "{text}");
        if let Some(listen) = got {
            assert_eq!(listen.to_string(), *text);
        }
    }
}

#[test]
fn databases() {
    let sqlite = |path: &str| Some(Database::Sqlite(PathBuf::from(path)));
    let cases = [
        ("postgres://u:p@db/app", Some(Database::Postgres)),
        ("postgresql://db/app?sslmode=require", Some(Database::Postgres)),
        ("sqlite:relay.db", sqlite("relay.db")),
        ("sqlite://relay.db?mode=rwc", sqlite("relay.db")),
        ("sqlite:///var/lib/relay.db", sqlite("/var/lib/relay.db")),
        ("sqlite::memory:", None),
        ("sqlite:", None),
        ("sqlite:a.db?mode=memory", None),
        ("mysql://db/app", None),
        ("postgres://[", None),
        ("relay.db", None),
    ];
    for (text, expected) in cases {
        assert_eq!(database(text), expected, "{text}");
    }
}

#[test]
fn origins_are_exact_and_in_the_form_of_browsers() {
    let cases: &[(&str, Option<&[&str]>)] = &[
        ("https://app.example.com", Some(&["https://app.example.com"])),
        (
            "https://APP.example.com:443/, http://localhost:3000",
            Some(&["https://app.example.com", "http://localhost:3000"]),
        ),
        ("", Some(&[])),
        (" , ", Some(&[])),
        ("*", None),
        ("https://*.example.com", None),
        ("https://a.example/path", None),
        ("https://user@a.example", None),
        ("https://a.example?x", None),
        ("app.example.com", None),
        ("null", None),
        ("file:///x", None),
        ("https://good.example,*", None),
    ];
    for (text, expected) in cases {
        let expected = expected.map(|list| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(list(text, origin), expected, "{text}");
    }
}

#[test]
fn networks_cookies_urls_and_the_rest() {
    assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
    assert_eq!(network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
    assert_eq!(network("fd00::1").unwrap().to_string(), "fd00::1/128");
    assert!(["10.0.0.0/33", "traefik", "10.0.0", "*"].iter().all(|text| network(text).is_none()));

    assert_eq!(cookie_name("sid"), Some(CookieName::Exact("sid".into())));
    assert!(cookie_name("sb-*").unwrap().matches("sb-token"));
    assert!(!cookie_name("sb-*").unwrap().matches("xsb-token"));
    assert!(!cookie_name("sid").unwrap().matches("sid2"));
    assert!(["*", "", "a*b", "a b", "a=b", "a**"].iter().all(|text| cookie_name(text).is_none()));

    assert!(public_url("https://relay.example.com/base").is_some());
    assert!(
        ["ftp://a", "https://a?x", "https://a#x", "https://u@a", "https://u:p@a", "a", "data:x"]
            .iter()
            .all(|text| public_url(text).is_none())
    );

    assert_eq!([flag("true"), flag("0"), flag("yes")], [Some(true), Some(false), None]);
    assert!(Kind::RelayId.check("relay-1.a_B"));
    assert!(!Kind::RelayId.check("a b") && !Kind::RelayId.check("") && !Kind::RelayId.check(&"a".repeat(65)));
    assert!(Kind::LogFilter.check("warn,relay_server=debug") && !Kind::LogFilter.check("relay=loud"));
    assert!(Kind::Choice(&["text", "json"]).check("json") && !Kind::Choice(&["text", "json"]).check("xml"));
}
