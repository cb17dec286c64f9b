//! Who bears that there are too many, by example and beside a model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const MAX: usize = 16;
const LIFE: Duration = Duration::from_secs(60);

fn client(name: &str) -> Party {
    Party::Client(Name { user: None, client: Some(name.into()) })
}

fn address(last: u8) -> Party {
    Party::Address(RateKey::of([203, 0, 113, last].into()))
}

fn relay(name: &str) -> Party {
    Party::Relay(name.into())
}

/// How many entries each has.
fn held<V>(recent: &Recent<V>, party: &Party) -> usize {
    recent.counts.get(party).copied().unwrap_or_default()
}

fn put(recent: &mut Recent<()>, party: &Party, from: usize, count: usize, now: Instant) {
    for number in from..from + count {
        recent.put(&format!("{party:?} {number}"), party.clone(), (), now);
    }
}

/// So many of each in this order; what each has left when the last has put all of theirs.
#[test]
fn who_has_most_gives_way() {
    let (quiet, loud) = (client("quiet"), client("loud"));
    for (steps, left) in [
        // Nobody's entries but their own.
        (vec![(&quiet, 3), (&loud, 1000)], vec![(&quiet, 3), (&loud, 13)]),
        (vec![(&loud, 1000), (&quiet, 3)], vec![(&quiet, 3), (&loud, 13)]),
        (vec![(&loud, 1000), (&quiet, 1000)], vec![(&quiet, 8), (&loud, 8)]),
        // Many sockets without a name are one.
        (
            vec![(&quiet, 4), (&address(1), 1000), (&address(2), 1000)],
            vec![(&quiet, 4), (&address(1), 6), (&address(2), 6)],
        ),
        // A relay has room for many, and not for all.
        (vec![(&quiet, 1), (&relay("b"), 1000)], vec![(&quiet, 1), (&relay("b"), 15)]),
        (vec![(&relay("b"), 16), (&quiet, 1000)], vec![(&quiet, 1), (&relay("b"), 15)]),
    ] {
        let (mut recent, now) = (Recent::new(MAX, LIFE), Instant::now());
        for (at, (party, count)) in steps.iter().enumerate() {
            put(&mut recent, party, at * 10_000, *count, now);
        }
        for (party, count) in left {
            assert_eq!(held(&recent, party), count, "{steps:?}: {party:?}");
        }
        assert_eq!(recent.len(), MAX);
    }
}

#[test]
fn the_oldest_of_ones_own_goes_first() {
    let (mut recent, now) = (Recent::new(MAX, LIFE), Instant::now());
    recent.put("first", client("loud"), (), now);
    recent.put("second", client("loud"), (), now);
    recent.put("quiet", client("quiet"), (), now);
    put(&mut recent, &client("loud"), 0, MAX - 3, now);
    assert!(recent.renew("first", now).is_some());
    recent.put("one more", client("loud"), (), now);
    assert!(recent.get("second", now).is_none());
    assert!(recent.get("first", now).is_some(), "it was used since");
    assert!(recent.get("quiet", now).is_some());
    assert!(recent.get("one more", now).is_some());
}

#[test]
fn as_many_as_there_is_room_for_may_have_one_each() {
    let (mut recent, now) = (Recent::new(MAX, LIFE), Instant::now());
    for number in 0..MAX {
        recent.put(&number.to_string(), client(&number.to_string()), (), now);
    }
    recent.put("newcomer", client("newcomer"), (), now);
    assert_eq!(recent.len(), MAX);
    assert!(recent.get("0", now).is_none(), "the oldest of all");
    assert!(recent.get("newcomer", now).is_some());
}

#[test]
fn whose_it_is_may_change() {
    let (mut recent, now) = (Recent::new(MAX, LIFE), Instant::now());
    recent.put("k", relay("b"), (), now);
    recent.belongs("k", &client("c"));
    recent.belongs("nothing", &client("c"));
    assert_eq!((held(&recent, &relay("b")), held(&recent, &client("c"))), (0, 1));
    assert_eq!(recent.take("k", now), Some(((), client("c"))));
    assert!(recent.counts.is_empty());
}

/// In the histories below: as many as can be, of whoever there can be.
const KEYS: u8 = 200;
const ROOM: usize = 64;
const PARTIES: u8 = 6;
/// One of them is a relay.
const FAIR: usize = ROOM / (PARTIES as usize - 1 + CLIENTS_OF_A_RELAY);

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Take(u8),
    Renew(u8),
    Belongs(u8, u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        16 => (0..KEYS, 0..PARTIES).prop_map(|(key, party)| Step::Put(key, party)),
        2 => (0..KEYS).prop_map(Step::Take),
        2 => (0..KEYS).prop_map(Step::Renew),
        1 => (0..KEYS, 0..PARTIES).prop_map(|(key, party)| Step::Belongs(key, party)),
        1 => (0..3_u64).prop_map(Step::Wait),
    ]
}

fn party(number: u8) -> Party {
    match number {
        0 | 1 => address(number),
        2 => relay("b"),
        _ => client(&number.to_string()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// What is counted is what is there, there is never too much of it, and who has no more than a fair part of it
    /// loses nothing to others.
    #[test]
    fn nobody_loses_a_fair_share_to_others(steps in prop::collection::vec(step(), 1..400)) {
        let (mut recent, mut now) = (Recent::new(ROOM, LIFE), Instant::now());
        for step in steps {
            let before = recent.counts.clone();
            match step {
                Step::Put(key, number) => {
                    let known = recent.entries.contains_key(key.to_string().as_str());
                    let over = recent.entries.front().is_some_and(|(_, entry)| entry.end <= now);
                    recent.put(&key.to_string(), party(number), (), now);
                    prop_assert!(recent.get(&key.to_string(), now).is_some(), "who comes is let in");
                    if !known && !over {
                        for (whose, count) in before {
                            let lost = count.saturating_sub(held(&recent, &whose));
                            let fair = whose != party(number) && count <= FAIR;
                            prop_assert!(lost <= 1 && !(fair && lost > 0), "{whose:?} had {count}");
                        }
                    }
                }
                Step::Take(key) => drop(recent.take(&key.to_string(), now)),
                Step::Renew(key) => drop(recent.renew(&key.to_string(), now)),
                Step::Belongs(key, number) => recent.belongs(&key.to_string(), &party(number)),
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
            }
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for (_, entry) in &recent.entries {
                *counts.entry(format!("{:?}", entry.party)).or_default() += 1;
            }
            let counted = recent.counts.iter().map(|(party, count)| (format!("{party:?}"), *count));
            prop_assert_eq!(counted.collect::<BTreeMap<_, _>>(), counts);
            prop_assert!(recent.len() <= ROOM);
        }
    }
}
