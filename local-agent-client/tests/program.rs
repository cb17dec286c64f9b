//! The program as people start it.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

fn program(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local-agent-client"));
    command.env_clear().env("RELAY_AGENT_STATE_DIR", state).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn status(state: &Path, args: &[&str]) -> Output {
    program(state).arg("status").args(args).output().unwrap()
}

/// An agent whose relay is not there, started and past its first attempt.
fn start(state: &Path) -> (Child, BufReader<std::process::ChildStderr>, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut child = program(state)
        .args(["run", "--relay", &relay, "--to", "http://127.0.0.1:9", "--log-format", "json"])
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

#[test]
fn pairing_is_refused_with_a_word_about_it() {
    let dir = tempfile::tempdir().unwrap();
    let output = program(dir.path())
        .args(["run", "--relay", "http://127.0.0.1:9", "--to", "http://127.0.0.1:9", "--trust", "paired"])
        .env("RELAY_TOKEN", "t")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("pairing is not in this version"));
}
