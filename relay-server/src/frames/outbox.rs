//! One socket's way out: what is to be sent waits here until the socket's task takes it.
//!
//! Putting in never blocks, so that one slow reader holds up nobody else. What waits is bounded in bytes, and
//! counts until it was *written*, not until it was taken; a reader that falls further behind is closed. The task
//! is woken once for whatever gathered meanwhile, and takes all of it at once.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

use super::Close;

/// What a frame costs beyond its text: its place in the queue. Without it empty frames would be free.
const FRAME_COST: usize = 64;
/// Probes that wait at once. Each newcomer that finds a daemon asks for one. Who asks beyond that is told "yes": a
/// crowd of newcomers must not make a daemon look dead that lives, and who was told wrongly tries again.
const MAX_PROBES: usize = 16;

/// It reads more slowly than what it asked for comes.
pub(super) const TOO_SLOW: Close = Close::policy("reads too slowly");

/// What the socket's task is to do.
#[derive(Debug)]
pub enum Command {
    /// Send this as a text message.
    Text(Utf8Bytes),
    /// Send a ping of its own, and answer whether its pong came in time. Dropping the answer says "no".
    Probe {
        /// How long the pong may take.
        within: Duration,
        /// Where the answer goes.
        answer: oneshot::Sender<bool>,
    },
    /// Close the socket. Always the last.
    Close(Close),
}

struct Queue {
    texts: VecDeque<Utf8Bytes>,
    probes: Vec<(Duration, oneshot::Sender<bool>)>,
    /// Of the texts that wait.
    waiting: usize,
    /// Of those that were taken and may not be written yet.
    taken: usize,
    close: Option<Close>,
    /// The task has gone, or knows that it is to close.
    over: bool,
    waker: Option<Waker>,
}

struct Shared {
    max_bytes: usize,
    queue: Mutex<Queue>,
    ending: CancellationToken,
}

/// The side that puts in. Clones share it.
#[derive(Clone)]
pub struct Outbox(Arc<Shared>);

/// The side of the socket's task. Dropping it ends the outbox: nothing more is taken in.
pub struct Pending(Arc<Shared>);

/// Tells that the socket is to be closed, also to a task that is stuck in writing: what it writes then deserves
/// little more patience.
#[derive(Clone)]
pub struct Ending(Arc<Shared>);

/// An outbox in which at most so many bytes wait. A single frame always finds room when nothing else waits.
pub fn outbox(max_bytes: usize) -> (Outbox, Pending) {
    let shared = Arc::new(Shared {
        max_bytes,
        queue: Mutex::new(Queue {
            texts: VecDeque::new(),
            probes: Vec::new(),
            waiting: 0,
            taken: 0,
            close: None,
            over: false,
            waker: None,
        }),
        ending: CancellationToken::new(),
    });
    (Outbox(shared.clone()), Pending(shared))
}

impl Outbox {
    /// Sends a text. False when it is not: the socket has ended, or is being closed, or is closed now because
    /// more waits than may.
    pub fn text(&self, text: Utf8Bytes) -> bool {
        let mut queue = self.0.queue.lock();
        if queue.over || queue.close.is_some() {
            return false;
        }
        let cost = text.len() + FRAME_COST;
        let held = queue.waiting + queue.taken;
        if held > 0 && held + cost > self.0.max_bytes {
            drop(queue);
            self.end(TOO_SLOW, true);
            return false;
        }
        queue.waiting += cost;
        queue.texts.push_back(text);
        wake(queue);
        true
    }

    /// Closes the socket after what waits was sent. The first reason stays.
    pub fn close(&self, close: Close) {
        self.end(close, false);
    }

    fn end(&self, close: Close, discard: bool) {
        let mut queue = self.0.queue.lock();
        if queue.over || queue.close.is_some() {
            return;
        }
        queue.close = Some(close);
        queue.probes.clear();
        if discard {
            queue.texts = VecDeque::new();
            queue.waiting = 0;
        }
        wake(queue);
        self.0.ending.cancel();
    }

    /// Whether the other side answers a ping within this time, or is asked so often that one more is not.
    pub fn probe(&self, within: Duration) -> impl Future<Output = bool> + Send + 'static {
        let (answer, answered) = oneshot::channel();
        let mut queue = self.0.queue.lock();
        if !queue.over && queue.close.is_none() {
            if queue.probes.len() < MAX_PROBES {
                queue.probes.push((within, answer));
                wake(queue);
            } else {
                let _ = answer.send(true);
            }
        }
        async move { matches!(tokio::time::timeout(within, answered).await, Ok(Ok(true))) }
    }
}

/// Wakes the task, once for as long as it has not come back; never under the lock.
fn wake(mut queue: parking_lot::MutexGuard<'_, Queue>) {
    let waker = queue.waker.take();
    drop(queue);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Pending {
    /// Waits for something to do and takes all of it, in the order in which it is to be done. Whoever calls says
    /// with it that what it took before is written. After [`Command::Close`] nothing more comes, and this waits
    /// for ever.
    pub async fn take(&mut self, into: &mut Vec<Command>) {
        poll_fn(|cx| self.poll_take(cx, into)).await;
    }

    /// As [`Self::take`].
    pub fn poll_take(&mut self, cx: &mut Context<'_>, into: &mut Vec<Command>) -> Poll<()> {
        let mut queue = self.0.queue.lock();
        queue.taken = 0;
        let close = queue.close.filter(|_| !queue.over);
        if queue.texts.is_empty() && queue.probes.is_empty() && close.is_none() {
            if !queue.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                queue.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        into.extend(queue.probes.drain(..).map(|(within, answer)| Command::Probe { within, answer }));
        into.extend(queue.texts.drain(..).map(Command::Text));
        queue.taken = std::mem::take(&mut queue.waiting);
        if let Some(close) = close {
            queue.over = true;
            into.push(Command::Close(close));
        }
        Poll::Ready(())
    }

    /// For a task that is busy writing.
    pub fn ending(&self) -> Ending {
        Ending(self.0.clone())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.over = true;
        queue.texts = VecDeque::new();
        queue.probes.clear();
        (queue.waiting, queue.taken, queue.waker) = (0, 0, None);
    }
}

impl Ending {
    /// Resolves once [`Outbox::close`] was called, with why.
    pub async fn closed(&self) -> Close {
        self.0.ending.cancelled().await;
        self.0.queue.lock().close.unwrap_or(TOO_SLOW)
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
