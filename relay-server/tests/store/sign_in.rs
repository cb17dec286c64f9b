//! Passwords, one-time links, auth sessions and devices, the same on both databases.

use std::ops::Range;

use relay_server::store::{
    Account, Admission, AuthSessionRow, DeviceLogin, DevicePoll, NewDevice, NewSignIn, SignInKind, Store,
};
use uuid::Uuid;

use crate::bench::{Bench, signed_in, user};

crate::on_both_databases!(
    a_password_is_changed_by_who_knows_it,
    a_password_signs_in_while_it_is_the_password,
    a_link_is_good_once_and_for_a_while,
    one_of_many_wins_a_link,
    sessions_are_listed_extended_and_ended,
    a_device_asks_is_let_in_once_and_refreshes,
    a_device_is_refused_or_forgotten,
    one_of_many_is_let_in,
    questions_are_bounded_for_an_address_and_in_all,
    one_network_of_many_addresses_crowds_out_itself,
    what_has_ended_is_removed,
);

const FAR: i64 = 4_000_000_000;

fn new(name: &str) -> NewSignIn<'_> {
    NewSignIn { id: Uuid::new_v4(), name, expires_at: FAR }
}

async fn account(store: &Store, name: &str) -> Account {
    store.account_by_email(&format!("{name}@example.org")).await.unwrap().unwrap()
}

async fn a_password_is_changed_by_who_knows_it(bench: Bench) {
    let store = &bench.store;
    let ann = user(store, "ann").await.id;
    assert_eq!(account(store, " Ann").await.password_hash, None);
    assert_eq!(store.account_by_email("bob@example.org").await.unwrap(), None);
    assert!(!store.change_password(ann, Some("none"), "one").await.unwrap());
    assert!(store.change_password(ann, None, "one").await.unwrap());
    assert!(!store.change_password(ann, None, "two").await.unwrap(), "there is one meanwhile");
    assert!(!store.change_password(ann, Some("other"), "two").await.unwrap());
    assert!(store.change_password(ann, Some("one"), "two").await.unwrap());
    assert!(!store.change_password(Uuid::new_v4(), None, "one").await.unwrap());
    assert_eq!(store.account(ann).await.unwrap().unwrap().password_hash.as_deref(), Some("two"));
    store.reset_password("ANN@example.org", "three").await.unwrap();
    assert_eq!(account(store, "ann").await.password_hash.as_deref(), Some("three"));
    assert!(store.reset_password("bob@example.org", "x").await.is_err());
    assert!(!format!("{:?}", account(store, "ann").await).contains("three"), "a hash does not print");
}

async fn a_password_signs_in_while_it_is_the_password(bench: Bench) {
    let store = &bench.store;
    let ann = user(store, "ann").await.id;
    store.reset_password("ann@example.org", "one").await.unwrap();
    let sign_in = new("Firefox on Linux");
    assert!(store.sign_in_by_password(ann, "one", sign_in).await.unwrap());
    assert!(store.auth_session_live(sign_in.id, ann).await.unwrap());
    let late = new("x");
    assert!(!store.sign_in_by_password(ann, "zero", late).await.unwrap(), "it was changed meanwhile");
    assert!(!store.auth_session_live(late.id, ann).await.unwrap());
    assert_eq!(store.auth_sessions(ann).await.unwrap().len(), 1);
}

