//! Signing in with a real OpenID Connect provider: who gets in, and who does not.

use http::{Method, StatusCode};
use relay_protocol::problem::Code;
use serde_json::{Value, json};
use system_tests::{
    Relay, RelayOptions,
    client::{fetch, get},
    oidc::{IN, Person, Provider, parameter},
    stack::EMAIL,
};

async fn relay(provider: &Provider, options: RelayOptions) -> Relay {
    let relay = Relay::start(provider.signs_in(options, "portal")).await;
    provider.knows(&relay).await;
    relay
}

fn lets_all_in() -> RelayOptions {
    RelayOptions::default().env("RELAY_OIDC_AUTO_CREATE", "1")
}

async fn email(relay: &Relay, person: &Person) -> Option<String> {
    let reply = person.call(relay, Method::GET, "/v1/auth/me").await;
    reply.status.is_success().then(|| reply.json::<Value>()["user"]["email"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_of_the_provider_is_a_person_here_with_a_browser_like_others() {
    let provider = Provider::start().await;
    let relay = relay(&provider, lets_all_in().env("RELAY_OIDC_NAME", "Acme")).await;
    let offered: Value = fetch(relay.addr, get("/v1/auth/providers")).await.json();
    assert_eq!(offered, json!({"providers": [{"name": "Acme", "path": "/v1/auth/oidc"}]}));

    let mut ann = Person::new("ann");
    assert_eq!(ann.sign_in(&relay, &provider).await, IN);
    assert_eq!(email(&relay, &ann).await.as_deref(), Some("ann@example.org"));
    assert_eq!(ann.cookie(relay.addr, "relay_oidc"), None, "what was kept for the way is gone");
    let sessions: Value = ann.call(&relay, Method::GET, "/v1/auth/sessions").await.json();
    assert_eq!(sessions["sessions"][0]["kind"], "browser");
    assert_eq!(ann.call(&relay, Method::POST, "/v1/auth/refresh").await.status, StatusCode::NO_CONTENT);

    // The same person in another browser is the same user, and ending one leaves the other.
    let mut again = Person::new("ann");
    assert_eq!(again.sign_in(&relay, &provider).await, IN);
    let sessions: Value = again.call(&relay, Method::GET, "/v1/auth/sessions").await.json();
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 2);
    assert_eq!(ann.call(&relay, Method::POST, "/v1/auth/logout").await.status, StatusCode::NO_CONTENT);
    assert_eq!(email(&relay, &ann).await, None);
    assert!(email(&relay, &again).await.is_some());

    let mut bob = Person::new("bob");
    assert_eq!(bob.sign_in(&relay, &provider).await, IN);
    assert_eq!(email(&relay, &bob).await.as_deref(), Some("bob@example.org"));
    assert!(!relay.log().contains("code="), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn public_clients_and_the_other_algorithms_do_as_well() {
    let provider = Provider::start().await;
    for client in ["portal-ES256", "portal-EdDSA"] {
        let relay = Relay::start(provider.signs_in(lets_all_in(), client)).await;
        provider.knows(&relay).await;
        assert_eq!(Person::new("ann").sign_in(&relay, &provider).await, IN, "{client}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_people_are_told_so_until_somebody_links_them() {
    let provider = Provider::start().await;
    let relay = relay(&provider, RelayOptions::default()).await;
    relay.add_user(EMAIL).await;
    let mut ann = Person::new("ann");
    assert_eq!(ann.sign_in(&relay, &provider).await, "/#/sso/unknown");
    assert_eq!(ann.cookie(relay.addr, "relay_session"), None);
    system_tests::eventually("the operator is told whom to link", system_tests::SOON, async || {
        relay.log().contains(r#"subject \"ann\""#)
    })
    .await;

    let link = ["user", "link", EMAIL, "--issuer", &provider.issuer(), "--subject", "ann"];
    assert!(relay.cli(&link).await.status.success());
    assert_eq!(ann.sign_in(&relay, &provider).await, IN);
    assert_eq!(email(&relay, &ann).await.as_deref(), Some(EMAIL));
    // Another person is not let in by it.
    assert_eq!(Person::new("bob").sign_in(&relay, &provider).await, "/#/sso/unknown");

    let unlink = ["user", "unlink", "--issuer", &provider.issuer(), "--subject", "ann"];
    assert!(relay.cli(&unlink).await.status.success());
    assert_eq!(email(&relay, &ann).await, None, "what began with it has ended");
    assert_eq!(ann.sign_in(&relay, &provider).await, "/#/sso/unknown");
    assert!(!relay.cli(&unlink).await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_alone_makes_nobody_an_existing_user() {
    let provider = Provider::start().await;
    let relay = relay(&provider, lets_all_in()).await;
    relay.add_user("ann@example.org").await;
    assert_eq!(Person::new("ann").sign_in(&relay, &provider).await, "/#/sso/taken");
    // An address that nobody has verified is not taken over, and is not shown as theirs.
    relay.add_user("unverified@example.org").await;
    let mut other = Person::new("unverified");
    assert_eq!(other.sign_in(&relay, &provider).await, IN);
    let shown = email(&relay, &other).await.unwrap();
    assert!(shown.ends_with(".invalid"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_counts_once_and_only_in_the_browser_that_asked() {
    let provider = Provider::start().await;
    let relay = relay(&provider, lets_all_in()).await;
    const EXPIRED: &str = "/#/sso/expired";
    const REFUSED: &str = "/#/sso/refused";

    // Another browser brings the answer: a person lured into somebody else's account.
    let mut mallory = Person::new("mallory");
    let away = mallory.leave(&relay).await;
    let back = mallory.through(&provider, &away).await;
    let mut victim = Person::new("victim");
    assert_eq!(victim.come_back(&relay, &back).await, EXPIRED);
    let _ = victim.leave(&relay).await;
    assert_eq!(victim.come_back(&relay, &back).await, EXPIRED, "with a sign-in of its own under way too");
    assert_eq!(victim.cookie(relay.addr, "relay_session"), None);

    // The state of another sign-in, no state, two states, a foreign issuer, no issuer where there is always one.
    let state = parameter(&back, "state");
    for changed in [
        back.replace(&state, "another"),
        back.replace(&format!("state={state}"), "x=y"),
        format!("{back}&state={state}"),
        back.replace("iss=", "iss=https%3A%2F%2Fevil.example&was="),
        back.replace("iss=", "was="),
        format!("{}/v1/auth/oidc/callback", relay.url()),
    ] {
        assert_eq!(mallory.clone().come_back(&relay, &changed).await, EXPIRED, "{changed}");
    }
    // The cookie, changed or cut.
    let kept = mallory.cookie(relay.addr, "relay_oidc").unwrap().to_owned();
    let first = if kept.starts_with('B') { 'C' } else { 'B' };
    for bad in [&kept[..kept.len() - 4], "AAAA", &format!("{first}{}", &kept[1..])] {
        let mut other = mallory.clone();
        other.set_cookie(relay.addr, "relay_oidc", bad);
        assert_eq!(other.come_back(&relay, &back).await, EXPIRED);
    }
    // Once.
    let mut replayed = mallory.clone();
    assert_eq!(mallory.come_back(&relay, &back).await, IN);
    assert_eq!(mallory.come_back(&relay, &back).await, EXPIRED, "the cookie is gone");
    assert_eq!(replayed.come_back(&relay, &back).await, REFUSED, "with the cookie kept: the code is used up");
    // The provider takes a code that is used twice for stolen; the one who was in stays in here.
    assert!(email(&relay, &mallory).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_sites_make_a_browser_ask_costs_no_attempts_and_ends_no_sign_in() {
    let provider = Provider::start().await;
    let relay = relay(&provider, lets_all_in()).await;
    let mut ann = Person::new("ann");
    let away = ann.leave(&relay).await;
    let back = ann.through(&provider, &away).await;
    let cookie = format!("relay_oidc={}", ann.cookie(relay.addr, "relay_oidc").unwrap());
    let good = back.strip_prefix(&relay.url()).unwrap();
    let made_up = "/v1/auth/oidc/callback?code=x&state=y";
    // More than an address has attempts in a minute.
    for (path, mode, dest) in [(good, "no-cors", "image"), (made_up, "navigate", "document")] {
        for _ in 0..70 {
            let request = http::Request::get(path)
                .header("cookie", &cookie)
                .header("sec-fetch-site", "cross-site")
                .header("sec-fetch-mode", mode)
                .header("sec-fetch-dest", dest)
                .body(system_tests::client::empty());
            let reply = fetch(relay.addr, request.unwrap()).await;
            assert!(!reply.headers.contains_key("set-cookie"), "{reply:?}");
            if dest == "image" {
                reply.is_problem(Code::CsrfRefused);
            } else {
                assert_eq!(reply.header("location"), Some("/#/sso/expired"));
            }
        }
    }
    assert_eq!(ann.come_back(&relay, &back).await, IN);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_was_asked_has_to_be_what_the_browser_keeps() {
    let provider = Provider::start().await;
    let relay = relay(&provider, lets_all_in()).await;
    let change = |address: &str, name: &str, value: &str| {
        let was = parameter(address, name);
        address.replace(&format!("{name}={was}"), &format!("{name}={value}"))
    };
    // The nonce of another question.
    let mut ann = Person::new("ann");
    let away = ann.leave(&relay).await;
    let back = ann.through(&provider, &change(&away, "nonce", "another")).await;
    assert_eq!(ann.come_back(&relay, &back).await, "/#/sso/expired");
    assert!(relay.log().contains("its nonce is another"));
    // The challenge of somebody else's verifier: an injected code.
    let mut bob = Person::new("bob");
    let away = bob.leave(&relay).await;
    let foreign = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let back = bob.through(&provider, &change(&away, "code_challenge", foreign)).await;
    assert_eq!(bob.come_back(&relay, &back).await, "/#/sso/refused");
    // A person who says no, and a code out of thin air.
    let mut eve = Person::new("eve");
    let away = eve.leave(&relay).await;
    let state = parameter(&away, "state");
    let iss = form(&provider.issuer());
    let no = format!("{}/v1/auth/oidc/callback?error=access_denied&state={state}&iss={iss}", relay.url());
    assert_eq!(eve.clone().come_back(&relay, &no).await, "/#/sso/refused");
    let made_up = format!("{}/v1/auth/oidc/callback?code=made-up&state={state}&iss={iss}", relay.url());
    assert_eq!(eve.come_back(&relay, &made_up).await, "/#/sso/refused");
}

fn form(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_begins_on_the_portals_own_page_and_is_nowhere_else() {
    let provider = Provider::start().await;
    let relay = relay(&provider, lets_all_in()).await;
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("origin", "https://evil.example"),
        ("referer", "https://evil.example/"),
    ] {
        let request = http::Request::get("/v1/auth/oidc").header(name, value);
        let reply = fetch(relay.addr, request.body(system_tests::client::empty()).unwrap()).await;
        reply.is_problem(Code::CsrfRefused);
    }
    let own = http::Request::get("/v1/auth/oidc").header("referer", format!("{}/", relay.url()));
    let reply = fetch(relay.addr, own.body(system_tests::client::empty()).unwrap()).await;
    assert_eq!(reply.status, StatusCode::SEE_OTHER);
    // Without a portal, and without a client, there is nothing.
    let paths = ["/v1/auth/oidc", "/v1/auth/oidc/callback?code=x&state=y"];
    let off = provider.signs_in(lets_all_in(), "portal").env("RELAY_PORTAL", "0");
    let none = provider.takes_tokens(RelayOptions::default().portal());
    for (options, offered) in [(off, StatusCode::NOT_FOUND), (none, StatusCode::OK)] {
        let relay = Relay::start(options).await;
        for path in paths {
            fetch(relay.addr, get(path)).await.is_problem(Code::NotFound);
        }
        let reply = fetch(relay.addr, get("/v1/auth/providers")).await;
        assert_eq!(reply.status, offered);
        assert!(offered != StatusCode::OK || reply.json::<Value>() == json!({"providers": []}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_provider_is_away_people_are_told_and_then_it_heals() {
    let mut provider = Provider::start().await;
    let relay = relay(&provider, lets_all_in()).await;
    relay.user_with_password("owner@example.com", "a long enough password").await;
    let mut ann = Person::new("ann");
    let away = ann.leave(&relay).await;
    let back = ann.through(&provider, &away).await;
    provider.kill();
    assert_eq!(ann.come_back(&relay, &back).await, "/#/sso/unavailable");
    // Passwords go on working.
    let mut owner = system_tests::sign_in::Browser::default();
    let reply = owner.login(&relay, "owner@example.com", "a long enough password").await;
    assert_eq!(reply.status, StatusCode::OK);
    provider.restart().await;
    provider.knows(&relay).await;
    system_tests::eventually("signing in works again", system_tests::SOON, async || {
        Person::new("ann").sign_in(&relay, &provider).await == IN
    })
    .await;
}
