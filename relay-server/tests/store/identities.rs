//! People whom a provider knows, the same on both databases.

use relay_server::store::{Adopted, Grounds, NewSignIn, Person, SignInKind, Store};
use uuid::Uuid;

use crate::bench::{Bench, user};

crate::on_both_databases!(
    a_person_is_adopted_once,
    an_address_is_never_taken_over,
    one_of_many_adopts,
    linking_and_unlinking,
    one_auth_session_for_one_session_there,
    one_of_many_begins_a_session,
    a_client_may_begin_anew_with_a_later_token,
    a_person_signs_in_with_a_browser,
    what_is_old_is_removed,
);

const YEAR: u64 = 366 * 24 * 3600;
const ANN: Person<'static> = Person { issuer: "https://id.example", subject: "ann" };
const BOB: Person<'static> = Person { subject: "bob", ..ANN };
/// The same name at another provider is somebody else.
const OTHER: Person<'static> = Person { issuer: "https://other.example", ..ANN };
const HERE: Grounds<'static> = Grounds::Session("s1");
const LATER: i64 = 4_000_000_000;

async fn adopted(store: &Store, who: Person<'_>, email: &str) -> Uuid {
    match store.adopt_identity(who, email).await.unwrap() {
        Adopted::User(user) => user,
        Adopted::EmailTaken => panic!("{email} is taken"),
    }
}

async fn session(store: &Store, who: Person<'_>, grounds: Grounds<'_>, issued_at: i64) -> Option<Uuid> {
    store.provider_session(who, grounds, issued_at, "cli").await.unwrap()
}

async fn a_person_is_adopted_once(bench: Bench) {
    let store = &bench.store;
    assert_eq!(store.user_of_identity(ANN).await.unwrap(), None);
    let ann = adopted(store, ANN, "Ann@example.org").await;
    assert_eq!(store.user_of_identity(ANN).await.unwrap(), Some(ann));
    assert_eq!(store.account(ann).await.unwrap().unwrap().email, "ann@example.org");
    assert_eq!(adopted(store, ANN, "new@example.org").await, ann, "a second time changes nothing");
    assert_eq!(store.users().await.unwrap().len(), 1);
    assert_ne!(adopted(store, OTHER, "other@example.org").await, ann);
    assert_ne!(adopted(store, BOB, "bob@example.org").await, ann);
}

async fn an_address_is_never_taken_over(bench: Bench) {
    let store = &bench.store;
    user(store, "ann").await;
    assert_eq!(store.adopt_identity(ANN, "ann@example.org").await.unwrap(), Adopted::EmailTaken);
    assert_eq!(store.user_of_identity(ANN).await.unwrap(), None);
    assert_eq!(store.users().await.unwrap().len(), 1);
}

async fn one_of_many_adopts(bench: Bench) {
    let tries: Vec<_> = (0..8)
        .map(|n| {
            let store = bench.store.clone();
            tokio::spawn(async move { adopted(&store, ANN, &format!("ann{n}@example.org")).await })
        })
        .collect();
    let mut users = Vec::new();
    for one in tries {
        users.push(one.await.unwrap());
    }
    users.dedup();
    assert_eq!(users.len(), 1);
    assert_eq!(bench.store.users().await.unwrap().len(), 1, "nobody is left who is nobody");
}

async fn linking_and_unlinking(bench: Bench) {
    let store = &bench.store;
    let (ann, _) = (user(store, "ann").await.id, user(store, "bob").await);
    assert!(store.link_identity("nobody@example.org", ANN).await.is_err());
    assert_eq!(session(store, ANN, HERE, 0).await, None, "nobody is linked");
    store.link_identity("Ann@example.org", ANN).await.unwrap();
    store.link_identity("ann@example.org", ANN).await.unwrap();
    assert!(store.link_identity("bob@example.org", ANN).await.is_err(), "one person is one user");
    store.link_identity("ann@example.org", OTHER).await.unwrap();
    let ended = session(store, ANN, HERE, 0).await.unwrap();
    let other = session(store, OTHER, HERE, 0).await.unwrap();
    assert!(store.unlink_identity(ANN).await.unwrap());
    assert!(!store.unlink_identity(ANN).await.unwrap());
    assert!(!store.auth_session_live(ended, ann).await.unwrap());
    assert!(store.auth_session_live(other, ann).await.unwrap());
    assert_eq!(session(store, ANN, HERE, 0).await, None);
}

