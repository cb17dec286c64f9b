//! What the claims of a good token let its bearer do: a violation is told by the close, 4008 and a reason.

use serde_json::{Value, json};
use system_tests::platform::Call;
use system_tests::tokens::now;

use super::{TARGET, WORKSPACE, World, claims};
use system_tests::broker::Dial;

#[tokio::test(flavor = "multi_thread")]
async fn each_violated_claim_closes_with_4008_and_says_which() {
    let world = World::start().await;
    for (more, reason) in [
        (json!({"workspaceId": "another"}), "workspace"),
        (json!({"workspaceId": null}), "workspace"),
        (json!({"runtimeTargetId": "another"}), "runtime target"),
        (json!({"role": "workspace-daemon"}), "role"),
        (json!({"role": null}), "role"),
        (json!({"scope": null}), "scope"),
        (json!({"scope": "everything"}), "scope"),
        (json!({"e2eeProfile": "plain"}), "e2eeProfile"),
        (json!({"exp": now() - 61}), "expired"),
        (json!({"exp": "tomorrow"}), "end"),
        (json!({"sessionChannels": "all"}), "sessionChannels"),
        (json!({"clientId": {"$gt": ""}}), "id"),
        (json!({"daemonIssueGeneration": "latest"}), "generation"),
    ] {
        let (frames, told) = world.client_dial(more.clone()).closed(world.addr(), 4008).await;
        assert!(told.contains(reason), "{more}: {told}");
        assert_eq!(frames, Vec::<Value>::new(), "{more}");
    }
    let long_gone = json!({"role": "client", "unknown": [1, {"a": null}], "exp": now() - 30, "iat": {}});
    world.client_with(long_gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_needs_a_runtime_target_is_told_so_first() {
    let world = World::start().await;
    for (role, more, needs) in [
        ("workspace-daemon", json!({}), true),
        ("client", json!({"scope": "runtime"}), true),
        ("client", json!({"scope": "pairing"}), false),
        ("client", json!({"scope": "session-events"}), false),
        ("worker", json!({}), false),
    ] {
        let dial = world.dial(role, None, more.clone());
        if !needs {
            dial.connect(world.addr()).await.leave().await;
            continue;
        }
        let (frames, _) = dial.closed(world.addr(), 4008).await;
        let [status] = &frames[..] else { panic!("{role} {more}: {frames:?}") };
        assert_eq!(status["type"], json!("relay_status"), "{role}");
        assert_eq!(status["code"], json!("RUNTIME_TARGET_REQUIRED"), "{role}");
        assert_eq!(status["workspaceId"], json!(WORKSPACE), "{role}");
        assert_eq!(status["retryable"], json!(false), "{role}");
        assert!(status["message"].as_str().is_some_and(|text| !text.is_empty()), "{role}");
    }
    // The platform was told that there is none.
    let asked = world.platform.asked(Call::Validate).pop().unwrap();
    assert!(asked.body.get("runtimeTargetId").is_none(), "{}", asked.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_of_the_token_counts_where_the_query_names_none() {
    let world = World::start().await;
    let mut daemon = world.daemon().await;
    let token = world.platform.grant(claims("client", Some(TARGET), json!({})));
    let mut client = Dial::new("client", WORKSPACE, None, &token).connect(world.addr()).await;
    super::meet(&mut daemon, &mut client, "session").await;
}
