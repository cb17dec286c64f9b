//! The first bytes of an exchange: prelude and first record, before anything is known of who sends them.
//!
//! What is held of them has a bound over all exchanges that begin, one for those that the relay brings and one for
//! those that peers bring: however many of the one kind begin and do not go on, the other kind is served. It is taken
//! as the bytes come, so that nobody has it by announcing them, and a HEAD of the usual size needs none.

use super::reader::Bytestream;
use crate::{
    gate::{answer::kib, exchange::begin::malformed},
    refusal::Refusal,
};
use bytes::BytesMut;
use http_body_util::BodyExt;
use relay_protocol::{
    exchange::{PRELUDE_LEN, Prelude},
    problem::Code,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What every exchange may hold without asking: not more than what reading takes anyway, and more than nearly
/// every HEAD, which has no cookies in it.
const FREE: usize = 16 * 1024;
/// What all exchanges that begin over one kind of path may hold beyond that: some twenty of the largest HEADs, none
/// of which takes long.
const BUDGET: u64 = 4 * 1024 * 1024;
/// How long to wait for a part of it. Well under what the first record has in all, so that it is told which
/// of the two was missing.
const ROOM_TIME: Duration = Duration::from_secs(2);

/// How many exchanges over the relay may wait for the rest of their first record. Those of browsers that mean it
/// take no time, and streams of a tunnel are few (256): strangers are not to have them all.
const PLACES: usize = 64;

/// Where first bytes find room.
pub struct Rooms {
    relay: Arc<Semaphore>,
    direct: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Default for Rooms {
    fn default() -> Self {
        let room = || Arc::new(Semaphore::new(kib(BUDGET)));
        Self { relay: room(), direct: room(), places: Arc::new(Semaphore::new(PLACES)) }
    }
}

impl Rooms {
    /// That of the relay, or of all that comes directly.
    pub fn of(&self, is_direct: bool) -> Arc<Semaphore> {
        if is_direct { self.direct.clone() } else { self.relay.clone() }
    }

    /// A place among those that wait for their first record, if one is free.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }
}

/// The first bytes of a stream.
pub struct First {
    /// What follows.
    pub source: Bytestream,
    /// What came and was not taken out.
    pub bytes: BytesMut,
    /// Whether they were not waited for any longer, because nothing could come of them.
    pub given_up: bool,
    rooms: Arc<Semaphore>,
    room: Option<OwnedSemaphorePermit>,
}

impl First {
    /// Of `source`, with room in `rooms`.
    pub fn new(source: Bytestream, rooms: Arc<Semaphore>) -> Self {
        Self { source, bytes: BytesMut::new(), given_up: false, rooms, room: None }
    }

    /// Reads and takes out the prelude.
    ///
    /// # Errors
    /// As [`First::until`].
    pub async fn prelude(&mut self) -> Result<Prelude, Refusal> {
        self.until(PRELUDE_LEN).await?;
        let bytes = self.bytes.split_to(PRELUDE_LEN);
        bytes.first_chunk().map(Prelude::from_bytes).ok_or_else(|| malformed("broke off"))
    }

    /// Reads until there are so many bytes.
    ///
    /// # Errors
    /// When they end before, or there is no room for so many.
    pub async fn until(&mut self, wanted: usize) -> Result<(), Refusal> {
        while self.bytes.len() < wanted {
            self.hold().await?;
            let frame = self.source.frame().await.transpose().ok().flatten();
            let frame = frame.ok_or_else(|| malformed("broke off before its first record"))?;
            if let Ok(piece) = frame.into_data() {
                if self.bytes.is_empty() {
                    self.bytes = piece.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared));
                } else {
                    self.bytes.extend_from_slice(&piece);
                }
            }
        }
        Ok(())
    }

    /// Takes room for what is held while more is waited for.
    async fn hold(&mut self) -> Result<(), Refusal> {
        let over = self.bytes.len().saturating_sub(FREE);
        let wanted = if over == 0 { 0 } else { kib(over as u64) };
        let held = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(wanted.saturating_sub(held)).unwrap_or(u32::MAX);
        if more == 0 {
            return Ok(());
        }
        match tokio::time::timeout(ROOM_TIME, self.rooms.clone().acquire_many_owned(more)).await {
            Ok(Ok(more)) => {
                match &mut self.room {
                    Some(room) => room.merge(more),
                    empty => *empty = Some(more),
                }
                Ok(())
            }
            _ => Err(Refusal::new(
                Code::TooManyStreams,
                "Too many exchanges with large headers begin at once. Try again, or send fewer headers.",
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::forward::BodyError;
    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::StreamBody;

    /// As many bytes in pieces of a KiB, and then nothing any more.
    fn stalling(kibs: usize) -> Bytestream {
        let pieces = (0..kibs).map(|_| Ok::<_, BodyError>(Frame::data(Bytes::from(vec![0; 1024]))));
        let stream = futures_util::StreamExt::chain(
            futures_util::stream::iter(pieces),
            futures_util::stream::pending(),
        );
        StreamBody::new(stream).boxed_unsync()
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_taken_as_bytes_come_and_given_back() {
        const FREE_KIB: usize = FREE / 1024;
        let rooms = Arc::new(Semaphore::new(10));
        let mut small = First::new(stalling(FREE_KIB), rooms.clone());
        small.until(FREE).await.unwrap();
        assert_eq!(rooms.available_permits(), 10, "the usual needs none");
        let mut large = First::new(stalling(FREE_KIB + 8), rooms.clone());
        // It stalls, and would for ever.
        let stalled = tokio::time::timeout(ROOM_TIME * 2, large.until(1 << 20)).await;
        assert!(stalled.is_err());
        assert_eq!(rooms.available_permits(), 2, "for what came, not for what was wanted");
        let mut other = First::new(stalling(FREE_KIB + 8), rooms.clone());
        let began = tokio::time::Instant::now();
        let refused = other.until(1 << 20).await.unwrap_err();
        assert_eq!(refused.code(), Code::TooManyStreams);
        assert_eq!(began.elapsed(), ROOM_TIME);
        drop(other);
        let mut usual = First::new(stalling(FREE_KIB), rooms.clone());
        usual.until(FREE).await.unwrap();
        drop(large);
        assert_eq!(rooms.available_permits(), 10);
        let mut again = First::new(stalling(FREE_KIB + 8), rooms.clone());
        again.until(FREE + 8 * 1024).await.unwrap();
        assert_eq!(rooms.available_permits(), 3, "what is complete needs none any more");
    }

    #[test]
    fn the_relay_and_the_peers_have_rooms_of_their_own() {
        let rooms = Rooms::default();
        let _all = rooms.of(false).try_acquire_many_owned(kib(BUDGET) as u32).unwrap();
        assert_eq!(rooms.of(false).available_permits(), 0);
        assert_eq!(rooms.of(true).available_permits(), kib(BUDGET));
    }
}
