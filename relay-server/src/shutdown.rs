//! The end of the relay's life: serving, then draining, then ended.
//!
//! The first signal begins the drain: `/health` says so, new requests are refused, those in flight
//! may finish. A second signal, or the drain's deadline, ends what is left. Stages only go forward.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// Where in its life the relay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Everything is served.
    Serving,
    /// What is in flight may finish; nothing new begins.
    Draining,
    /// What is left is cut off.
    Ended,
}

/// Every request counts itself here, so that this is an atomic and no lock.
#[derive(Debug, Default)]
struct Holds {
    count: AtomicUsize,
    none_left: Notify,
}

/// Shared by everything that has to know. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Shutdown {
    // Beside the channel, because every request asks and a channel's read takes a lock.
    draining: Arc<AtomicBool>,
    stage: Arc<watch::Sender<Stage>>,
    holds: Arc<Holds>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            draining: Arc::default(),
            stage: Arc::new(watch::Sender::new(Stage::Serving)),
            holds: Arc::default(),
        }
    }
}

impl Shutdown {
    /// Begins the drain. Does nothing when it has begun.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.go_to(Stage::Draining);
    }

    /// Ends at once.
    pub fn end(&self) {
        self.draining.store(true, Ordering::Release);
        self.go_to(Stage::Ended);
    }

    fn go_to(&self, stage: Stage) {
        self.stage.send_if_modified(|now| {
            let forward = *now < stage;
            if forward {
                *now = stage;
            }
            forward
        });
    }

    /// Whether the drain has begun, for the request path.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Waits until the drain has begun.
    pub async fn draining(&self) {
        self.reached(Stage::Draining).await;
    }

    /// Waits for the end.
    pub async fn ended(&self) {
        self.reached(Stage::Ended).await;
    }

    async fn reached(&self, stage: Stage) {
        // The sender lives as long as `self`, so that waiting does not fail.
        let _ = self.stage.subscribe().wait_for(|now| *now >= stage).await;
    }

    /// Something that the drain waits for, until the guard is dropped: a request in flight, an
    /// upgraded connection.
    pub fn hold(&self) -> Hold {
        self.holds.count.fetch_add(1, Ordering::AcqRel);
        Hold(Arc::clone(&self.holds))
    }

    /// Waits until nothing is held.
    pub async fn released(&self) {
        loop {
            // Listening begins before the count is read, so that the last drop is not missed.
            let mut none_left = std::pin::pin!(self.holds.none_left.notified());
            none_left.as_mut().enable();
            if self.held() == 0 {
                return;
            }
            none_left.await;
        }
    }

    /// How much is held.
    pub fn held(&self) -> usize {
        self.holds.count.load(Ordering::Acquire)
    }
}

/// See [`Shutdown::hold`].
#[derive(Debug)]
#[must_use = "the drain waits only as long as the guard lives"]
pub struct Hold(Arc<Holds>);

impl Drop for Hold {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}

/// Turns the first signal into a drain and the second into the end.
///
/// # Errors
/// When the system does not let this process listen for signals.
pub async fn on_signals(shutdown: Shutdown) -> std::io::Result<()> {
    let mut signals = signals::Signals::new()?;
    let name = signals.next().await;
    tracing::info!(signal = name, "draining; a second signal ends at once");
    shutdown.drain();
    let name = signals.next().await;
    tracing::warn!(signal = name, "ending at once");
    shutdown.end();
    Ok(())
}

#[cfg(unix)]
mod signals {
    use tokio::signal::unix::{Signal, SignalKind, signal};

    pub struct Signals {
        terminate: Signal,
        interrupt: Signal,
    }

    impl Signals {
        pub fn new() -> std::io::Result<Self> {
            Ok(Self {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            })
        }

        pub async fn next(&mut self) -> &'static str {
            tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            }
        }
    }
}

#[cfg(windows)]
mod signals {
    use tokio::signal::windows::{CtrlC, CtrlShutdown, ctrl_c, ctrl_shutdown};

    pub struct Signals {
        interrupt: CtrlC,
        shutdown: CtrlShutdown,
    }

    impl Signals {
        pub fn new() -> std::io::Result<Self> {
            Ok(Self { interrupt: ctrl_c()?, shutdown: ctrl_shutdown()? })
        }

        pub async fn next(&mut self) -> &'static str {
            tokio::select! {
                _ = self.interrupt.recv() => "ctrl-c",
                _ = self.shutdown.recv() => "shutdown",
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stages_only_go_forward_and_wake_everybody() {
        let shutdown = Shutdown::default();
        assert!(!shutdown.is_draining());
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move {
                shutdown.draining().await;
                shutdown.ended().await;
            }
        });
        shutdown.end();
        shutdown.drain();
        assert!(shutdown.is_draining());
        shutdown.ended().await;
        assert!(waiting.await.is_ok());
    }

    #[tokio::test]
    async fn the_drain_waits_for_what_is_held() {
        let shutdown = Shutdown::default();
        let (first, second) = (shutdown.hold(), shutdown.hold());
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.released().await }
        });
        drop(first);
        assert_eq!(shutdown.held(), 1);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        assert!(waiting.await.is_ok());
    }
}
