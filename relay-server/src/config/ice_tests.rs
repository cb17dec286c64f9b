//! Tables of servers, good and bad.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

fn listed_urls(text: &str) -> Vec<(Vec<String>, bool)> {
    servers(text).unwrap().into_iter().map(|server| (server.urls, server.turn)).collect()
}

#[test]
fn urls_are_those_that_browsers_take() {
    use UrlFault::*;
    let cases: &[(&str, Result<UrlKind, UrlFault>)] = &[
        ("stun:stun.example.com", Ok(UrlKind::Stun)),
        ("stun:stun.example.com:3478", Ok(UrlKind::Stun)),
        ("stuns:192.0.2.1:5349", Ok(UrlKind::Stun)),
        ("stun:[2001:db8::1]", Ok(UrlKind::Stun)),
        ("turn:[2001:db8::1]:3478?transport=udp", Ok(UrlKind::Turn)),
        ("turn:turn.example.com", Ok(UrlKind::Turn)),
        ("turns:turn.example.com:443?transport=tcp", Ok(UrlKind::Turn)),
        ("turn:a:65535", Ok(UrlKind::Turn)),
        ("", Err(Scheme)),
        ("stun.example.com:3478", Err(Scheme)),
        ("STUN:a", Err(Scheme)),
        ("http:a", Err(Scheme)),
        ("stun:", Err(Host)),
        ("stun://stun.example.com", Err(Host)),
        ("turn:user@turn.example.com", Err(Host)),
        ("turn:2001:db8::1", Err(Host)),
        ("turn:[2001:db8::1", Err(Host)),
        ("turn:[turn.example", Err(Host)),
        ("turn:a b", Err(Host)),
        ("turn:a/b", Err(Host)),
        ("turn::3478", Err(Host)),
        ("turn:a:", Err(Port)),
        ("turn:a:0", Err(Port)),
        ("turn:a:65536", Err(Port)),
        ("turn:a:+1", Err(Port)),
        ("turn:[::1]:x", Err(Port)),
        ("stun:a?transport=udp", Err(Query)),
        ("turn:a?transport=sctp", Err(Query)),
        ("turn:a?", Err(Query)),
        ("turn:a?transport=udp&x=1", Err(Query)),
    ];
    for (url, expected) in cases {
        assert_eq!(kind(url), *expected, "{url}");
    }
    assert_eq!(kind(&format!("stun:{}", "a".repeat(MAX_URL_BYTES))), Err(Long));
}

#[test]
fn urls_between_commas_make_an_entry_of_a_kind() {
    assert!(listed_urls("").is_empty() && listed_urls(" , ").is_empty());
    assert_eq!(
        listed_urls(" turn:t:1?transport=udp, stun:a ,turn:t:1?transport=tcp,stun:b"),
        [
            (vec!["stun:a".to_owned(), "stun:b".to_owned()], false),
            (vec!["turn:t:1?transport=udp".to_owned(), "turn:t:1?transport=tcp".to_owned()], true),
        ]
    );
    // More of a kind than an entry holds make another one.
    let sizes = |text: &str| listed_urls(text).iter().map(|(urls, _)| urls.len()).collect::<Vec<_>>();
    assert_eq!(sizes(&["stun:a"; 5].join(",")), [4, 1]);
    assert_eq!(sizes(&["stun:a"; 16].join(",")), [4, 4, 4, 4]);
    assert_eq!(servers(&["stun:a"; 17].join(",")).unwrap_err(), ServersError::TooMany);
    assert_eq!(
        servers("stun:a,,nonsense").unwrap_err(),
        ServersError::ListedUrl { url: 2, fault: UrlFault::Scheme }
    );
}

#[test]
fn json_is_what_rtcpeerconnection_takes() {
    let list = servers(
        r#" [{"urls":"stun:a"},{"urls":["turn:t?transport=udp","stun:t"],"username":"u","credential":"hunter2"}] "#,
    )
    .unwrap();
    assert_eq!(
        (&list[0].urls, list[0].turn, list[0].login.is_none()),
        (&vec!["stun:a".to_owned()], false, true)
    );
    assert!(list[1].turn);
    let login = list[1].login.clone().unwrap();
    assert_eq!((login.username.as_str(), login.credential.reveal()), ("u", "hunter2"));
    assert!(!format!("{list:?}").contains("hunter2"));
    assert!(servers("[]").unwrap().is_empty());

    let long = "x".repeat(MAX_LOGIN_BYTES + 1);
    let cases = [
        (r#"{"urls":"stun:a"}"#.to_owned(), "the JSON is no such list (line 1, column 0)"),
        ("[\n{\"urls\":7}]".to_owned(), "the JSON is no such list (line 2, column 10)"),
        (r#"[{"url":"stun:a"}]"#.to_owned(), "the JSON is no such list (line 1, column 7)"),
        (r#"[{"urls":"stun:a"}"#.to_owned(), "the JSON is no such list (line 1, column 18)"),
        (format!("[{}]", [r#"{"urls":"stun:a"}"#; 5].join(",")), "4 servers of 4 URLs are the most"),
        (r#"[{"urls":[]}]"#.to_owned(), "server 1 has to have 1 to 4 URLs"),
        (
            r#"[{"urls":"stun:a"},{"urls":["stun:a","stun:a","stun:a","stun:a","stun:a"]}]"#.to_owned(),
            "server 2 has to have 1 to 4 URLs",
        ),
        (
            r#"[{"urls":["stun:a","turn:t:0"]}]"#.to_owned(),
            "server 1, URL 2: the port has to be a number from 1 to 65535",
        ),
        (
            r#"[{"urls":"turn:t","username":"u"}]"#.to_owned(),
            "server 1: `username` and `credential` belong together, 1 to 508 bytes each",
        ),
        (
            r#"[{"urls":"turn:t","username":"","credential":"hunter2"}]"#.to_owned(),
            "server 1: `username` and `credential` belong together, 1 to 508 bytes each",
        ),
        (
            format!(r#"[{{"urls":"turn:t","username":"u","credential":"{long}"}}]"#),
            "server 1: `username` and `credential` belong together, 1 to 508 bytes each",
        ),
        (
            r#"[{"urls":"stun:t","username":"u","credential":"hunter2"}]"#.to_owned(),
            "server 1 has a login and no TURN URL that would take it",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(servers(&text).unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn every_turn_server_has_exactly_one_way_to_log_in() {
    let with = r#"[{"urls":"stun:a"},{"urls":"turn:t","username":"u","credential":"p"}]"#;
    let cases = [
        ("", false, Ok(())),
        ("stun:a", false, Ok(())),
        ("turn:t", true, Ok(())),
        (with, false, Ok(())),
        ("stun:a,turn:t", false, Err(TurnError::NoLogin)),
        (with, true, Err(TurnError::TwoLogins { server: 2 })),
        ("stun:a", true, Err(TurnError::NoTurn)),
        ("", true, Err(TurnError::NoTurn)),
    ];
    for (text, secret, expected) in cases {
        assert_eq!(check_logins(&servers(text).unwrap(), secret), expected, "{text} {secret}");
    }
}