async fn a_link_is_good_once_and_for_a_while(bench: Bench) {
    let store = &bench.store;
    let ann = user(store, "ann").await.id;
    assert!(store.add_login_link("bob@example.org", "h").await.is_err());
    store.add_login_link("Ann@example.org", "h").await.unwrap();
    assert_eq!(store.sign_in_by_link("other", new("x")).await.unwrap(), None);
    let first = new("x");
    assert_eq!(store.sign_in_by_link("h", first).await.unwrap().unwrap().id, ann);
    assert!(store.auth_session_live(first.id, ann).await.unwrap());
    let second = new("x");
    assert_eq!(store.sign_in_by_link("h", second).await.unwrap(), None, "once");
    assert!(!store.auth_session_live(second.id, ann).await.unwrap());

    store.add_login_link("ann@example.org", "late").await.unwrap();
    bench.age("login_links", "expires_at", 15 * 60 - 60).await;
    assert!(store.sign_in_by_link("late", new("x")).await.unwrap().is_some(), "within 15 minutes");
    store.add_login_link("ann@example.org", "later").await.unwrap();
    bench.age("login_links", "expires_at", 15 * 60 + 1).await;
    assert_eq!(store.sign_in_by_link("later", new("x")).await.unwrap(), None, "after 15 minutes");
}

async fn one_of_many_wins_a_link(bench: Bench) {
    user(&bench.store, "ann").await;
    bench.store.add_login_link("ann@example.org", "h").await.unwrap();
    let mut tries = Vec::new();
    for _ in 0..8 {
        let store = bench.store.clone();
        tries
            .push(tokio::spawn(async move { store.sign_in_by_link("h", new("x")).await.unwrap().is_some() }));
    }
    let mut won = 0;
    for one in tries {
        won += usize::from(one.await.unwrap());
    }
    assert_eq!(won, 1);
}

fn kinds(rows: &[AuthSessionRow]) -> Vec<(SignInKind, &str)> {
    rows.iter().map(|row| (row.kind, row.name.as_str())).collect()
}

async fn sessions_are_listed_extended_and_ended(bench: Bench) {
    let store = &bench.store;
    let (ann, token) = signed_in(store, "ann").await;
    let (bob, _) = signed_in(store, "bob").await;
    bench.age("auth_sessions", "created_at", 10).await;
    store.reset_password("ann@example.org", "one").await.unwrap();
    let browser = new("Firefox on Linux");
    assert!(store.sign_in_by_password(ann, "one", browser).await.unwrap());
    let listed = store.auth_sessions(ann).await.unwrap();
    assert_eq!(kinds(&listed), [(SignInKind::Browser, "Firefox on Linux"), (SignInKind::Token, "test")]);
    assert_eq!((listed[0].id, listed[1].id), (browser.id, token));

    assert!(store.is_browser_sign_in(browser.id).await.unwrap());
    assert!(!store.is_browser_sign_in(token).await.unwrap());
    assert!(!store.extend_sign_in(token, FAR).await.unwrap(), "a token does not grow older than it was made");
    assert!(store.extend_sign_in(browser.id, 1).await.unwrap());
    assert_eq!(store.auth_sessions(ann).await.unwrap().len(), 1, "its cookie has ended");
    assert!(store.extend_sign_in(browser.id, FAR).await.unwrap());
    assert_eq!(store.auth_sessions(ann).await.unwrap().len(), 2);

    assert!(!store.end_auth_session(browser.id, bob).await.unwrap(), "not Bob's to end");
    assert!(store.end_auth_session(browser.id, ann).await.unwrap());
    assert!(!store.end_auth_session(browser.id, ann).await.unwrap());
    assert!(!store.auth_session_live(browser.id, ann).await.unwrap());
    assert_eq!(kinds(&store.auth_sessions(ann).await.unwrap()), [(SignInKind::Token, "test")]);
    assert_eq!(store.auth_sessions(bob).await.unwrap().len(), 1);
}

fn device<'a>(hash: &'a str, code: &'a str, from: &'a str) -> NewDevice<'a> {
    NewDevice {
        device_code_hash: hash,
        user_code: code,
        client_id: "agent",
        name: "laptop",
        address: from,
        rate_key: from,
    }
}

async fn poll(store: &Store, hash: &str) -> DevicePoll {
    store.poll_device_login(hash, "agent").await.unwrap()
}

