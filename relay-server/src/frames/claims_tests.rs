//! Claims, one rule after the other.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use serde_json::json;

const NOW: i64 = 1_800_000_000;

fn asked(role: Role, target: Option<&str>) -> Asked {
    Asked { role, workspace: "w".into(), target: target.map(Into::into) }
}

fn from() -> RateKey {
    RateKey::of([203, 0, 113, 1].into())
}

fn claims(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// The claims of a client of scope runtime, with these on top; null takes one away.
fn client(more: Value) -> Map<String, Value> {
    let mut all = claims(json!({
        "workspaceId": "w", "runtimeTargetId": "t", "role": "client", "scope": "runtime",
    }));
    all.extend(claims(more));
    all
}

fn refused(asked: &Asked, claims: &Map<String, Value>) -> Option<Violation> {
    admit(asked, claims, from(), NOW).err()
}

#[test]
fn a_whole_number_is_one_however_it_is_written() {
    for (text, generation) in
        [("5", 5), ("5.0", 5), ("-2.0", -2), ("5e2", 500), ("562949953421312.0", 1 << 49)]
    {
        let written: Value = serde_json::from_str(&format!("{{\"daemonIssueGeneration\": {text}}}")).unwrap();
        let who = admit(&asked(Role::Client, Some("t")), &client(written), from(), NOW).unwrap();
        assert_eq!(who.generation, generation, "{text}");
    }
}

#[test]
fn a_good_token_admits_and_says_who() {
    let all = client(json!({
        "e2eeProfile": "noise-ikpsk2", "clientId": "c-1", "userId": 77, "machineId": "m", "exp": NOW + 10,
        "sessionChannels": ["agent-session:a", "agent-session:b"], "daemonIssueGeneration": 3,
        "unknown": {"deep": [1, 2, 3]}, "iat": "whenever",
    }));
    let who = admit(&asked(Role::Client, Some("t")), &all, from(), NOW).unwrap();
    assert_eq!((&*who.pair.workspace, who.pair.target.as_deref()), ("w", Some("t")));
    assert_eq!(
        (who.role, who.scope, who.profile),
        (Role::Client, Some(Scope::Runtime), Some(Profile::NoiseIkPsk2))
    );
    assert_eq!((who.client_id.as_deref(), who.user_id.as_deref()), (Some("c-1"), Some("77")));
    assert_eq!((who.machine.as_deref(), who.generation), (Some("m"), 3));
    assert_eq!(who.channels.len(), 2);
}

#[test]
fn what_the_token_does_not_allow_is_refused() {
    for (more, why) in [
        (json!({"workspaceId": "x"}), "another workspace"),
        (json!({"workspaceId": null}), "no workspace"),
        (json!({"workspaceId": 1}), "a workspace that is no text"),
        (json!({"workspaceId": "W"}), "another case"),
        (json!({"runtimeTargetId": "x"}), "another target"),
        (json!({"runtimeTargetId": ["t"]}), "a target that is no text"),
        (json!({"role": "workspace-daemon"}), "another role"),
        (json!({"role": null}), "no role"),
        (json!({"role": ["client"]}), "a role that is no text"),
        (json!({"scope": null}), "no scope"),
        (json!({"scope": "everything"}), "an unknown scope"),
        (json!({"scope": ["runtime"]}), "a scope that is no text"),
        (json!({"e2eeProfile": "none"}), "an unknown profile"),
        (json!({"e2eeProfile": false}), "a profile that is no text"),
        (json!({"clientId": {}}), "an id that is none"),
        (json!({"clientId": ""}), "an empty id"),
        (json!({"clientId": 1.5}), "half an id"),
        (json!({"userId": "x".repeat(257)}), "an endless id"),
        (json!({"userId": "a\nb"}), "an id of two lines"),
        (json!({"machineId": true}), "a machine that is none"),
        (json!({"sessionChannels": "agent-session:a"}), "channels that are no list"),
        (json!({"sessionChannels": ["agent-session:a", 1]}), "a channel that is no text"),
        (json!({"sessionChannels": vec!["c"; 1025]}), "too many channels"),
        (json!({"sessionChannels": ["x".repeat(257)]}), "an endless channel"),
        (json!({"daemonIssueGeneration": "3"}), "a generation that is no number"),
        (json!({"daemonIssueGeneration": 1.5}), "half a generation"),
        (json!({"daemonIssueGeneration": 1e300}), "a generation beyond measure"),
        (json!({"daemonIssueGeneration": 1.2e15}), "a generation that may have been rounded"),
        (
            json!({"daemonIssueGeneration": 18_446_744_073_709_551_615_u64}),
            "a generation beyond what is counted",
        ),
        (json!({"exp": NOW - LEEWAY}), "an end in the past"),
        (json!({"exp": "never"}), "an end that is no time"),
        (json!({"exp": -1e300}), "an end before everything"),
    ] {
        let violation = refused(&asked(Role::Client, Some("t")), &client(more));
        assert!(matches!(violation, Some(Violation::Claim(_))), "{why}: {violation:?}");
    }
    assert_eq!(refused(&asked(Role::Client, Some("t")), &client(json!({"exp": NOW - LEEWAY + 1}))), None);
    assert_eq!(refused(&asked(Role::Client, Some("t")), &client(json!({"exp": NOW as f64 + 0.5}))), None);
}

#[test]
fn the_target_is_that_of_the_token_or_of_the_query_and_of_both_the_same() {
    let target = |asked: &Asked, claims| admit(asked, &claims, from(), NOW).map(|who| who.pair.target);
    let (t, none) = (asked(Role::Client, Some("t")), asked(Role::Client, None));
    let without = || client(json!({"runtimeTargetId": null}));
    assert_eq!(target(&t, client(json!({}))).unwrap().as_deref(), Some("t"));
    assert_eq!(target(&none, client(json!({}))).unwrap().as_deref(), Some("t"));
    assert_eq!(target(&t, without()).unwrap().as_deref(), Some("t"));
    // A token names it only to a relay that could not have it from a query.
    assert!(matches!(target(&none, client(json!({"runtimeTargetId": "a/b"}))), Err(Violation::Claim(_))));
    assert_eq!(target(&none, without()), Err(Violation::TargetRequired));
}

#[test]
fn who_needs_a_target() {
    for (role, scope, needs) in [
        (Role::Daemon, None, true),
        (Role::Client, Some("runtime"), true),
        (Role::Client, Some("pairing"), false),
        (Role::Client, Some("session-events"), false),
        (Role::Worker, None, false),
    ] {
        let claims = claims(json!({"workspaceId": "w", "role": role_name(role), "scope": scope}));
        let found = refused(&asked(role, None), &claims);
        assert_eq!(found, needs.then_some(Violation::TargetRequired), "{role:?} {scope:?}");
    }
}

#[test]
fn only_a_client_is_held_to_a_scope() {
    for role in [Role::Daemon, Role::Worker] {
        for scope in [json!(null), json!("runtime"), json!("daemon:connect")] {
            let claims = claims(json!({"workspaceId": "w", "role": role_name(role), "scope": scope}));
            assert_eq!(refused(&asked(role, Some("t")), &claims), None, "{role:?} {scope}");
        }
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|v| json!(v)),
        any::<i64>().prop_map(|v| json!(v)),
        any::<f64>().prop_map(|v| json!(v)),
        "[a-z:-]{0,20}".prop_map(|v| json!(v)),
        proptest::collection::vec("[a-z]{0,5}", 0..4).prop_map(|v| json!(v)),
        Just(json!({"a": {"b": []}})),
    ]
}

proptest! {
    /// Whatever a claim is: nothing panics, and nobody is admitted to anything but what was asked for.
    #[test]
    fn claims_of_any_type_widen_nothing(
        values in proptest::collection::vec((0_usize..11, any_value()), 0..6),
        role in 0_usize..3,
    ) {
        let names = [
            "workspaceId", "runtimeTargetId", "role", "scope", "e2eeProfile", "clientId", "userId", "machineId",
            "sessionChannels", "daemonIssueGeneration", "exp",
        ];
        let role = [Role::Daemon, Role::Client, Role::Worker][role];
        let mut all = client(json!({"role": role_name(role)}));
        all.extend(values.into_iter().map(|(name, value)| (names[name].to_owned(), value)));
        if let Ok(who) = admit(&asked(role, Some("t")), &all, from(), NOW) {
            prop_assert_eq!((&*who.pair.workspace, who.pair.target.as_deref()), ("w", Some("t")));
            prop_assert_eq!(all.get("workspaceId"), Some(&json!("w")));
            prop_assert_eq!(all.get("role"), Some(&json!(role_name(role))));
        }
    }
}
