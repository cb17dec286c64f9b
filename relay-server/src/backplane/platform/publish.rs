//! Passing frames on to the platform, one call for each. Calls to different relays run side by side; those to one
//! relay run one after the other, and a frame for all relays waits for those before it and goes alone: so each
//! relay finds the frames in the order in which they were signed.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Done, Platform, failure, said_no};
use crate::backplane::health::Failure;
use crate::backplane::metrics::Unpublished;
use crate::backplane::outbox::{Outbox, Outgoing, Sealer};

impl Platform {
    /// Passes frames on until `stop`.
    pub(in crate::backplane) async fn publish(
        self: Arc<Self>,
        sealer: Sealer,
        outbox: Arc<Outbox>,
        stop: CancellationToken,
    ) {
        let sealer = Arc::new(Mutex::new(sealer));
        loop {
            let frames = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                frames = outbox.batch() => frames,
            };
            for step in steps(frames, |held: &Outgoing| held.to.clone()) {
                // Each lane is one relay's.
                let mut lanes = JoinSet::new();
                for lane in step {
                    let (platform, sealer) = (self.clone(), sealer.clone());
                    lanes.spawn(async move {
                        for held in lane {
                            platform.publish_one(&sealer, held).await;
                        }
                    });
                }
                tokio::select! {
                    // What runs is given up with the set.
                    () = stop.cancelled() => return,
                    () = async { while lanes.join_next().await.is_some() {} } => {}
                }
            }
        }
    }

    async fn publish_one(&self, sealer: &Mutex<Sealer>, held: Outgoing) {
        let Some(envelope) = sealer.lock().seal(&held) else { return };
        let work = async {
            let done: Done = self.post("bus/publish", &envelope).await.map_err(failure)?;
            if done.ok { Ok(()) } else { Err(said_no("bus/publish")) }
        };
        match self.health.ask("publish", work).await {
            Ok(()) => self.metrics.published.increment(1),
            Err(failure) => {
                if !matches!(failure, Failure::Paused) {
                    tracing::debug!(%failure, "a frame could not be passed on");
                }
                self.metrics.unpublished(Unpublished::Away, 1);
                held.lost();
            }
        }
    }
}

/// Sorts frames into steps that follow each other, each of lanes that run side by side. Pure.
fn steps<T>(frames: Vec<T>, to: impl Fn(&T) -> Option<Arc<str>>) -> Vec<Vec<Vec<T>>> {
    let mut steps: Vec<Vec<Vec<T>>> = Vec::new();
    let mut lanes: HashMap<Arc<str>, Vec<T>> = HashMap::new();
    for frame in frames {
        match to(&frame) {
            Some(relay) => lanes.entry(relay).or_default().push(frame),
            None => {
                steps.push(lanes.drain().map(|(_, lane)| lane).collect());
                steps.push(vec![vec![frame]]);
            }
        }
    }
    steps.push(lanes.into_values().collect());
    steps.retain(|step| !step.is_empty());
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_for_one_relay_keep_their_order_and_those_for_all_stand_alone() {
        let frames = vec![("a", 1), ("b", 2), ("a", 3), ("", 4), ("", 5), ("b", 6)];
        let to = |frame: &(&str, i32)| (!frame.0.is_empty()).then(|| Arc::from(frame.0));
        let mut found = steps(frames, to);
        for step in &mut found {
            step.sort_by_key(|lane| lane[0].1);
        }
        let expected = vec![
            vec![vec![("a", 1), ("a", 3)], vec![("b", 2)]],
            vec![vec![("", 4)]],
            vec![vec![("", 5)]],
            vec![vec![("b", 6)]],
        ];
        assert_eq!(found, expected);
        assert!(steps(Vec::<(&str, i32)>::new(), |_| None).is_empty());
    }
}
