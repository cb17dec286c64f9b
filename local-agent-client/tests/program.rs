//! The program as people start it.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use local_agent_client::{
    state::StateDir,
    trust::{NewBrowser, Pairing},
};
use relay_protocol::{
    keys::{BrowserDhKey, BrowserSigningKey},
    pairing::{ClientInfo, Psk},
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio},
};

fn browser(number: u8) -> NewBrowser {
    NewBrowser {
        client: ClientInfo {
            id: uuid::Uuid::from_u128(number.into()),
            name: format!("browser {number}"),
            browser: "Firefox".to_owned(),
            os: "Linux".to_owned(),
            device: String::new(),
        },
        ed25519: BrowserSigningKey::from_seed(&[number; 32]).verifying_key(),
        x25519: BrowserDhKey::from_bytes(&[number; 32]).public_key(),
        psk: Psk::from_bytes(&[number; 32]),
    }
}

fn program(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local-agent-client"));
    command.env_clear().env("RELAY_AGENT_STATE_DIR", state).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn status(state: &Path, args: &[&str]) -> Output {
    program(state).arg("status").args(args).output().unwrap()
}

/// An agent whose relay is not there, started and past its first attempt.
fn start(state: &Path) -> (Child, BufReader<ChildStderr>, String) {
    start_at(state, &closed_port())
}

/// A relay's URL where nobody listens.
fn closed_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn start_at(state: &Path, relay: &str) -> (Child, BufReader<ChildStderr>, String) {
    let mut child = program(state)
        .args(["run", "--relay", relay, "--to", "http://127.0.0.1:9", "--log-format", "json"])
        .env("RELAY_TOKEN", "very-secret-token")
        .env("RUST_LOG", "debug")
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("retry_in") {
        assert!(log.read_line(&mut text).unwrap() > 0, "ended: {text}");
    }
    (child, log, text)
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn an_agent_without_a_relay_keeps_trying_tells_its_status_and_ends_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let output = status(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("no agent runs"));

    let (mut child, mut log, mut text) = start(dir.path());
    // The status follows within a second.
    let json = loop {
        let output = status(dir.path(), &["--json"]);
        assert_eq!(output.status.code(), Some(1));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        if json["last_error"].is_object() {
            break json;
        }
    };
    assert_eq!((&json["running"], &json["connected"]), (&true.into(), &false.into()));
    assert_eq!(json["pid"], child.id());
    assert!(json["last_error"]["message"].as_str().unwrap().contains("cannot be reached"), "{json}");

    // A second agent does not share the folder.
    let second = program(dir.path())
        .args(["run", "--relay", "http://127.0.0.1:9", "--to", "http://127.0.0.1:9"])
        .env("RELAY_TOKEN", "t")
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another agent runs"));

    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    log.read_to_string(&mut text).unwrap();
    assert!(!text.contains("very-secret-token"), "{text}");
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect(line);
    }
    assert_eq!(status(dir.path(), &["--json"]).status.code(), Some(1));
}

