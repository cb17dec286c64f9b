//! Which relay holds a daemon, as it is written down in Redis and PostgreSQL, and whose right is the better. Pure.
//!
//! The one who writes reads first what is there and judges it here, and then replaces exactly that. Nothing that is
//! not sealed has a say: whoever can write there without the key takes no daemon away from anybody.
//!
//! The higher generation wins. Within one, a daemon that answered a probe when another came ([`Fact::confirmed`]) wins
//! over those that did not, and none takes its place as long as it is renewed; among those that were never probed the
//! newest wins, because that is how a daemon that lost its connection comes back.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::address::{MAX_RECORD, Record};
use super::envelope::Key;
use super::presence::{Fact, Written};
use super::{Holder, Pair};

/// Who holds a daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Holding {
    #[serde(flatten)]
    record: Record,
    connection: Uuid,
    generation: i64,
    confirmed: bool,
    /// By the clock of whoever keeps this.
    since_ms: i64,
}

/// A holding whose seal is good.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) holder: Holder,
    pub(super) connection: Uuid,
    generation: i64,
    confirmed: bool,
    since_ms: i64,
}

/// What to do about what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Replace it by this.
    Write(String),
    /// Leave it.
    Leave(Written),
}

/// What sealing takes.
pub(super) struct Judge<'a> {
    pub(super) me: &'a Holder,
    pub(super) key: &'a Key,
    /// Our clock, which seals go by.
    pub(super) now_ms: i64,
}

impl Judge<'_> {
    /// What is written there, if one of us wrote it about this pair not long ago.
    pub(super) fn read(&self, there: &[u8], pair: &Pair) -> Option<Held> {
        if there.is_empty() || there.len() > MAX_RECORD {
            return None;
        }
        let holding: Holding = serde_json::from_slice(there).ok()?;
        let holder = holding.record.open(&holding.about(pair), self.now_ms, self.key)?;
        let Holding { connection, generation, confirmed, since_ms, .. } = holding;
        Some(Held { holder, connection, generation, confirmed, since_ms })
    }

    /// Whether this daemon of ours takes the place of what is there. `kept_ms`: the time at whoever keeps it.
    pub(super) fn claim(&self, there: &[u8], pair: &Pair, fact: &Fact, kept_ms: i64) -> Verdict {
        let age = i64::try_from(fact.since.elapsed().as_millis()).unwrap_or(i64::MAX);
        let mut since_ms = kept_ms.saturating_sub(age);
        if let Some(held) = self.read(there, pair) {
            // Whatever this relay wrote before is its own to replace.
            if held.holder.relay == self.me.relay {
                if held.connection == fact.connection {
                    since_ms = held.since_ms;
                }
            } else if held.stays(fact, since_ms) {
                let higher_generation = held.generation > fact.generation;
                return Verdict::Leave(Written::Lost { higher_generation });
            }
        }
        Verdict::Write(self.seal(pair, fact, since_ms))
    }

    /// Whether what is there is ours, by one of these connections.
    pub(super) fn is_ours(&self, there: &[u8], pair: &Pair, told: &[Uuid]) -> bool {
        self.read(there, pair)
            .is_some_and(|held| held.holder.relay == self.me.relay && told.contains(&held.connection))
    }

    fn seal(&self, pair: &Pair, fact: &Fact, since_ms: i64) -> String {
        let Fact { connection, generation, confirmed, .. } = *fact;
        let empty = Record {
            relay: String::new(),
            public_ws: String::new(),
            internal: String::new(),
            seal: String::new(),
        };
        let mut holding = Holding { record: empty, connection, generation, confirmed, since_ms };
        holding.record = Record::seal(self.me, &holding.about(pair), self.now_ms, self.key);
        serde_json::to_string(&holding).unwrap_or_default()
    }
}

impl Holding {
    /// What the seal names. Ids hold no spaces, and an absent target is the empty text, which no target is.
    fn about(&self, pair: &Pair) -> String {
        let Self { connection, generation, confirmed, since_ms, .. } = self;
        let (workspace, target) = (&pair.workspace, pair.target.as_deref().unwrap_or_default());
        format!("daemon {workspace} {target} {connection} {generation} {confirmed} {since_ms}")
    }
}

