//! A queue that is bounded by what it holds: frames have a few bytes or a megabyte, and a count alone would let
//! the large ones fill the memory.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What waits, and the room that it takes until it is dropped.
pub(super) struct Held<T> {
    pub(super) item: T,
    _room: OwnedSemaphorePermit,
}

/// Where things are put in. Clones share it.
#[derive(Clone)]
pub(super) struct Sender<T> {
    queue: mpsc::Sender<Held<T>>,
    room: Arc<Semaphore>,
}

/// There is no room, or nobody takes anything out any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// At most so many things of so many bytes in all.
pub(super) fn bounded<T>(count: usize, bytes: usize) -> (Sender<T>, mpsc::Receiver<Held<T>>) {
    let (queue, receiver) = mpsc::channel(count);
    (Sender { queue, room: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))) }, receiver)
}

impl<T> Sender<T> {
    /// Puts it in, or says at once that it cannot.
    pub(super) fn put(&self, item: T, bytes: usize) -> Result<(), Full> {
        let bytes = u32::try_from(bytes).map_err(|_| Full)?;
        let room = self.room.clone().try_acquire_many_owned(bytes).map_err(|_| Full)?;
        self.queue.try_send(Held { item, _room: room }).map_err(|_| Full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_full_by_count_or_by_bytes_and_empties_again() {
        let (sender, mut receiver) = bounded(2, 100);
        assert_eq!(sender.put('a', 60), Ok(()));
        assert_eq!(sender.put('b', 41), Err(Full));
        assert_eq!(sender.put('c', 40), Ok(()));
        assert_eq!(sender.put('d', 0), Err(Full), "two are there");
        let first = receiver.recv().await.unwrap();
        assert_eq!(first.item, 'a');
        assert_eq!(sender.put('e', 60), Err(Full), "what is being worked on still takes room");
        drop(first);
        assert_eq!(sender.put('e', 60), Ok(()));
        drop(receiver);
        assert_eq!(sender.put('f', 0), Err(Full));
    }
}
