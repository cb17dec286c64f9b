//! What the service manager is told: systemd, or whatever else speaks sd_notify(3).
//!
//! | message | when |
//! | --- | --- |
//! | `READY=1` | the first tunnel is up |
//! | `STATUS=…` | it is, it is not any more, or an attempt failed for another reason than before; shown by `systemctl status` |
//! | `STOPPING=1` | the agent was asked to end |
//! | `WATCHDOG=1` | twice in each interval that the service manager allows, until the end |
//!
//! The last comes from a task like any other: it stays away when no thread of the runtime is left that gets to
//! it, and then the service manager starts the agent anew.

use local_agent_client::{
    platform,
    status::{LastError, Status},
};
use std::time::Duration;
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// Characters of a status line.
const MAX_STATUS: usize = 300;

/// Tells of all this for as long as it is polled.
pub async fn keep_told(mut status: watch::Receiver<Status>, stopping: CancellationToken) {
    let mut beat = beat(platform::watchdog());
    let (mut told, mut changes, mut stopped, mut heard) = (Told::default(), true, false, true);
    loop {
        let news = told.news(&status.borrow_and_update());
        news.iter().for_each(|message| tell(message, &mut heard));
        tokio::select! {
            changed = status.changed(), if changes => changes = changed.is_ok(),
            () = stopping.cancelled(), if !stopped => {
                stopped = true;
                tell("STOPPING=1", &mut heard);
            }
            () = next(&mut beat) => tell("WATCHDOG=1", &mut heard),
        }
    }
}

/// How often a sign of life is given where one is wanted every `watchdog`. Half of it is what sd_watchdog_enabled(3)
/// recommends.
fn beat(watchdog: Option<Duration>) -> Option<Interval> {
    let every = watchdog.map(|watchdog| watchdog / 2).filter(|every| !every.is_zero())?;
    let mut beat = interval(every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(beat)
}

async fn next(beat: &mut Option<Interval>) {
    match beat {
        Some(beat) => {
            beat.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// `heard` is whether the last message was taken: a service manager that is gone is worth one line of the log.
fn tell(message: &str, heard: &mut bool) {
    // The agent serves on; the service manager draws its own conclusions from silence.
    let told = platform::tell_service_manager(message);
    if let Err(error) = &told
        && *heard
    {
        tracing::warn!(%error, "the service manager cannot be told: {message}");
    }
    *heard = told.is_ok();
}

/// What was told already.
#[derive(Debug, Default)]
struct Told {
    ready: bool,
    line: String,
}

impl Told {
    /// What is new in the status.
    fn news(&mut self, status: &Status) -> Vec<String> {
        let mut news = Vec::new();
        if status.connected && !self.ready {
            self.ready = true;
            news.push("READY=1".to_owned());
        }
        let line = line(status);
        if line != self.line {
            news.push(format!("STATUS={line}"));
            self.line = line;
        }
        news
    }
}

/// The status as one line.
fn line(status: &Status) -> String {
    let text = match (&status.last_error, status.connected) {
        (_, true) => format!("connected to {}", status.relay),
        (Some(LastError { message, .. }), false) => format!("not connected: {message}"),
        (None, false) => format!("connecting to {}", status.relay),
    };
    // A line break would begin another message.
    text.chars().take(MAX_STATUS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn status(connected: bool, error: Option<&str>) -> Status {
        let text = serde_json::json!({
            "version": "1", "pid": 1, "started_at": 0, "relay": "https://relay.example", "local": "l", "name": "n",
            "machine_id": "m", "connected": connected, "connected_since": null, "host_id": null, "form": null,
            "rtt_ms": null, "requests": local_agent_client::forward::Counts::default(), "next_retry_at": null,
            "last_error": error.map(|message| serde_json::json!({ "at": 0, "message": message })),
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn readiness_is_told_once_and_a_line_when_it_changes() {
        let mut told = Told::default();
        for (connected, error, expected) in [
            (false, None, vec!["STATUS=connecting to https://relay.example"]),
            (false, None, vec![]),
            (false, Some("refused"), vec!["STATUS=not connected: refused"]),
            (false, Some("refused"), vec![]),
            (true, Some("refused"), vec!["READY=1", "STATUS=connected to https://relay.example"]),
            (true, None, vec![]),
            (false, Some("lost"), vec!["STATUS=not connected: lost"]),
            (true, Some("lost"), vec!["STATUS=connected to https://relay.example"]),
        ] {
            assert_eq!(told.news(&status(connected, error)), expected, "{connected} {error:?}");
        }
    }

    #[test]
    fn nothing_that_went_wrong_becomes_a_message_of_its_own() {
        assert_eq!(line(&status(false, Some("a\nREADY=1\r\0b"))), "not connected: a READY=1  b");
        assert_eq!(line(&status(false, Some(&"\u{e4}".repeat(1000)))).chars().count(), MAX_STATUS);
    }

    #[tokio::test]
    async fn a_sign_of_life_is_given_twice_in_the_interval_or_never() {
        for (watchdog, every) in [
            (None, None),
            (Some(Duration::ZERO), None),
            (Some(Duration::from_nanos(1)), None),
            (Some(Duration::from_secs(30)), Some(Duration::from_secs(15))),
        ] {
            assert_eq!(beat(watchdog).map(|beat| beat.period()), every, "{watchdog:?}");
        }
    }
}