impl Held {
    /// Whether it keeps its place.
    fn stays(&self, fact: &Fact, since_ms: i64) -> bool {
        match (self.generation, self.confirmed).cmp(&(fact.generation, fact.confirmed)) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => {
                self.confirmed || (self.since_ms, self.connection) > (since_ms, fact.connection)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::address;
    use crate::config::SecretText;
    use tokio::time::Instant;

    const NOW: i64 = 1_800_000_000_000;

    fn key() -> Key {
        address::key(&SecretText::of("a key that the relays share")).unwrap()
    }

    fn relay(name: &str) -> Holder {
        Holder { relay: name.into(), public_ws: None, internal: None }
    }

    fn pair(workspace: &str) -> Pair {
        Pair { workspace: workspace.into(), target: Some("t".into()) }
    }

    fn fact(generation: i64, confirmed: bool) -> Fact {
        Fact { connection: Uuid::new_v4(), machine: None, generation, confirmed, since: Instant::now() }
    }

    fn claim(by: &str, there: &str, fact: &Fact, now_ms: i64) -> Verdict {
        let (me, key) = (relay(by), key());
        Judge { me: &me, key: &key, now_ms }.claim(there.as_bytes(), &pair("w"), fact, now_ms)
    }

    fn written(by: &str, fact: &Fact, now_ms: i64) -> String {
        match claim(by, "", fact, now_ms) {
            Verdict::Write(text) => text,
            Verdict::Leave(_) => panic!("nothing was there"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_better_right_wins() {
        let lost = |higher_generation| Verdict::Leave(Written::Lost { higher_generation });
        // What is there (at the other relay), what comes a second later or earlier, and what comes of it.
        let cases = [
            ((1, false), (1, false), 1000, None),
            ((1, false), (1, false), -1000, Some(lost(false))),
            ((2, false), (1, false), 1000, Some(lost(true))),
            ((2, false), (1, true), 1000, Some(lost(true))),
            ((1, true), (2, false), 1000, None),
            ((1, false), (1, true), -1000, None),
            ((1, true), (1, false), 1000, Some(lost(false))),
            ((1, true), (1, true), 1000, Some(lost(false))),
            ((1, true), (1, true), -1000, Some(lost(false))),
            ((i64::MAX, false), (i64::MIN, true), 1000, Some(lost(true))),
        ];
        for (number, (held, comes, later, expected)) in cases.into_iter().enumerate() {
            let there = written("a", &fact(held.0, held.1), NOW);
            let found = claim("b", &there, &fact(comes.0, comes.1), NOW + later);
            match expected {
                Some(expected) => assert_eq!(found, expected, "case {number}"),
                None => assert!(matches!(found, Verdict::Write(_)), "case {number}: {found:?}"),
            }
        }
    }

    #[test]
    fn nothing_that_is_not_sealed_for_this_pair_and_now_has_a_say() {
        let there = written("a", &fact(5, true), NOW);
        let mine = fact(1, false);
        assert!(matches!(claim("b", &there, &mine, NOW), Verdict::Leave(_)));
        let (me, key) = (relay("b"), key());
        let judge = Judge { me: &me, key: &key, now_ms: NOW };
        let other = judge.claim(there.as_bytes(), &pair("v"), &mine, NOW);
        assert!(matches!(other, Verdict::Write(_)), "of another pair");
        let altered = [
            there.replace("\"generation\":5", "\"generation\":6"),
            there.replace("\"relay\":\"a\"", "\"relay\":\"c\""),
            there.replace("true", "false"),
            "{}".to_owned(),
            "x".repeat(MAX_RECORD + 1),
        ];
        for altered in &altered[..3] {
            assert_ne!(*altered, there);
        }
        for altered in &altered {
            assert!(matches!(claim("b", altered, &mine, NOW), Verdict::Write(_)), "{altered}");
        }
        assert!(matches!(claim("b", &there, &mine, NOW + 90_000), Verdict::Write(_)), "it has ended");
    }

    #[test]
    fn a_renewal_keeps_its_beginning_and_replaces_what_this_relay_wrote_before() {
        let mine = fact(1, false);
        let first = written("a", &mine, NOW);
        let Verdict::Write(second) = claim("a", &first, &mine, NOW + 20_000) else { panic!("it is ours") };
        let (me, key) = (relay("a"), key());
        let judge = Judge { me: &me, key: &key, now_ms: NOW + 80_000 };
        let since = |text: &str| judge.read(text.as_bytes(), &pair("w")).map(|held| held.since_ms);
        assert_eq!(since(&second), since(&first));
        let after = claim("a", &written("a", &fact(7, true), NOW), &mine, NOW + 1);
        assert!(matches!(after, Verdict::Write(_)), "of a process that was this relay before");
        assert!(judge.is_ours(second.as_bytes(), &pair("w"), &[mine.connection]));
        assert!(!judge.is_ours(second.as_bytes(), &pair("w"), &[Uuid::new_v4()]));
        assert!(!judge.is_ours(written("b", &mine, NOW).as_bytes(), &pair("w"), &[mine.connection]));
    }

    /// Two daemons that both live, at two relays, each confirmed when it hears of the other: the first one stays.
    #[tokio::test(start_paused = true)]
    async fn two_live_daemons_do_not_take_turns() {
        let begun = Instant::now();
        let kept_ms = || NOW + i64::try_from(begun.elapsed().as_millis()).unwrap();
        let second_of_time = std::time::Duration::from_secs(1);
        let mut first = fact(1, false);
        let mut there = written("a", &first, kept_ms());
        tokio::time::advance(second_of_time).await;
        let mut second = fact(1, false);
        let mut changes = 0;
        for _ in 0..50 {
            for (name, fact) in [("b", &mut second), ("a", &mut first)] {
                let mut verdict = claim(name, &there, fact, kept_ms());
                if matches!(verdict, Verdict::Leave(_)) {
                    fact.confirmed = true;
                    verdict = claim(name, &there, fact, kept_ms());
                }
                if let Verdict::Write(text) = verdict {
                    changes += usize::from(!there.contains(&fact.connection.to_string()));
                    there = text;
                }
                tokio::time::advance(second_of_time).await;
            }
        }
        assert_eq!(changes, 2, "to the newcomer, and back");
        assert!(there.contains(&first.connection.to_string()));
    }
}
