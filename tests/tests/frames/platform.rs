//! Who vouches for tokens: the key set, the platform, both; and what happens when they do not answer as they
//! should: nobody is admitted, and the relay stays well.

use std::time::Duration;

use relay_protocol::problem::Code;
use serde_json::{Value, json};
use system_tests::broker::Dial;
use system_tests::client::{fetch, get};
use system_tests::platform::{Algorithm, Call, Fault, INTERNAL_KEY, Platform};
use system_tests::tokens::{self, now};
use system_tests::{POLL, Relay, RelayOptions, SOON, eventually};

use super::{TARGET, WORKSPACE, World, claims, meet};

const KINDS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

fn client(token: &str) -> Dial {
    Dial::new("client", WORKSPACE, Some(TARGET), token)
}

fn signed_claims(more: Value) -> Value {
    let mut all = claims("client", Some(TARGET), json!({"exp": now() + 600}));
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

async fn healthy(relay: &Relay) {
    assert_eq!(fetch(relay.addr, get("/health")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_set_alone() {
    let platform = Platform::start().await;
    let relay = Relay::start(RelayOptions::default().env("RELAY_JWKS_URL", platform.jwks_url())).await;
    for kind in KINDS {
        client(&platform.keys().sign(kind, &signed_claims(json!({})))).connect(relay.addr).await;
        for (why, more) in [("expired", json!({"exp": now() - 61})), ("not yet", json!({"nbf": now() + 120}))]
        {
            let token = platform.keys().sign(kind, &signed_claims(more));
            assert_eq!(client(&token).refused(relay.addr).await, Code::Unauthorized, "{kind:?} {why}");
        }
        // One character of the signature, and of the claims.
        let good = platform.keys().sign(kind, &signed_claims(json!({})));
        let at = good.rfind('.').unwrap();
        for index in [at + 5, at - 5] {
            let mut bytes = good.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(bytes).unwrap();
            assert_eq!(client(&forged).refused(relay.addr).await, Code::Unauthorized, "{kind:?} {index}");
        }
        // A good signature is no licence: the claims count.
        let token = platform.keys().sign(kind, &signed_claims(json!({"workspaceId": "another"})));
        client(&token).closed(relay.addr, 4008).await;
    }
    for forged in [
        tokens::unsigned(&signed_claims(json!({}))),
        tokens::sign(tokens::SECRET, Algorithm::HS256, &signed_claims(json!({}))),
        "a.b.c-and-so-on".to_owned(),
    ] {
        assert_eq!(client(&forged).refused(relay.addr).await, Code::Unauthorized);
    }
    assert_eq!(platform.asked(Call::Validate).len(), 0);
    assert_eq!(platform.asked(Call::Keys).len(), 1, "the keys are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_set_that_serves_others_too_opens_to_its_tokens_for_the_relay_alone() {
    let platform = Platform::start().await;
    let options = RelayOptions::default()
        .env("RELAY_JWKS_URL", platform.jwks_url())
        .env("RELAY_JWKS_ISSUER", "https://issuer.example.com")
        .env("RELAY_JWKS_AUDIENCE", "relay");
    let relay = Relay::start(options).await;
    for (more, good) in [
        (json!({"iss": "https://issuer.example.com", "aud": "relay"}), true),
        (json!({"iss": "https://issuer.example.com", "aud": ["other", "relay"]}), true),
        (json!({"iss": "https://issuer.example.com", "aud": "other"}), false),
        (json!({"iss": "https://issuer.example.com"}), false),
        (json!({"iss": "https://issuer.example.com/", "aud": "relay"}), false),
        (json!({"aud": "relay"}), false),
        (json!({}), false),
    ] {
        let token = platform.keys().sign(Algorithm::ES256, &signed_claims(more.clone()));
        if good {
            client(&token).connect(relay.addr).await;
        } else {
            assert_eq!(client(&token).refused(relay.addr).await, Code::Unauthorized, "{more}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_platform_both_have_to_agree_and_the_claims_are_the_platforms() {
    let platform = Platform::start().await;
    let options = platform.relay(RelayOptions::default().env("RELAY_JWKS_URL", platform.jwks_url()));
    let relay = Relay::start(options).await;
    let token = platform.keys().sign(Algorithm::ES256, &signed_claims(json!({})));
    // Well signed, and the platform does not know it (any more).
    assert_eq!(client(&token).refused(relay.addr).await, Code::Unauthorized);
    assert_eq!(platform.asked(Call::Validate).len(), 1);
    // Its claims say nothing: the platform's do.
    let bare = platform.keys().sign(Algorithm::ES256, &json!({"exp": now() + 600, "workspaceId": "another"}));
    platform.vouch(&bare, claims("client", Some(TARGET), json!({})));
    client(&bare).connect(relay.addr).await;
    platform.vouch(&token, claims("client", Some(TARGET), json!({"workspaceId": "another"})));
    client(&token).closed(relay.addr, 4008).await;
    // Known to the platform, but not signed: it is not even asked.
    platform.forget_asked();
    let unsigned = platform.grant(claims("client", Some(TARGET), json!({})));
    assert_eq!(client(&unsigned).refused(relay.addr).await, Code::Unauthorized);
    assert_eq!(platform.asked(Call::Validate).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_keys_are_fetched_for_a_key_that_is_unknown_but_not_for_everybody_who_names_one() {
    let platform = Platform::start().await;
    let options = RelayOptions::default()
        .env("RELAY_JWKS_URL", platform.jwks_url())
        .env("RELAY_UPGRADE_RATE_PER_MINUTE", 100_000);
    let relay = Relay::start(options).await;
    let old = platform.keys().sign(Algorithm::RS256, &signed_claims(json!({})));
    client(&old).connect(relay.addr).await;
    platform.keys().rotate();
    let new = platform.keys().sign(Algorithm::RS256, &signed_claims(json!({})));
    // Whoever names an unknown key cannot have the set fetched more often than once a minute.
    for _ in 0..50 {
        assert_eq!(client(&new).refused(relay.addr).await, Code::Unauthorized);
    }
    assert_eq!(platform.asked(Call::Keys).len(), 1);
    client(&old).connect(relay.addr).await;
    // After it the new keys count, and the old ones do no longer.
    eventually("the new keys are known", SOON * 4, || async {
        client(&new).try_connect(relay.addr).await.is_ok()
    })
    .await;
    assert_eq!(client(&old).refused(relay.addr).await, Code::Unauthorized);
    assert_eq!(platform.asked(Call::Keys).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_does_not_answer_as_it_should_admits_nobody_and_disturbs_nobody() {
    let world = World::with(RelayOptions::default().env("RELAY_UPGRADE_RATE_PER_MINUTE", 100_000)).await;
    let (mut daemon, mut other) = world.pair().await;
    let token = world.platform.grant(claims("client", Some(TARGET), json!({})));
    let evil = json!({"ok": true, "claims": claims("client", Some(TARGET), json!({}))});
    for fault in [
        Fault::Slow(Duration::from_secs(4)),
        Fault::Hang,
        Fault::Trickle,
        Fault::BreakOff,
        Fault::Padded(256 * 1024),
        Fault::Garbage,
        Fault::NotOk,
        Fault::Status(500),
        Fault::Status(404),
        Fault::Status(401),
        Fault::Redirect(world.platform.validate_url()),
        Fault::Text(String::new()),
        Fault::Text("null".to_owned()),
        Fault::Text("true".to_owned()),
        Fault::Text("[]".to_owned()),
        Fault::Text(json!({"ok": true}).to_string()),
        Fault::Text(json!({"ok": true, "claims": null}).to_string()),
        Fault::Text(json!({"ok": true, "claims": []}).to_string()),
        Fault::Text(json!({"ok": "true", "claims": evil["claims"]}).to_string()),
        Fault::Text(json!({"ok": 1, "claims": evil["claims"]}).to_string()),
        Fault::Text(json!({"claims": evil["claims"]}).to_string()),
        Fault::Text(format!("{evil}{evil}")),
        Fault::Text(format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
    ] {
        world.platform.fault(Call::Validate, fault.clone());
        assert_eq!(
            client(&token).refused(world.addr()).await,
            Code::Unauthorized,
            "{:.60}",
            format!("{fault:?}")
        );
    }
    // Those who are in go on, also while many wait for an answer that does not come.
    world.platform.fault(Call::Validate, Fault::Hang);
    let waiting: Vec<_> = (0..40)
        .map(|_| {
            let (dial, addr) = (client(&token), world.addr());
            tokio::spawn(async move { dial.refused(addr).await })
        })
        .collect();
    world.platform.await_asked(Call::Validate, 40).await;
    meet(&mut daemon, &mut other, "met").await;
    healthy(&world.relay).await;
    for refused in waiting {
        assert_eq!(refused.await.unwrap(), Code::Unauthorized);
    }
    // It heals by itself, and a large answer within the bound is one.
    world.platform.heal();
    client(&token).connect(world.addr()).await;
    world.platform.fault(Call::Validate, Fault::Padded(200 * 1024));
    client(&token).connect(world.addr()).await;
    world.platform.fault(Call::Validate, Fault::Slow(POLL * 10));
    client(&token).connect(world.addr()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_set_that_cannot_be_had_admits_nobody() {
    let platform = Platform::start().await;
    for fault in [Fault::Garbage, Fault::Status(500), Fault::Padded(300 * 1024), Fault::BreakOff, Fault::Hang]
    {
        platform.fault(Call::Keys, fault.clone());
        let relay = Relay::start(RelayOptions::default().env("RELAY_JWKS_URL", platform.jwks_url())).await;
        let token = platform.keys().sign(Algorithm::EdDSA, &signed_claims(json!({})));
        assert_eq!(client(&token).refused(relay.addr).await, Code::Unauthorized, "{fault:?}");
        healthy(&relay).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_away_at_the_start_is_no_hindrance() {
    let platform = Platform::start().await;
    let options = RelayOptions::default()
        .env("RELAY_VALIDATE_URL", "http://127.0.0.1:1/validate")
        .env("RELAY_INTERNAL_KEY", INTERNAL_KEY);
    let relay = Relay::start(options).await;
    let token = platform.grant(claims("client", Some(TARGET), json!({})));
    assert_eq!(client(&token).refused(relay.addr).await, Code::Unauthorized);
    healthy(&relay).await;
    assert!(!relay.log().contains(INTERNAL_KEY), "the internal key is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_internal_key_admits_nobody() {
    let platform = Platform::start().await;
    let options =
        platform.relay(RelayOptions::default()).env("RELAY_INTERNAL_KEY", "another-internal-key-than-theirs");
    let relay = Relay::start(options).await;
    let token = platform.grant(claims("client", Some(TARGET), json!({})));
    assert_eq!(client(&token).refused(relay.addr).await, Code::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls() {
    let platform = Platform::start_mutual_tls().await;
    let token = platform.grant(claims("client", Some(TARGET), json!({})));
    let relay = Relay::start(platform.relay(RelayOptions::default())).await;
    client(&token).connect(relay.addr).await;
    assert_eq!(platform.asked(Call::Validate).len(), 1);
    // Without a certificate of its own, or without the authority, nobody is asked.
    let asks = |options: RelayOptions| {
        options.env("RELAY_VALIDATE_URL", platform.validate_url()).env("RELAY_INTERNAL_KEY", INTERNAL_KEY)
    };
    let strangers =
        [asks(platform.relay_without_certificate(RelayOptions::default())), asks(RelayOptions::default())];
    for options in strangers {
        let relay = Relay::start(options).await;
        assert_eq!(client(&token).refused(relay.addr).await, Code::Unauthorized);
        healthy(&relay).await;
    }
    assert_eq!(platform.asked(Call::Validate).len(), 1);
}
