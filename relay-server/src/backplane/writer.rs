//! Tells the others who is here. One task writes it, so that an end that is told late cannot overtake the beginning
//! that followed it; what, and when again, [`super::presence`] decides. Every 20 s, and whenever the other side has
//! come back, perhaps without its memory, all of it is written anew.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Event;
use super::inbox::Inbox;
use super::link::Links;
use super::metrics::Metrics;
use super::presence::{Loss, Presence, Subject, Written};

/// How often everything is written anew.
pub(super) const RENEW: Duration = Duration::from_secs(20);
/// How long nothing is written when the other side is away.
const AGAIN: Duration = Duration::from_millis(500);
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Writes until `stop`, and then that nothing is here any more.
pub(super) async fn write(
    presence: Arc<Presence>,
    links: Arc<Links>,
    inbox: Arc<Inbox>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut renew = tokio::time::interval_at(Instant::now() + RENEW, RENEW);
    renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let failed = write_some(&presence, &links, &inbox, &metrics).await;
        let pause = async {
            match failed {
                Some(true) => tokio::time::sleep(AGAIN).await,
                Some(false) => {}
                None => match presence.next() {
                    Some(due) => {
                        let _ = tokio::time::timeout_at(due, presence.changed()).await;
                    }
                    None => presence.changed().await,
                },
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = renew.tick() => presence.renew(),
            () = links.returned() => presence.renew(),
            () = pause => {}
        }
    }
    presence.clear();
    let last_words = async { while write_some(&presence, &links, &inbox, &metrics).await == Some(false) {} };
    let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
}

/// Writes a few subjects; whether the other side was away, `None` when there was nothing to write.
async fn write_some(presence: &Presence, links: &Links, inbox: &Inbox, metrics: &Metrics) -> Option<bool> {
    let jobs = presence.take();
    if jobs.is_empty() {
        return None;
    }
    let results = join_all(jobs.iter().map(|job| links.write(job))).await;
    let mut away = false;
    for (job, result) in jobs.iter().zip(results) {
        match &result {
            Ok(Written::Held | Written::Unsure | Written::Left) => metrics.presence_ok.increment(1),
            Ok(Written::Lost { .. }) => metrics.presence_lost.increment(1),
            Err(failure) => {
                tracing::debug!(subject = ?job.subject, %failure, "who is here could not be written; tried again");
                metrics.presence_failed.increment(1);
                away |= !failure.of_this_alone();
            }
        }
        let news = presence.done(job, &result);
        if let (Subject::Daemon(pair), Some(loss)) = (&job.subject, news) {
            let Loss { connection, higher_generation, .. } = loss;
            if inbox.tell(Event::Superseded { pair: pair.clone(), connection, higher_generation }) {
                presence.told_of_loss(&job.subject, loss);
            }
        }
    }
    Some(away)
}