async fn a_device_asks_is_let_in_once_and_refreshes(bench: Bench) {
    let store = &bench.store;
    let ann = user(store, "ann").await.id;
    assert_eq!(store.add_device_login(device("h", "CODE", "1.2.3.4")).await.unwrap(), Admission::Pending);
    assert_eq!(store.add_device_login(device("i", "CODE", "1.2.3.4")).await.unwrap(), Admission::CodeTaken);
    let row = store.device_login("CODE").await.unwrap().unwrap();
    assert_eq!(
        (row.name.as_str(), row.address.as_str(), row.expires_at - row.created_at),
        ("laptop", "1.2.3.4", 600)
    );
    assert_eq!(poll(store, "h").await, DevicePoll::Pending);
    bench.age("device_logins", "next_poll_at", 60).await;
    assert_eq!(poll(store, "h").await, DevicePoll::Pending, "it waited long enough");
    for _ in 0..2 {
        // However slow this machine is: the next question is due an hour from now.
        bench.postpone("device_logins", "next_poll_at", 3600).await;
        assert_eq!(poll(store, "h").await, DevicePoll::SlowDown);
    }
    assert_eq!(poll(store, "other").await, DevicePoll::Unknown);
    assert_eq!(store.poll_device_login("h", "another client").await.unwrap(), DevicePoll::Unknown);
    assert_eq!(store.grant_device_login("h", "agent", "r").await.unwrap(), None, "nobody has said yes");

    assert!(!store.decide_device_login("OTHER", ann, true).await.unwrap());
    assert!(store.decide_device_login("CODE", ann, true).await.unwrap());
    assert!(!store.decide_device_login("CODE", ann, false).await.unwrap(), "decided is decided");
    assert_eq!(store.device_login("CODE").await.unwrap(), None);
    assert_eq!(poll(store, "h").await, DevicePoll::Approved);
    assert_eq!(store.grant_device_login("h", "another client", "r").await.unwrap(), None);
    let DeviceLogin { user, auth_session } =
        store.grant_device_login("h", "agent", "r").await.unwrap().unwrap();
    assert_eq!(user, ann);
    assert_eq!(store.grant_device_login("h", "agent", "s").await.unwrap(), None, "once");
    assert_eq!(poll(store, "h").await, DevicePoll::Unknown);
    assert_eq!(kinds(&store.auth_sessions(ann).await.unwrap()), [(SignInKind::Device, "laptop")]);

    assert_eq!(store.refresh("r", "agent").await.unwrap(), Some((ann, auth_session)));
    assert_eq!(
        store.refresh("r", "agent").await.unwrap(),
        Some((ann, auth_session)),
        "as long as the session"
    );
    assert_eq!(store.refresh("r", "another client").await.unwrap(), None);
    assert_eq!(store.refresh("s", "agent").await.unwrap(), None);
    assert!(!store.extend_sign_in(auth_session, FAR).await.unwrap(), "it is no browser");
    assert!(store.end_auth_session(auth_session, ann).await.unwrap());
    assert_eq!(store.refresh("r", "agent").await.unwrap(), None);
}

async fn a_device_is_refused_or_forgotten(bench: Bench) {
    let store = &bench.store;
    let ann = user(store, "ann").await.id;
    for (hash, code) in [("no", "NO"), ("late", "LATE"), ("yes", "YES")] {
        store.add_device_login(device(hash, code, "1.2.3.4")).await.unwrap();
    }
    assert!(store.decide_device_login("NO", ann, false).await.unwrap());
    assert!(store.decide_device_login("YES", ann, true).await.unwrap());
    assert_eq!(poll(store, "no").await, DevicePoll::Denied);
    assert_eq!(store.grant_device_login("no", "agent", "r").await.unwrap(), None);
    bench.age("device_logins", "expires_at", 601).await;
    assert_eq!(store.device_login("LATE").await.unwrap(), None);
    assert!(!store.decide_device_login("LATE", ann, true).await.unwrap());
    assert_eq!(poll(store, "late").await, DevicePoll::Expired);
    assert_eq!(poll(store, "yes").await, DevicePoll::Expired, "a yes does not wait for ever either");
    assert_eq!(store.grant_device_login("yes", "agent", "r").await.unwrap(), None);
    assert_eq!(store.auth_sessions(ann).await.unwrap(), vec![]);
}