async fn one_auth_session_for_one_session_there(bench: Bench) {
    let store = &bench.store;
    let ann = adopted(store, ANN, "ann@example.org").await;
    adopted(store, BOB, "bob@example.org").await;
    let first = session(store, ANN, HERE, 0).await.unwrap();
    assert!(store.auth_session_live(first, ann).await.unwrap());
    assert_eq!(session(store, ANN, HERE, LATER).await, Some(first));
    for (who, grounds) in [(ANN, Grounds::Session("s2")), (ANN, Grounds::Client("s1")), (BOB, HERE)] {
        assert_ne!(session(store, who, grounds, 0).await, Some(first), "{who:?} {grounds:?}");
    }
    let listed = store.auth_sessions(ann).await.unwrap();
    assert!(listed.iter().all(|row| row.kind == SignInKind::Token && row.name == "cli"), "{listed:?}");
    assert_eq!(listed.len(), 3);
    assert!(!store.is_browser_sign_in(first).await.unwrap());
    assert!(store.end_auth_session(first, ann).await.unwrap());
    assert_eq!(session(store, ANN, HERE, LATER).await, None, "ended for good");
    assert_eq!(store.auth_sessions(ann).await.unwrap().len(), 2);
}

async fn one_of_many_begins_a_session(bench: Bench) {
    let ann = adopted(&bench.store, ANN, "ann@example.org").await;
    let tries: Vec<_> = (0..8)
        .map(|_| {
            let store = bench.store.clone();
            tokio::spawn(async move { session(&store, ANN, HERE, 0).await.unwrap() })
        })
        .collect();
    let mut sessions = Vec::new();
    for one in tries {
        sessions.push(one.await.unwrap());
    }
    sessions.dedup();
    assert_eq!(sessions.len(), 1);
    assert_eq!(bench.store.auth_sessions(ann).await.unwrap().len(), 1);
}

async fn a_client_may_begin_anew_with_a_later_token(bench: Bench) {
    let store = &bench.store;
    let ann = adopted(store, ANN, "ann@example.org").await;
    const CLI: Grounds<'_> = Grounds::Client("cli");
    let first = session(store, ANN, CLI, 0).await.unwrap();
    assert!(store.end_auth_session(first, ann).await.unwrap());
    assert_eq!(session(store, ANN, CLI, 0).await, None, "a token that was made before");
    let second = session(store, ANN, CLI, LATER).await.unwrap();
    assert_ne!(second, first);
    assert!(store.auth_session_live(second, ann).await.unwrap());
    assert!(!store.auth_session_live(first, ann).await.unwrap());
    // Nobody used it for a year: the next token begins anew, whatever it stands for.
    let other = session(store, ANN, HERE, 0).await.unwrap();
    bench.age("auth_sessions", "created_at", YEAR).await;
    bench.age("auth_sessions", "last_used_at", YEAR).await;
    assert_ne!(session(store, ANN, CLI, 0).await.unwrap(), second);
    assert_ne!(session(store, ANN, HERE, 0).await.unwrap(), other);
}

async fn a_person_signs_in_with_a_browser(bench: Bench) {
    let store = &bench.store;
    let new = || NewSignIn { id: Uuid::new_v4(), name: "Firefox on Linux", expires_at: LATER };
    assert_eq!(store.sign_in_by_identity(ANN, new()).await.unwrap(), None);
    let ann = adopted(store, ANN, "ann@example.org").await;
    let (one, two) = (new(), new());
    assert_eq!(store.sign_in_by_identity(ANN, one).await.unwrap().unwrap().id, ann);
    assert_eq!(store.sign_in_by_identity(ANN, two).await.unwrap().unwrap().id, ann);
    let listed = store.auth_sessions(ann).await.unwrap();
    assert!(listed.iter().all(|row| row.kind == SignInKind::Browser && row.name == "Firefox on Linux"));
    assert!(store.is_browser_sign_in(one.id).await.unwrap());
    assert!(store.end_auth_session(one.id, ann).await.unwrap());
    assert!(store.auth_session_live(two.id, ann).await.unwrap());
    assert!(store.unlink_identity(ANN).await.unwrap());
    assert!(!store.auth_session_live(two.id, ann).await.unwrap());
}

async fn what_is_old_is_removed(bench: Bench) {
    let store = &bench.store;
    let ann = adopted(store, ANN, "ann@example.org").await;
    let ended = session(store, ANN, HERE, 0).await.unwrap();
    store.end_auth_session(ended, ann).await.unwrap();
    bench.age("auth_sessions", "revoked_at", 200 * 24 * 3600).await;
    assert_eq!(store.forget_ended_sign_ins().await.unwrap(), 0);
    assert_eq!(session(store, ANN, HERE, LATER).await, None, "it is remembered that it ended");
    bench.age("auth_sessions", "created_at", YEAR).await;
    assert_eq!(store.forget_ended_sign_ins().await.unwrap(), 2);
    assert_eq!(store.forget_ended_sign_ins().await.unwrap(), 0);
}
