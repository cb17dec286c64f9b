//! What the service manager is told: systemd, or whatever else speaks sd_notify(3).
//!
//! | message | when |
//! | --- | --- |
//! | `READY=1` | nothing that could stop the start is left, and the listener is open |
//! | `STOPPING=1` | the drain has begun |
//! | `WATCHDOG=1` | twice in each interval that the service manager allows, until the end |
//!
//! The last comes from a task like any other: it stays away when no thread of the runtime is left that gets to
//! it, and then the service manager starts the relay anew. Without `NOTIFY_SOCKET`, which has to be a path, nothing is
//! said to anybody.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::shutdown::Shutdown;

/// Says that the relay serves.
pub fn ready() {
    tell(Message::Ready, &mut true);
}

/// Says when the drain begins, and that the relay is alive, for as long as it is polled.
pub async fn keep_told(shutdown: Shutdown) {
    let mut beat = beat(system::watchdog());
    let (mut stopping, mut heard) = (false, true);
    loop {
        tokio::select! {
            () = shutdown.draining(), if !stopping => {
                stopping = true;
                tell(Message::Stopping, &mut heard);
            }
            () = next(&mut beat) => tell(Message::Alive, &mut heard),
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

/// See the table above.
#[derive(Debug, Clone, Copy)]
enum Message {
    Ready,
    Stopping,
    Alive,
}

/// `heard` is whether the last message was taken: a service manager that is gone is worth one line of the log.
fn tell(message: Message, heard: &mut bool) {
    // Who serves goes on serving; the service manager draws its own conclusions from silence.
    let told = system::tell(match message {
        Message::Ready => "READY=1",
        Message::Stopping => "STOPPING=1",
        Message::Alive => "WATCHDOG=1",
    });
    if let Err(error) = &told
        && *heard
    {
        tracing::warn!(%error, "the service manager cannot be told: {message:?}");
    }
    *heard = told.is_ok();
}

#[cfg(unix)]
mod system {
    use std::{env, io, os::unix::net::UnixDatagram, process, time::Duration};

    /// How long a message may wait for room: a service manager that hangs must not hold up the relay.
    const ROOM: Duration = Duration::from_millis(500);

    /// Sends a message, when there is somebody to send it to.
    pub fn tell(message: &str) -> io::Result<()> {
        let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(ROOM))?;
        socket.send_to(message.as_bytes(), path).map(|_| ())
    }

    /// The time within which a sign of life is wanted of this very process.
    pub fn watchdog() -> Option<Duration> {
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let ours =
            env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(process::id().into());
        number("WATCHDOG_USEC").filter(|_| ours).map(Duration::from_micros)
    }
}

/// There is no such service manager.
#[cfg(not(unix))]
mod system {
    use std::{io, time::Duration};

    pub fn tell(_: &str) -> io::Result<()> {
        Ok(())
    }

    pub fn watchdog() -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