/// The first lines that a command prints; it goes on.
fn lines(child: &mut Child, count: usize) -> (Vec<String>, BufReader<ChildStdout>) {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let lines = (0..count).map(|_| {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    });
    (lines.collect(), out)
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn pair_shows_its_code_first_and_tells_how_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let output = program(dir.path()).arg("pair").output().unwrap();
    let (code, _, stderr) = text(&output);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no agent runs with the state folder"), "{stderr}");

    let (mut agent, _log, _) = start(dir.path());
    let output = program(dir.path()).arg("pair").output().unwrap();
    assert!(text(&output).2.contains("wait until the agent is connected"), "{output:?}");
    assert_eq!(output.status.code(), Some(1));
    signal(&agent, "TERM");
    agent.wait().unwrap();

    // What the relay told at an earlier connection.
    let relay = closed_port();
    let host = "00000000-0000-4000-8000-00000000000a";
    std::fs::write(dir.path().join("host.json"), format!(r#"{{"relay":"{relay}","host_id":"{host}"}}"#))
        .unwrap();
    let (mut agent, _log, _) = start_at(dir.path(), &relay);
    let mut first = program(dir.path()).args(["pair", "--qr"]).spawn().unwrap();
    let (shown, mut rest) = lines(&mut first, 3);
    let digits = shown[0].strip_prefix("Code: ").unwrap();
    assert!(digits.len() == 7 && digits.chars().all(|c| c.is_ascii_digit() || c == ' '), "{shown:?}");
    assert!(shown[1].contains("min") || shown[1].contains(" s "), "{shown:?}");
    assert!(shown[2].contains(&format!("{relay}/#/pair/{host}")), "{shown:?}");

    // Another one takes its place.
    let mut second = program(dir.path()).args(["pair", "--json"]).spawn().unwrap();
    let (shown, _out) = lines(&mut second, 1);
    let event: serde_json::Value = serde_json::from_str(&shown[0]).unwrap();
    assert_eq!((event["event"].as_str(), event["code"].as_str().map(str::len)), (Some("code"), Some(6)));
    assert!(!event["link"].as_str().unwrap().contains(event["code"].as_str().unwrap()));
    assert_eq!(first.wait().unwrap().code(), Some(1));
    let mut told = String::new();
    rest.read_to_string(&mut told).unwrap();
    assert!(told.contains('\u{2588}') && told.contains("replaced"), "{told}");

    // Interrupting voids the code: the agent's status says so as soon as it knows.
    signal(&second, "INT");
    assert_eq!(second.wait().unwrap().code(), Some(130));
    loop {
        let (_, json, _) = text(&status(dir.path(), &["--json"]));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        if json["code_outstanding"] == false {
            assert_eq!(json["failed_guesses"]["count"], 0);
            break;
        }
    }
    let (code, page, _) = text(&program(dir.path()).arg("page").output().unwrap());
    assert_eq!(code, Some(0));
    assert!(page.starts_with("http://127.0.0.1:") && page.contains("/#"), "{page}");
    signal(&agent, "TERM");
    assert_eq!(agent.wait().unwrap().code(), Some(0));
    assert!(!dir.path().join("control.json").exists());
}

#[test]
fn browsers_are_managed_with_and_without_a_running_agent() {
    let dir = tempfile::tempdir().unwrap();
    let browsers = |args: &[&str]| text(&program(dir.path()).arg("browsers").args(args).output().unwrap());
    assert_eq!(
        browsers(&["list", "--json"]).1.parse::<serde_json::Value>().unwrap()["browsers"],
        serde_json::json!([])
    );
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "looking makes nothing");
    let ids = {
        let state = std::sync::Arc::new(StateDir::open(dir.path()).unwrap());
        let pairing = Pairing::open(String::new(), Some(state)).unwrap();
        [1, 2].map(|number| pairing.browsers().add(browser(number), 1_700_000_000).unwrap().id.to_string())
    };

    // Nobody runs.
    let (code, out, _) = browsers(&["list"]);
    assert_eq!(code, Some(0));
    assert!(out.contains(&ids[0]) && out.contains("browser 2") && out.contains("fingerprint"), "{out}");
    assert_eq!(browsers(&["rename", &ids[0], "offline"]).0, Some(0));
    // A name that is none, and a browser that is none.
    let (code, _, error) = browsers(&["rename", &ids[0], ""]);
    assert!(code == Some(1) && error.contains("1 to 100"), "{error}");
    let (code, _, error) = browsers(&["revoke", "00000000-0000-4000-8000-000000000000"]);
    assert!(code == Some(1) && error.contains("no paired browser"), "{error}");

    // An agent runs: it knows at once.
    let (mut agent, _log, _) = start(dir.path());
    let json = browsers(&["rename", &ids[0], "online", "--json"]).1;
    assert_eq!(json.parse::<serde_json::Value>().unwrap()["name"], "online");
    assert_eq!(browsers(&["revoke", &ids[1]]).0, Some(0));
    let (code, _, error) = browsers(&["revoke", &ids[1]]);
    assert!(code == Some(1) && error.contains("no paired browser"), "{error}");
    let listed = browsers(&["list", "--json"]).1.parse::<serde_json::Value>().unwrap();
    assert_eq!(listed["browsers"].as_array().unwrap().len(), 1);
    assert_eq!(listed["browsers"][0]["name"], "online");
    signal(&agent, "TERM");
    agent.wait().unwrap();

    // And it is kept. A damaged list stops the agent, and is left as it is.
    assert_eq!(browsers(&["list", "--json"]).1.parse::<serde_json::Value>().unwrap(), listed);
    std::fs::write(dir.path().join("browsers.json"), "{").unwrap();
    let refused = program(dir.path())
        .args(["run", "--relay", "http://127.0.0.1:9", "--to", "http://127.0.0.1:9"])
        .env("RELAY_TOKEN", "t")
        .output()
        .unwrap();
    let (code, _, error) = text(&refused);
    assert!(code == Some(1) && error.contains("browsers.json") && error.contains("backup"), "{error}");
    assert_eq!(std::fs::read_to_string(dir.path().join("browsers.json")).unwrap(), "{");
    assert_eq!(browsers(&["list"]).0, Some(1));
}

#[test]
fn control_can_be_turned_off() {
    let dir = tempfile::tempdir().unwrap();
    let output = program(dir.path())
        .args([
            "run",
            "--relay",
            "http://127.0.0.1:9",
            "--to",
            "http://127.0.0.1:9",
            "--control",
            "0.0.0.0:0",
        ])
        .env("RELAY_TOKEN", "t")
        .output()
        .unwrap();
    assert!(text(&output).2.contains("loopback"), "{output:?}");
    let mut child = program(dir.path())
        .args(["run", "--relay", &closed_port(), "--to", "http://127.0.0.1:9", "--control", "off"])
        .env("RELAY_TOKEN", "t")
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut told = String::new();
    while !told.contains("retry_in") {
        assert!(log.read_line(&mut told).unwrap() > 0, "{told}");
    }
    let (code, _, error) = text(&program(dir.path()).arg("pair").output().unwrap());
    assert!(code == Some(1) && error.contains("without local control"), "{error}");
    signal(&child, "TERM");
    child.wait().unwrap();
}

/// Answers one connection after another, each by the next of `answers`; gives the heads and bodies.
fn relay(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (socket, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(socket);
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let mut line = String::new();
                assert!(reader.read_line(&mut line).unwrap() > 0);
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
                head += &line;
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            asked.push(head + &String::from_utf8(body).unwrap());
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
        }
        asked
    });
    (url, thread)
}