async fn one_of_many_is_let_in(bench: Bench) {
    let ann = user(&bench.store, "ann").await.id;
    bench.store.add_device_login(device("h", "CODE", "1.2.3.4")).await.unwrap();
    bench.store.decide_device_login("CODE", ann, true).await.unwrap();
    let mut tries = Vec::new();
    for n in 0..8 {
        let store = bench.store.clone();
        tries.push(tokio::spawn(async move {
            store.grant_device_login("h", "agent", &format!("r{n}")).await.unwrap().is_some()
        }));
    }
    let mut won = 0;
    for one in tries {
        won += usize::from(one.await.unwrap());
    }
    assert_eq!(won, 1);
    assert_eq!(bench.store.auth_sessions(ann).await.unwrap().len(), 1);
}

async fn questions_are_bounded_for_an_address_and_in_all(bench: Bench) {
    let store = &bench.store;
    let ask = async |n: usize, from: &str| {
        store.add_device_login(device(&format!("h{n}"), &format!("C{n}"), from)).await.unwrap()
    };
    for n in 0..16 {
        assert_eq!(ask(n, "a").await, Admission::Pending);
    }
    assert_eq!(ask(16, "a").await, Admission::TooMany);
    assert_eq!(ask(17, "b").await, Admission::Pending, "another address is not touched by it");
    let user = user(store, "ann").await.id;
    assert!(store.decide_device_login("C0", user, false).await.unwrap());
    assert_eq!(ask(18, "a").await, Admission::Pending, "what is decided makes room");
    bench.age("device_logins", "created_at", 5).await;

    // The rest of the places, from as many addresses.
    assert_eq!(ask(1017, "n17").await, Admission::Pending);
    others_ask(&bench, "C1017", 1018..2020).await;
    for n in 2020..2024 {
        assert_eq!(ask(n, &format!("n{n}")).await, Admission::Pending);
    }
    assert!(store.device_login("C1").await.unwrap().is_some());
    assert_eq!(ask(5000, "late").await, Admission::Pending);
    let mut left = 0;
    for n in 1..19 {
        left += usize::from(n != 17 && store.device_login(&format!("C{n}")).await.unwrap().is_some());
    }
    assert_eq!(left, 15, "one of the address that has the most made room");
    assert!(store.device_login("C17").await.unwrap().is_some(), "nobody else's did");
    assert!(store.device_login("C5000").await.unwrap().is_some());
}

/// As many devices as there are numbers, each from a network of its own, ask as the one with this code did: in one
/// statement, because a thousand calls take their time.
async fn others_ask(bench: &Bench, like: &str, numbers: Range<usize>) {
    bench
        .sql(&format!(
            "with recursive numbers (n) as (select {} union all select n + 1 from numbers where n < {}) \
             insert into device_logins (id, device_code_hash, user_code, client_id, name, address, rate_key, \
             next_poll_at, created_at, expires_at) select {}, 'h' || n, 'C' || n, client_id, name, address, \
             '4:' || (100000000000 + n) || ':0000', next_poll_at, created_at, expires_at \
             from device_logins cross join numbers where user_code = '{like}'",
            numbers.start,
            numbers.end - 1,
            bench.new_id(),
        ))
        .await;
}

