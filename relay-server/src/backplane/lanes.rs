//! A queue in which each has a lane: what one may have waiting is bounded, and the lanes take turns. So whoever sends
//! more than goes out delays nobody but itself, and keeps its own order. Pure.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// What may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Things in all.
    pub(super) count: usize,
    /// Bytes in all.
    pub(super) bytes: usize,
    /// Things of one lane.
    pub(super) lane_count: usize,
    /// Bytes of one lane.
    pub(super) lane_bytes: usize,
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// The lanes that are not empty.
pub(super) struct Lanes<K, T> {
    bounds: Bounds,
    lanes: HashMap<K, Lane<T>>,
    /// Whose turn it is; each of the lanes once.
    turns: VecDeque<K>,
    count: usize,
    bytes: usize,
}

struct Lane<T> {
    things: VecDeque<(T, usize)>,
    bytes: usize,
}

impl<K: Clone + Eq + Hash, T> Lanes<K, T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, lanes: HashMap::new(), turns: VecDeque::new(), count: 0, bytes: 0 }
    }

    /// Whether a thing of so many bytes can be put into the lane now.
    pub(super) fn has_room(&self, lane: &K, bytes: usize) -> bool {
        let Bounds { count, bytes: all, lane_count, lane_bytes } = self.bounds;
        let (waiting, theirs) = self.lanes.get(lane).map_or((0, 0), |lane| (lane.things.len(), lane.bytes));
        self.count < count
            && waiting < lane_count
            && self.bytes.saturating_add(bytes) <= all
            && theirs.saturating_add(bytes) <= lane_bytes
    }

    /// Puts it at the end of its lane.
    pub(super) fn put(&mut self, lane: &K, thing: T, bytes: usize) -> Result<(), Full> {
        if !self.has_room(lane, bytes) {
            return Err(Full);
        }
        self.count += 1;
        self.bytes += bytes;
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.bytes += bytes;
            lane.things.push_back((thing, bytes));
        } else {
            self.lanes.insert(lane.clone(), Lane { things: VecDeque::from([(thing, bytes)]), bytes });
            self.turns.push_back(lane.clone());
        }
        Ok(())
    }

    /// The first of the lane whose turn it is, and its bytes.
    pub(super) fn take(&mut self) -> Option<(T, usize)> {
        let turn = self.turns.pop_front()?;
        let lane = self.lanes.get_mut(&turn)?;
        let (thing, bytes) = lane.things.pop_front()?;
        lane.bytes = lane.bytes.saturating_sub(bytes);
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        if lane.things.is_empty() {
            self.lanes.remove(&turn);
        } else {
            self.turns.push_back(turn);
        }
        Some((thing, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { count: 16, bytes: 1600, lane_count: 4, lane_bytes: 400 };

    #[test]
    fn who_sends_much_leaves_room_and_turns_to_others() {
        let mut lanes = Lanes::new(BOUNDS);
        for number in 0..10 {
            assert_eq!(lanes.put(&'a', number, 1).is_ok(), number < 4, "{number}");
        }
        assert_eq!(lanes.put(&'b', 10, 401), Err(Full));
        assert_eq!(lanes.put(&'b', 10, 400), Ok(()));
        assert_eq!(lanes.put(&'b', 11, 1), Err(Full));
        assert_eq!(lanes.put(&'c', 20, 0), Ok(()));
        let order: Vec<i32> = std::iter::from_fn(|| lanes.take()).map(|(thing, _)| thing).collect();
        assert_eq!(order, [0, 10, 20, 1, 2, 3]);
        assert!(lanes.lanes.is_empty() && lanes.turns.is_empty());
        assert_eq!((lanes.count, lanes.bytes), (0, 0));
    }

    #[test]
    fn all_of_them_together_are_bounded() {
        let mut lanes = Lanes::new(BOUNDS);
        assert_eq!((0..100).filter(|number| lanes.put(number, (), 100).is_ok()).count(), 16);
        let mut lanes = Lanes::new(BOUNDS);
        assert_eq!((0..100).filter(|number| lanes.put(number, (), 300).is_ok()).count(), 5);
    }

    proptest! {
        /// Whatever goes in and out: each lane keeps its order, and what is counted is what is there.
        #[test]
        fn lanes_keep_their_order(steps in proptest::collection::vec((0u8..4, 0usize..200, any::<bool>()), 0..200)) {
            let mut lanes = Lanes::new(BOUNDS);
            let mut expected: HashMap<u8, VecDeque<usize>> = HashMap::new();
            for (number, (lane, bytes, takes)) in steps.into_iter().enumerate() {
                if takes {
                    if let Some(((lane, number), _)) = lanes.take() {
                        prop_assert_eq!(expected.entry(lane).or_default().pop_front(), Some(number));
                    }
                } else if lanes.put(&lane, (lane, number), bytes).is_ok() {
                    expected.entry(lane).or_default().push_back(number);
                }
                prop_assert_eq!(lanes.count, expected.values().map(VecDeque::len).sum::<usize>());
                prop_assert!(lanes.bytes <= BOUNDS.bytes);
            }
        }
    }
}
