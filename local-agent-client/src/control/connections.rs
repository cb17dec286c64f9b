//! Which connections there are, and who has to make room.
//!
//! Every user of the machine can connect, and can hold what they connected. So a full house has room for one more:
//! whoever came first among those that have not shown yet who they are goes. Whoever has shown it stays.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};
use tokio::task::AbortHandle;

/// Connections at a time: some pages, some commands, and none for whoever only holds them open.
pub(super) const MOST: usize = 32;

/// What was decided about a connection; once, whoever decides first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
}

/// A connection's standing, as its task and the list of all share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing(Arc<OnceLock<Fate>>);

impl Standing {
    /// Whoever speaks has shown who they are: the connection is not cut any more. False when it was already.
    pub(super) fn is_known(&self) -> bool {
        *self.0.get_or_init(|| Fate::Stays) == Fate::Stays
    }

    /// Gives the connection up; false when it stays.
    fn give_up(&self) -> bool {
        *self.0.get_or_init(|| Fate::Goes) == Fate::Goes
    }
}

/// All connections, oldest first.
#[derive(Default)]
pub(super) struct Connections(VecDeque<(Standing, AbortHandle)>);

impl Connections {
    /// Makes room for one more; false when all that are there stay.
    pub(super) fn room(&mut self) -> bool {
        self.0.retain(|(_, task)| !task.is_finished());
        if self.0.len() < MOST {
            return true;
        }
        let gone = self.0.iter().position(|(standing, _)| standing.give_up());
        if let Some((_, task)) = gone.and_then(|at| self.0.remove(at)) {
            task.abort();
            return true;
        }
        false
    }

    /// One more, for which there was room.
    pub(super) fn add(&mut self, standing: Standing, task: AbortHandle) {
        self.0.push_back((standing, task));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use tokio::task::JoinSet;

    #[tokio::test]
    async fn the_oldest_stranger_makes_room_and_whoever_is_known_stays() {
        let (mut connections, mut tasks) = (Connections::default(), JoinSet::new());
        let mut come = |connections: &mut Connections| {
            let standing = Standing::default();
            connections.add(standing.clone(), tasks.spawn(std::future::pending::<()>()));
            standing
        };
        let mut there = Vec::new();
        for _ in 0..MOST {
            assert!(connections.room());
            there.push(come(&mut connections));
        }
        assert!(there[0].is_known() && there[2].is_known());
        // One after the other, the oldest first, and nobody twice.
        for gone in [1, 3, 4] {
            assert!(connections.room());
            assert!(!there[gone].is_known(), "too late to show anything");
            assert!(there[gone + 2].0.get() != Some(&Fate::Goes));
            there.push(come(&mut connections));
            assert_eq!(connections.0.len(), MOST);
        }
        for (standing, _) in &connections.0 {
            assert!(standing.is_known());
        }
        assert!(!connections.room(), "all of them stay");
        assert_eq!(connections.0.len(), MOST);
        tasks.shutdown().await;
        assert!(connections.room());
        assert_eq!(connections.0.len(), 0, "those that ended are not counted");
    }
}