fn answer(status: u16, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

#[test]
fn who_signed_in_needs_no_token_and_no_url() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("new");
    let (url, thread) = relay(vec![
        answer(
            200,
            r#"{"device_code":"d","user_code":"BCDF-GHJK","verification_uri":"http://r/device","expires_in":60,"interval":1}"#,
        ),
        answer(
            200,
            r#"{"access_token":"granted-token","token_type":"Bearer","expires_in":3600,"refresh_token":"r"}"#,
        ),
        answer(401, ""),
        answer(400, r#"{"error":"invalid_grant"}"#),
        answer(204, ""),
    ]);
    let output = program(&state).args(["login", &url, "--name", "my box"]).output().unwrap();
    let (code, out, error) = text(&output);
    assert_eq!(code, Some(0), "{out}{error}");
    assert!(
        out.contains("Open http://r/device") && out.contains("BCDF-GHJK") && out.contains("Signed in at"),
        "{out}"
    );
    assert!(!out.contains("granted-token"));
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("token.json"), mode("")), (0o600, 0o700));

    let mut child = program(&state).args(["run", "--to", "http://127.0.0.1:9"]).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut told = String::new();
    while !told.contains("retry_in") {
        assert!(log.read_line(&mut told).unwrap() > 0, "{told}");
    }
    assert!(told.contains("login") && !told.contains("granted-token"), "{told}");
    signal(&child, "TERM");
    child.wait().unwrap();
    let (code, out, _) = text(&program(&state).arg("logout").output().unwrap());
    assert!(code == Some(0) && out.contains("Signed out"), "{out}");
    assert!(!state.join("token.json").exists());
    let (code, out, _) = text(&program(&state).arg("logout").output().unwrap());
    assert!(code == Some(0) && out.contains("nobody"), "{out}");

    let asked = thread.join().unwrap();
    assert!(asked[0].ends_with("client_id=local-agent-client&name=my+box"), "{}", asked[0]);
    assert!(asked[2].starts_with("GET /v1/relay/connect?"), "{}", asked[2]);
    for which in [2, 4] {
        assert!(asked[which].contains("authorization: Bearer granted-token\r\n"), "{}", asked[which]);
    }
    assert!(asked[3].contains("grant_type=refresh_token"), "{}", asked[3]);
    assert!(asked[4].starts_with("POST /v1/auth/logout "), "{}", asked[4]);
    let (code, _, error) =
        text(&program(&state).args(["run", "--to", "http://127.0.0.1:9"]).output().unwrap());
    assert!(code == Some(1) && error.contains("login URL"), "{error}");
}

#[test]
fn a_sign_in_that_is_denied_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (url, thread) = relay(vec![
        answer(
            200,
            r#"{"device_code":"d","user_code":"B","verification_uri":"http://r/","expires_in":60,"interval":1}"#,
        ),
        answer(400, r#"{"error":"access_denied"}"#),
    ]);
    let (code, _, error) = text(&program(dir.path()).args(["login", &url]).output().unwrap());
    assert!(code == Some(1) && error.contains("denied"), "{error}");
    assert!(!dir.path().join("token.json").exists());
    thread.join().unwrap();
}
