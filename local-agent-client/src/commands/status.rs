//! `status`: reads what the running agent wrote of itself.

use super::span;
use local_agent_client::{
    Status, state,
    status::{ConnectionStatus, PeerStatus},
};
use std::{io::Write, path::Path, process::ExitCode};

pub fn run(dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let status = state::read_status(dir)?;
    let mut out = std::io::stdout().lock();
    if json {
        let shown = match &status {
            Some(status) => serde_json::to_value(status).map(|mut value| {
                if let Some(object) = value.as_object_mut() {
                    object.insert("running".to_owned(), true.into());
                }
                value
            })?,
            None => serde_json::json!({ "running": false, "connected": false }),
        };
        writeln!(out, "{shown:#}")?;
    } else {
        match &status {
            Some(status) => write!(out, "{}", describe(status, local_agent_client::status::now()))?,
            None => writeln!(out, "no agent runs with the state folder {}", dir.display())?,
        }
    }
    let connected = status.is_some_and(|status| status.connected);
    Ok(if connected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What goes past the relay, in one line.
fn webrtc(status: &Status) -> String {
    match &status.webrtc {
        None => "off".to_owned(),
        Some(counts) => format!(
            "{} of {} peers open, {} bytes in, {} out",
            counts.open, counts.opened, counts.bytes_received, counts.bytes_sent
        ),
    }
}

fn describe_connection(connection: &ConnectionStatus, now: i64) -> String {
    let relay = connection.relay.as_deref().unwrap_or("no relay yet");
    let id = connection.relay_id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
    let how = match (connection.since, connection.next_retry_at) {
        (Some(since), _) => {
            let rtt = connection.rtt_ms.map(|rtt| format!(", {rtt} ms")).unwrap_or_default();
            format!("up for {}{rtt}", span(now - since))
        }
        (None, Some(at)) if at > now => format!("down, next attempt in {}", span(at - now)),
        (None, _) => "down, connecting".to_owned(),
    };
    // Once it is up, what went wrong before is in the log.
    let error = connection.last_error.as_ref().filter(|_| !connection.connected);
    let error = error.map(|error| format!("; {} ago: {}", span(now - error.at), error.message));
    format!("{relay}{id}: {how}{}", error.unwrap_or_default())
}

fn describe_peer(peer: &PeerStatus, now: i64) -> String {
    let age = span(now - peer.since);
    let path = match (&peer.path, peer.open) {
        (Some(path), true) => {
            let rtt = path.rtt_ms.map(|rtt| format!(", {rtt} ms")).unwrap_or_default();
            format!("{} ({} to {}{rtt})", path.as_str(), path.local, path.remote)
        }
        _ => "connecting".to_owned(),
    };
    format!(
        "browser {}: {path} for {age}, {} under way, {} bytes in, {} out",
        peer.browser, peer.streams, peer.bytes_received, peer.bytes_sent
    )
}

/// The status for people.
fn describe(status: &Status, now: i64) -> String {
    let mut lines = Vec::new();
    match (status.connected, status.connected_since) {
        (true, Some(since)) => lines.push(format!("connected to {} for {}", status.relay, span(now - since))),
        (true, None) => lines.push(format!("connected to {}", status.relay)),
        (false, _) => match status.next_retry_at {
            Some(at) if at > now => {
                lines.push(format!("not connected to {}; next attempt in {}", status.relay, span(at - now)))
            }
            _ => lines.push(format!("not connected to {}; connecting", status.relay)),
        },
    }
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("  {name:<13} {value}"));
        }
    };
    line(
        "host",
        Some(
            status
                .host_id
                .as_ref()
                .map_or_else(|| status.name.clone(), |id| format!("{} ({id})", status.name)),
        ),
    );
    line("serves", Some(status.local.clone()));
    line(
        "trust",
        Some(match status.trust.as_str() {
            "relay" => "all that the relay authorised".to_owned(),
            _ => "what paired browsers signed".to_owned(),
        }),
    );
    line("requires", status.require.clone().map(|require| format!("{require} sessions")));
    line("browsers", Some(format!("{} paired", status.browsers)));
    line("pairing code", status.code_outstanding.then(|| "one is shown".to_owned()));
    line(
        "wrong codes",
        status
            .failed_guesses
            .last_at
            .map(|at| format!("{}, the last {} ago", status.failed_guesses.count, span(now - at))),
    );
    line("control", Some(status.control.clone().unwrap_or_else(|| "off".to_owned())));
    line("tunnel", status.form.clone());
    line("round trip", status.rtt_ms.map(|rtt| format!("{rtt} ms")));
    if status.connections.len() > 1 {
        let up = status.connections.iter().filter(|connection| connection.connected).count();
        line("connections", Some(format!("{up} of {}", status.connections.len())));
        for connection in &status.connections {
            line("", Some(describe_connection(connection, now)));
        }
    }
    line("requests", Some(format!("{} ({} under way)", status.requests.total, status.requests.active)));
    let gate = &status.signed;
    line("sessions", Some(format!("{} ({} sealed)", gate.sessions, gate.sealed_sessions)));
    line("exchanges", Some(gate.exchanges.to_string()));
    line("bytes", Some(format!("{} in, {} out", status.requests.bytes_received, status.requests.bytes_sent)));
    line("webrtc", Some(webrtc(status)));
    for peer in &status.peers {
        line("", Some(describe_peer(peer, now)));
    }
    line(
        "last error",
        status.last_error.as_ref().map(|error| format!("{} ago: {}", span(now - error.at), error.message)),
    );
    line(
        "process",
        Some(format!("{} (version {}), up {}", status.pid, status.version, span(now - status.started_at))),
    );
    lines.join("\n") + "\n"
}
