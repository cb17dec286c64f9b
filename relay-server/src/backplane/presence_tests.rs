use super::*;
use crate::backplane::writer::RENEW;

fn pair() -> Pair {
    Pair { workspace: "w".into(), target: Some("t".into()) }
}

fn daemon(connection: Uuid) -> Daemon {
    Daemon { connection, machine: None, generation: 1 }
}

fn lost() -> Result<Written, Failure> {
    Ok(Written::Lost { higher_generation: false })
}

fn loss(connection: Uuid, confirmed: bool) -> Option<Loss> {
    Some(Loss { connection, higher_generation: false, confirmed })
}

fn away() -> Result<Written, Failure> {
    Err(Failure::Away(String::new()))
}

#[test]
fn only_the_newest_truth_is_written_and_a_late_end_changes_nothing() {
    let presence = Presence::new();
    let (old, new) = (Uuid::new_v4(), Uuid::new_v4());
    presence.daemon_opened(&pair(), daemon(old));
    presence.daemon_opened(&pair(), daemon(new));
    presence.daemon_closed(&pair(), old);
    let jobs = presence.take();
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0].now.as_ref().unwrap().connection, new);
    assert_eq!(presence.done(&jobs[0], &Ok(Written::Held)), None);
    presence.daemon_closed(&pair(), old);
    assert!(presence.take().is_empty());
    presence.daemon_closed(&pair(), new);
    let jobs = presence.take();
    assert!(jobs[0].now.is_none() && jobs[0].told == [new]);
    presence.done(&jobs[0], &Ok(Written::Held));
    assert!(presence.state.lock().subjects.is_empty());
}

#[test]
fn what_failed_is_written_again_and_an_end_in_the_meantime_is_not_lost() {
    let presence = Presence::new();
    let connection = Uuid::new_v4();
    presence.daemon_opened(&pair(), daemon(connection));
    let jobs = presence.take();
    // It ends while it is being written, and the write may have arrived or not.
    presence.daemon_closed(&pair(), connection);
    presence.done(&jobs[0], &away());
    let jobs = presence.take();
    assert!(jobs[0].now.is_none() && jobs[0].told == [connection]);
    presence.done(&jobs[0], &away());
    let jobs = presence.take();
    assert!(jobs[0].now.is_none() && jobs[0].told == [connection]);
    presence.done(&jobs[0], &Ok(Written::Held));
    assert!(presence.take().is_empty() && presence.state.lock().subjects.is_empty());
}

#[test]
fn a_loss_is_told_once_and_never_of_a_connection_that_has_gone() {
    let presence = Presence::new();
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    presence.daemon_opened(&pair(), daemon(first));
    let jobs = presence.take();
    assert_eq!(presence.done(&jobs[0], &lost()), loss(first, false));
    presence.told_of_loss(&jobs[0].subject, loss(first, false).unwrap());
    presence.renew();
    let jobs = presence.take();
    assert_eq!(presence.done(&jobs[0], &lost()), None);
    presence.renew();
    let jobs = presence.take();
    presence.daemon_opened(&pair(), daemon(second));
    assert_eq!(presence.done(&jobs[0], &lost()), None);
    let jobs = presence.take();
    assert_eq!(presence.done(&jobs[0], &lost()), loss(second, false));
}

#[test]
fn who_is_confirmed_and_loses_all_the_same_is_told_of_once_more() {
    let presence = Presence::new();
    let connection = Uuid::new_v4();
    presence.daemon_opened(&pair(), daemon(connection));
    let jobs = presence.take();
    assert!(!jobs[0].now.as_ref().unwrap().confirmed && !jobs[0].contests);
    presence.told_of_loss(&jobs[0].subject, presence.done(&jobs[0], &lost()).unwrap());
    presence.renew();
    let late = presence.take();
    presence.daemon_confirmed(&pair(), connection);
    assert_eq!(presence.done(&late[0], &lost()), None, "it was not confirmed yet");
    let jobs = presence.take();
    assert!(jobs[0].now.as_ref().unwrap().confirmed && jobs[0].contests);
    let news = presence.done(&jobs[0], &lost());
    assert_eq!(news, loss(connection, true));
    presence.told_of_loss(&jobs[0].subject, news.unwrap());
    presence.daemon_confirmed(&pair(), connection);
    assert_eq!(presence.done(&presence.take()[0], &lost()), None, "and then no more");

    // What has gone is not revived.
    presence.daemon_closed(&pair(), connection);
    let jobs = presence.take();
    presence.done(&jobs[0], &Ok(Written::Held));
    presence.daemon_confirmed(&pair(), connection);
    assert!(presence.take().is_empty() && presence.state.lock().subjects.is_empty());
}