async fn one_network_of_many_addresses_crowds_out_itself(bench: Bench) {
    let store = &bench.store;
    let ask = async |n: usize, from: &str| {
        store.add_device_login(device(&format!("h{n}"), &format!("C{n}"), from)).await.unwrap()
    };
    // Somebody who has waited for longest, then one network with an address for each question.
    assert_eq!(ask(0, "4:0000cb007101:0000").await, Admission::Pending);
    bench.age("device_logins", "created_at", 9).await;
    for n in 1..65 {
        assert_eq!(ask(n, &format!("6:20010db80001:{n:04x}")).await, Admission::Pending);
    }
    assert_eq!(ask(65, "6:20010db80001:ffff").await, Admission::TooMany);
    assert_eq!(
        ask(66, "6:20010db80002:ffff").await,
        Admission::Pending,
        "another network is not touched by it"
    );
    bench.age("device_logins", "created_at", 5).await;
    assert_eq!(ask(1066, "4:000000000066:0000").await, Admission::Pending);
    others_ask(&bench, "C1066", 1067..2020).await;
    for n in 2020..2024 {
        assert_eq!(ask(n, &format!("4:{n:012x}:0000")).await, Admission::Pending);
    }
    assert_eq!(ask(5000, "4:0000cb007102:0000").await, Admission::Pending);
    let mut left = 0;
    for n in 1..65 {
        left += usize::from(store.device_login(&format!("C{n}")).await.unwrap().is_some());
    }
    assert_eq!(left, 63, "one of the network that has the most made room");
    assert!(store.device_login("C0").await.unwrap().is_some(), "nobody else's did, however old");
}

async fn what_has_ended_is_removed(bench: Bench) {
    let store = &bench.store;
    let ann = user(store, "ann").await.id;
    store.add_login_link("ann@example.org", "old").await.unwrap();
    store.add_device_login(device("old", "OLD", "a")).await.unwrap();
    store.add_device_login(device("gone", "GONE", "a")).await.unwrap();
    store.decide_device_login("GONE", ann, true).await.unwrap();
    let ended = store.grant_device_login("gone", "agent", "ended").await.unwrap().unwrap();
    store.end_auth_session(ended.auth_session, ann).await.unwrap();
    store.add_login_link("ann@example.org", "browser").await.unwrap();
    let browser = NewSignIn { expires_at: 1, ..new("x") };
    store.sign_in_by_link("browser", browser).await.unwrap().unwrap();
    bench.age("login_links", "expires_at", 2 * 3600).await;
    bench.age("device_logins", "expires_at", 2 * 3600).await;

    store.add_login_link("ann@example.org", "fresh").await.unwrap();
    store.add_device_login(device("fresh", "FRESH", "a")).await.unwrap();
    store.add_device_login(device("kept", "KEPT", "a")).await.unwrap();
    store.decide_device_login("KEPT", ann, true).await.unwrap();
    let kept = store.grant_device_login("kept", "agent", "kept").await.unwrap().unwrap();
    // Two links, two devices, one refresh token, and the browser that never came back.
    assert_eq!(store.forget_ended_sign_ins().await.unwrap(), 6);
    assert_eq!(store.forget_ended_sign_ins().await.unwrap(), 0);
    assert!(!store.auth_session_live(browser.id, ann).await.unwrap());
    assert_eq!(store.refresh("kept", "agent").await.unwrap(), Some((ann, kept.auth_session)));
    assert!(store.device_login("FRESH").await.unwrap().is_some());
    assert!(store.sign_in_by_link("fresh", new("x")).await.unwrap().is_some());
    // A month later the two that have ended are gone, with what was known of them, and nobody else is.
    let (_, token) = signed_in(store, "bob").await;
    store.revoke_token(token).await.unwrap();
    bench.age("auth_sessions", "revoked_at", 31 * 24 * 3600).await;
    assert_eq!(store.forget_ended_sign_ins().await.unwrap(), 4);
    assert_eq!(store.forget_ended_sign_ins().await.unwrap(), 0);
    assert_eq!(store.auth_sessions(ann).await.unwrap().len(), 2);
    assert_eq!(store.tokens().await.unwrap().len(), 1, "tokens are kept for the list");
}