#[tokio::test(start_paused = true)]
async fn two_that_are_confirmed_write_over_each_other_slowly_and_are_looked_at_again() {
    let presence = Presence::new();
    let connection = Uuid::new_v4();
    presence.daemon_opened(&pair(), daemon(connection));
    presence.done(&presence.take()[0], &lost());
    presence.daemon_confirmed(&pair(), connection);
    let jobs = presence.take();
    assert!(jobs[0].contests);
    presence.done(&jobs[0], &Ok(Written::Unsure));
    assert!(presence.take().is_empty());
    assert_eq!(presence.next(), Some(Instant::now() + LOOK));
    tokio::time::advance(LOOK).await;
    let jobs = presence.take();
    assert!(!jobs[0].contests, "too soon");
    presence.done(&jobs[0], &Ok(Written::Left));
    assert_eq!(presence.next(), None);
    presence.renew();
    let jobs = presence.take();
    assert!(!jobs[0].contests, "still too soon");
    presence.done(&jobs[0], &Ok(Written::Left));
    tokio::time::advance(CONTEST - LOOK).await;
    presence.renew();
    assert!(presence.take()[0].contests);
}

/// A pair of which nobody wants to know: it waits longer and longer, and no other waits for it.
#[tokio::test(start_paused = true)]
async fn one_that_is_refused_delays_no_other() {
    const DAEMONS: usize = 2000;
    let presence = Presence::new();
    let of = |number: usize| Pair { workspace: number.to_string().into(), target: None };
    for number in 0..DAEMONS {
        presence.daemon_opened(&of(number), daemon(Uuid::new_v4()));
    }
    let poisoned = Subject::Daemon(of(7));
    let mut tries = 0;
    for round in 0..3 {
        let begun = Instant::now();
        let mut held = 0;
        while held < DAEMONS - 1 {
            let jobs = presence.take();
            assert!(!jobs.is_empty(), "none of them waits for something else");
            // What a platform takes for each of those that are written side by side.
            tokio::time::advance(Duration::from_millis(50)).await;
            for job in &jobs {
                let refused = job.subject == poisoned;
                tries += usize::from(refused);
                held += usize::from(!refused);
                let result = if refused { Err(Failure::Refused(String::new())) } else { Ok(Written::Held) };
                presence.done(job, &result);
            }
        }
        assert!(begun.elapsed() < RENEW * 2 / 3, "round {round}: {:?}", begun.elapsed());
        presence.renew();
    }
    assert!((2..=8).contains(&tries), "{tries}");
    assert_eq!(presence.state.lock().subjects.len(), DAEMONS);
    // It is tried again by itself, within the time of a renewal, and a change of it at once.
    loop {
        let jobs = presence.take();
        if jobs.is_empty() {
            break;
        }
        for job in &jobs {
            let refused = job.subject == poisoned;
            let result = if refused { Err(Failure::Refused(String::new())) } else { Ok(Written::Held) };
            presence.done(job, &result);
        }
    }
    let wait = presence.next().unwrap() - Instant::now();
    assert!(wait <= REFUSED_LONGEST, "{wait:?}");
    presence.daemon_opened(&of(7), daemon(Uuid::new_v4()));
    assert!(presence.take().iter().any(|job| job.subject == poisoned));
    assert_eq!(presence.next(), None);
}

#[test]
fn a_host_is_here_while_one_of_its_tunnels_is() {
    let presence = Presence::new();
    let (host, one, two) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    presence.host_opened(host, one);
    presence.host_opened(host, two);
    presence.host_closed(host, one);
    presence.host_closed(host, one);
    let jobs = presence.take();
    assert!(jobs.len() == 1 && jobs[0].now.is_some());
    presence.done(&jobs[0], &Ok(Written::Held));
    presence.host_closed(host, two);
    let jobs = presence.take();
    assert!(jobs[0].now.is_none());
    presence.done(&jobs[0], &Ok(Written::Held));
    presence.host_closed(host, two);
    assert!(presence.take().is_empty() && presence.state.lock().subjects.is_empty());
}

#[test]
fn a_turmoil_takes_no_more_room_than_there_are_subjects() {
    let presence = Presence::new();
    for _ in 0..1000 {
        let connection = Uuid::new_v4();
        presence.daemon_opened(&pair(), daemon(connection));
        presence.daemon_closed(&pair(), connection);
        presence.renew();
    }
    assert_eq!(presence.state.lock().queue.len(), 1);
}
