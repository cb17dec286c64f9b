//! Pairing with a browser of the protocol crate, and the list that comes of it.

use super::{browsers::MAX_BROWSERS, codes::LIFE, *};
use crate::state::StateDir;
use rand::{TryRngCore, rngs::OsRng};
use relay_protocol::{
    keys::{BrowserDhKey, BrowserSigningKey},
    pairing::{
        self as wire, BrowserClaims, BrowserPaired, BrowserProved, BrowserStart, ClientInfo, FinishMessage,
        Psk, StartResponse,
    },
    problem,
};
use std::{path::Path, sync::Arc};
use uuid::Uuid;

const NOW: i64 = 1_800_000_000;
const HOST: Uuid = Uuid::from_u128(7);

fn pairing_of(state: Option<Arc<StateDir>>) -> Pairing {
    let pairing = Pairing::open("https://relay.example".to_owned(), state).unwrap();
    pairing.host().told(&HOST.to_string());
    pairing
}

fn pairing() -> Pairing {
    pairing_of(None)
}

fn claims(name: &str) -> BrowserClaims {
    let mut random = OsRng.unwrap_err();
    let text = str::to_owned;
    BrowserClaims {
        host_id: HOST,
        client: ClientInfo {
            id: Uuid::new_v4(),
            name: text(name),
            browser: text("Firefox"),
            os: text("Linux"),
            device: text("laptop"),
        },
        ed25519: BrowserSigningKey::generate(&mut random).verifying_key(),
        x25519: BrowserDhKey::generate(&mut random).public_key(),
    }
}

/// A browser's first two steps with `code`.
fn begin(
    pairing: &Pairing,
    code: &wire::Code,
    claims: &BrowserClaims,
) -> Result<(BrowserProved, FinishMessage), PairingError> {
    let (start, message) = BrowserStart::new(code, HOST, &mut OsRng.unwrap_err()).unwrap();
    let (pairing_id, message) = pairing.start(&message, NOW)?;
    let answer = StartResponse { v: wire::VERSION, pairing_id, message };
    Ok(start.prove(&answer, claims).unwrap())
}

fn pair(pairing: &Pairing, claims: &BrowserClaims) -> Result<BrowserPaired, PairingError> {
    let issued = pairing.issue_code(NOW)?;
    let (proved, message) = begin(pairing, &issued.code, claims)?;
    Ok(proved.finish(&pairing.finish(&message, NOW)?).unwrap())
}

fn other(code: &wire::Code) -> wire::Code {
    let wrong = if code.reveal().as_str() == "000000" { "000001" } else { "000000" };
    wire::Code::parse(wrong).unwrap()
}

fn outcome(pairing: &Pairing, number: u64) -> Option<Outcome> {
    pairing.view().borrow().outcome(number).cloned()
}

#[test]
fn a_browser_that_knows_the_code_is_paired_and_both_ends_agree() {
    let pairing = pairing();
    let claims = claims("Anna's laptop");
    let issued = pairing.issue_code(NOW).unwrap();
    assert_eq!(pairing.view().borrow().outstanding, Some((issued.number, NOW + LIFE)));
    let (proved, message) = begin(&pairing, &issued.code, &claims).unwrap();
    let paired = proved.finish(&pairing.finish(&message, NOW).unwrap()).unwrap();
    let browser = pairing.browsers().get(claims.client.id).unwrap();
    assert_eq!(paired.agent.client_id, browser.id);
    assert_eq!(paired.agent.ed25519, pairing.keys().signing.verifying_key());
    assert_eq!(paired.agent.x25519, pairing.keys().dh.public_key());
    assert_eq!(paired.psk.reveal_bytes(), browser.psk.reveal_bytes());
    assert_eq!((browser.ed25519, browser.name.as_str()), (claims.ed25519, "Anna's laptop"));
    let fingerprint = pairing.fingerprint(&browser).to_string();
    assert_eq!(
        outcome(&pairing, issued.number),
        Some(Outcome::Paired { id: browser.id, name: "Anna's laptop".into(), fingerprint })
    );
    // The code is used up: neither this exchange nor another goes on.
    assert!(matches!(pairing.finish(&message, NOW), Err(PairingError::NotOpen)));
    assert!(matches!(begin(&pairing, &issued.code, &claims), Err(PairingError::NotOpen)));
    assert_eq!(pairing.view().borrow().failed.count, 0);
}

#[test]
fn one_wrong_guess_burns_the_code_for_everybody() {
    let pairing = pairing();
    let issued = pairing.issue_code(NOW).unwrap();
    let honest = begin(&pairing, &issued.code, &claims("honest")).unwrap();
    let (_, guess) = begin(&pairing, &other(&issued.code), &claims("guesser")).unwrap();
    let error = pairing.finish(&guess, NOW).unwrap_err();
    assert_eq!(error.code(), problem::Code::PairingFailed);
    let error = pairing.finish(&honest.1, NOW).unwrap_err();
    assert_eq!(error.code(), problem::Code::PairingNotOpen, "nobody gets in by it any more");
    assert_eq!(outcome(&pairing, issued.number), Some(Outcome::FailedGuess));
    let failed = pairing.view().borrow().failed;
    assert_eq!(failed, FailedGuesses { count: 1, last_at: Some(NOW) });
    assert_eq!(pairing.browsers().count(), 0);
}

#[test]
fn what_was_altered_on_the_way_is_a_guess_and_what_is_no_message_is_none() {
    let pairing = pairing();
    for alter in [
        (|message: &mut FinishMessage| message.claims[20] ^= 1) as fn(&mut FinishMessage),
        |message| message.proof[0] ^= 1,
        |message| message.proof.truncate(31),
        |message| message.proof.clear(),
    ] {
        let issued = pairing.issue_code(NOW).unwrap();
        let (_, mut message) = begin(&pairing, &issued.code, &claims("b")).unwrap();
        alter(&mut message);
        let error = pairing.finish(&message, NOW).unwrap_err();
        assert_eq!(error.code(), problem::Code::PairingFailed);
        assert_eq!(outcome(&pairing, issued.number), Some(Outcome::FailedGuess));
    }
    let issued = pairing.issue_code(NOW).unwrap();
    for message in [&[][..], &[b'A'; 33], &[0; 33], &[0xff; 34]] {
        assert_eq!(pairing.start(message, NOW).unwrap_err().code(), problem::Code::BadRequest);
    }
    let stray = FinishMessage { pairing_id: Uuid::new_v4(), claims: vec![], proof: vec![0; 32] };
    assert_eq!(pairing.finish(&stray, NOW).unwrap_err().code(), problem::Code::PairingNotOpen);
    assert_eq!(outcome(&pairing, issued.number), None, "still out");
    assert_eq!(pairing.view().borrow().failed.count, 4);
}

#[test]
fn a_right_proof_of_something_unusable_uses_the_code_up() {
    let pairing = pairing();
    let mut other_host = claims("b");
    other_host.host_id = Uuid::from_u128(8);
    let mut control = claims("b");
    control.client.name = "a\u{7}b".to_owned();
    for claims in [other_host, control] {
        let issued = pairing.issue_code(NOW).unwrap();
        let (_, message) = begin(&pairing, &issued.code, &claims).unwrap();
        assert_eq!(pairing.finish(&message, NOW).unwrap_err().code(), problem::Code::BadRequest);
        assert!(matches!(outcome(&pairing, issued.number), Some(Outcome::NotAdded { .. })));
        assert!(matches!(begin(&pairing, &issued.code, &claims), Err(PairingError::NotOpen)));
    }
    assert_eq!((pairing.browsers().count(), pairing.view().borrow().failed.count), (0, 0));
}

#[test]
fn every_end_of_a_code_has_its_own_word() {
    let pairing = pairing();
    assert_eq!(pairing.start(&[], NOW).unwrap_err().code(), problem::Code::PairingNotOpen);
    let first = pairing.issue_code(NOW).unwrap();
    let second = pairing.issue_code(NOW).unwrap();
    assert_eq!(outcome(&pairing, first.number), Some(Outcome::Replaced));
    assert!(!pairing.withdraw(first.number), "it is not the outstanding one");
    assert!(pairing.withdraw(second.number) && !pairing.withdraw(second.number));
    assert_eq!(outcome(&pairing, second.number), Some(Outcome::Withdrawn));
    let third = pairing.issue_code(NOW).unwrap();
    let late = NOW + LIFE;
    assert_eq!(pairing.start(&[], late).unwrap_err().code(), problem::Code::PairingExpired);
    assert_eq!(outcome(&pairing, third.number), Some(Outcome::Expired));
    assert_eq!(pairing.view().borrow().outstanding, None);
    // One that expired before the next was asked for was not replaced.
    let fourth = pairing.issue_code(late).unwrap();
    pairing.issue_code(late + LIFE).unwrap();
    assert_eq!(outcome(&pairing, fourth.number), Some(Outcome::Expired));
    for _ in 0..5 {
        pairing.issue_code(late + LIFE).unwrap();
    }
    let error = pairing.issue_code(late + LIFE).unwrap_err();
    assert_eq!((error.code(), error.retry_after()), (problem::Code::RateLimited, Some(3600 - 2 * LIFE)));
}

/// A pairing with a browser, which has a code out.
fn vouching() -> (Pairing, Arc<Browser>, Issued) {
    let pairing = pairing();
    let id = pair(&pairing, &claims("first")).unwrap().agent.client_id;
    let browser = pairing.browsers().get(id).unwrap();
    let issued = pairing.issue_code_by(&browser, NOW).unwrap();
    (pairing, browser, issued)
}

#[test]
fn a_paired_browsers_code_pairs_the_next_and_ends_with_its_issuer() {
    let (pairing, _, issued) = vouching();
    let (_, message) = begin(&pairing, &issued.code, &claims("next")).unwrap();
    pairing.finish(&message, NOW).unwrap();
    assert_eq!(pairing.browsers().count(), 2);

    // Revoked before anybody began: renaming it in between changes nothing.
    let (pairing, browser, issued) = vouching();
    pairing.browsers().rename(browser.id, "other").unwrap();
    pairing.browsers().revoke(browser.id).unwrap();
    let error = begin(&pairing, &issued.code, &claims("late")).unwrap_err();
    assert_eq!(error.code(), problem::Code::PairingNotOpen);
    assert_eq!(outcome(&pairing, issued.number), Some(Outcome::IssuerRevoked));
    assert_eq!(pairing.view().borrow().outstanding, None);
    assert_eq!(pairing.view().borrow().failed.count, 0);
    let refused = pairing.issue_code_by(&browser, NOW).unwrap_err();
    assert_eq!(refused.code(), problem::Code::NotPaired);

    // Revoked in the middle of an exchange that was honest so far.
    let (pairing, browser, issued) = vouching();
    let (_, message) = begin(&pairing, &issued.code, &claims("late")).unwrap();
    pairing.browsers().revoke(browser.id).unwrap();
    let error = pairing.finish(&message, NOW).unwrap_err();
    assert_eq!(error.code(), problem::Code::PairingNotOpen);
    assert_eq!(outcome(&pairing, issued.number), Some(Outcome::IssuerRevoked));
    assert_eq!(pairing.browsers().count(), 0);

    // Somebody else's revocation, and a code of the owner's own.
    let (pairing, browser, _) = vouching();
    let owners = pairing.issue_code(NOW).unwrap();
    pairing.browsers().revoke(browser.id).unwrap();
    let (_, message) = begin(&pairing, &owners.code, &claims("next")).unwrap();
    pairing.finish(&message, NOW).unwrap();
    assert_eq!(pairing.browsers().count(), 1);
}

#[test]
fn whoever_is_revoked_while_a_proof_is_verified_adds_nobody() {
    let browsers = Browsers::in_memory();
    let first = browsers.add(new(&claims("first")), NOW).unwrap();
    let by = Issuer::Browser(first.revoked());
    browsers.add_by(&by, new(&claims("next")), NOW).unwrap();
    browsers.revoke(first.id).unwrap();
    let error = browsers.add_by(&by, new(&claims("late")), NOW).unwrap_err();
    assert_eq!(error.code(), problem::Code::PairingNotOpen);
    assert_eq!(browsers.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_ends_a_code_before_anybody_tries_it() {
    let (pairing, browser, _) = vouching();
    let issued = pairing.issue_code_by(&browser, crate::status::now()).unwrap();
    let mut view = pairing.view();
    let (keeping, seen) = (pairing.keep(), async {
        tokio::task::yield_now().await;
        pairing.browsers().revoke(browser.id).unwrap();
        view.wait_for(|view| view.outstanding.is_none()).await.unwrap().outcome(issued.number).cloned()
    });
    tokio::select! {
        () = keeping => {}
        seen = seen => assert_eq!(seen, Some(Outcome::IssuerRevoked)),
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_expires_by_itself() {
    let pairing = pairing();
    // Made so long ago that it is over by the wall clock.
    let issued = pairing.issue_code(crate::status::now() - LIFE).unwrap();
    let mut view = pairing.view();
    tokio::select! {
        () = pairing.keep() => {}
        seen = view.wait_for(|view| view.outstanding.is_none()) => {
            assert_eq!(seen.unwrap().outcome(issued.number), Some(&Outcome::Expired));
        }
    }
}

#[test]
fn a_host_that_nobody_knows_has_no_codes() {
    let pairing = Pairing::open("https://relay.example".to_owned(), None).unwrap();
    assert!(matches!(pairing.issue_code(NOW), Err(PairingError::HostUnknown)));
    assert!(matches!(pairing.start(&[], NOW), Err(PairingError::HostUnknown)));
}

fn state(dir: &Path) -> Arc<StateDir> {
    Arc::new(StateDir::open(dir).unwrap())
}

fn file(dir: &Path) -> std::path::PathBuf {
    dir.join("browsers.json")
}

#[test]
fn the_list_outlives_the_process_and_only_its_owner_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = state(dir.path());
    let pairing = pairing_of(Some(folder.clone()));
    let paired = pair(&pairing, &claims("one")).unwrap();
    let id = paired.agent.client_id;
    pairing.browsers().touch(id, NOW + 50);
    pairing.browsers().touch(id, NOW + 20);
    assert_eq!(Browsers::open(folder.clone()).unwrap().get(id).unwrap().last_used_at(), NOW, "lazily");
    pairing.browsers().flush().unwrap();
    let again = Pairing::open(String::new(), Some(folder.clone())).unwrap();
    let browser = again.browsers().get(id).unwrap();
    assert_eq!((browser.name.as_str(), browser.created_at, browser.last_used_at()), ("one", NOW, NOW + 50));
    assert_eq!(browser.psk.reveal_bytes(), paired.psk.reveal_bytes());
    assert_eq!(again.keys().signing.verifying_key(), paired.agent.ed25519);
    #[cfg(unix)]
    for name in ["browsers.json", "keys.json", "host.json"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().ends_with(".new")), "{names:?}");
}

#[test]
fn a_damaged_list_stops_the_start_and_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let folder = state(dir.path());
    pair(&pairing_of(Some(folder.clone())), &claims("zebra")).unwrap();
    let good = std::fs::read_to_string(file(dir.path())).unwrap();
    let entry = &good[good.find('{').map(|at| good[at + 1..].find('{').unwrap() + at + 1).unwrap()
        ..good.rfind(']').unwrap()];
    for damaged in [
        String::new(),
        "[]".to_owned(),
        good[..good.len() - 4].to_owned(),
        good.replace("\"v\": 1", "\"v\": 2"),
        good.replace("\"psk\": \"", "\"psk\": \"A"),
        good.replace("\"ed25519\": \"", "\"ed25519\": \"A"),
        good.replace("\"name\": \"zebra\"", "\"name\": \"\""),
        good.replace("\"name\": \"zebra\"", "\"name\": \"\\u001b[2J\""),
        good.replace("\"os\"", "\"oS\""),
        good.replace(entry, &format!("{entry},{entry}")),
    ] {
        assert_ne!(damaged, good);
        std::fs::write(file(dir.path()), &damaged).unwrap();
        let error = Pairing::open(String::new(), Some(folder.clone())).unwrap_err();
        assert!(matches!(error, TrustError::Damaged { .. }), "{damaged}: {error}");
        assert!(
            error.to_string().contains("browsers.json") && !error.to_string().contains("zebra"),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(file(dir.path())).unwrap(), damaged);
    }
    std::fs::write(file(dir.path()), vec![b' '; 2 * 1024 * 1024]).unwrap();
    assert!(matches!(Browsers::open(folder.clone()), Err(TrustError::State(_))), "too large");
    std::fs::remove_file(file(dir.path())).unwrap();
    std::fs::create_dir(file(dir.path())).unwrap();
    assert!(matches!(Browsers::open(folder), Err(TrustError::State(_))), "unreadable is not missing");
}

#[test]
fn keys_are_not_made_anew_behind_the_backs_of_paired_browsers() {
    let dir = tempfile::tempdir().unwrap();
    let folder = state(dir.path());
    let id = pair(&pairing_of(Some(folder.clone())), &claims("one")).unwrap().agent.client_id;
    std::fs::remove_file(dir.path().join("keys.json")).unwrap();
    let error = Pairing::open(String::new(), Some(folder.clone())).unwrap_err();
    assert!(matches!(error, TrustError::KeysMissing(_)) && error.to_string().contains("backup"), "{error}");
    assert!(!dir.path().join("keys.json").exists());
    Browsers::open(folder.clone()).unwrap().revoke(id).unwrap();
    Pairing::open(String::new(), Some(folder)).unwrap();
}

#[test]
fn what_cannot_be_written_is_not_done() {
    let dir = tempfile::tempdir().unwrap();
    let pairing = pairing_of(Some(state(dir.path())));
    let id = pair(&pairing, &claims("one")).unwrap().agent.client_id;
    let changes = pairing.browsers().changes();
    let revoked = pairing.browsers().get(id).unwrap().revoked();
    // A folder in its place: the file cannot be replaced, whoever we are.
    std::fs::remove_file(file(dir.path())).unwrap();
    std::fs::create_dir_all(file(dir.path()).join("x")).unwrap();
    let error = pair(&pairing, &claims("two")).unwrap_err();
    assert_eq!(error.code(), problem::Code::Internal);
    assert!(matches!(outcome(&pairing, 2), Some(Outcome::NotAdded { .. })));
    assert!(matches!(pairing.browsers().revoke(id), Err(TrustError::State(_))));
    assert!(matches!(pairing.browsers().rename(id, "other"), Err(TrustError::State(_))));
    pairing.browsers().touch(id, NOW + 1);
    assert!(pairing.browsers().flush().is_err() && pairing.browsers().flush().is_err());
    assert_eq!(pairing.browsers().list().len(), 1);
    assert_eq!(pairing.browsers().get(id).unwrap().name, "one");
    assert!(!revoked.is_cancelled() && !changes.has_changed().unwrap());
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".new"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    std::fs::remove_dir_all(file(dir.path())).unwrap();
    pairing.browsers().revoke(id).unwrap();
    assert!(revoked.is_cancelled());
}

#[test]
fn a_revocation_is_heard_at_once_and_a_new_name_disturbs_nobody() {
    let pairing = pairing();
    let id = pair(&pairing, &claims("one")).unwrap().agent.client_id;
    let browser = pairing.browsers().get(id).unwrap();
    let revoked = browser.revoked();
    let renamed = pairing.browsers().rename(id, "  two ").unwrap();
    assert_eq!((renamed.name.as_str(), revoked.is_cancelled()), ("two", false));
    pairing.browsers().touch(id, NOW + 5);
    assert_eq!(browser.last_used_at(), NOW + 5, "old handles see the same");
    for name in ["", "   ", "a\nb", "a\u{202e}b", &"x".repeat(101)] {
        assert!(matches!(pairing.browsers().rename(id, name), Err(TrustError::Name)), "{name:?}");
    }
    pairing.browsers().rename(id, &"\u{e9}".repeat(100)).unwrap();
    pairing.browsers().revoke(id).unwrap();
    assert!(revoked.is_cancelled() && renamed.revoked().is_cancelled());
    assert!(pairing.browsers().get(id).is_none());
    assert!(matches!(pairing.browsers().revoke(id), Err(TrustError::NoSuchBrowser)));
    assert!(matches!(pairing.browsers().rename(id, "x"), Err(TrustError::NoSuchBrowser)));
}

fn new(claims: &BrowserClaims) -> NewBrowser {
    NewBrowser {
        client: claims.client.clone(),
        ed25519: claims.ed25519,
        x25519: claims.x25519,
        psk: Psk::from_bytes(&[3; 32]),
    }
}

#[test]
fn ids_and_keys_are_unique_and_there_are_64_at_the_most() {
    let browsers = Browsers::in_memory();
    let first = claims("first");
    let known = browsers.add(new(&first), NOW).unwrap();
    // Another browser that proposes the same id gets another one, and takes nothing away.
    let mut second = claims("second");
    second.client.id = first.client.id;
    let added = browsers.add(new(&second), NOW).unwrap();
    assert_ne!(added.id, known.id);
    assert!(!known.revoked().is_cancelled());
    // The same key again replaces its entry, and what lives on its behalf ends.
    let again = browsers.add(new(&first), NOW + 9).unwrap();
    assert_eq!((again.id, again.created_at, browsers.count()), (first.client.id, NOW + 9, 2));
    assert!(known.revoked().is_cancelled() && !again.revoked().is_cancelled());
    while browsers.count() < MAX_BROWSERS {
        browsers.add(new(&claims("more")), NOW).unwrap();
    }
    assert!(matches!(browsers.add(new(&claims("one more")), NOW), Err(TrustError::Full)));
    browsers.add(new(&first), NOW).unwrap();
    assert_eq!(browsers.count(), MAX_BROWSERS);
    let order: Vec<_> = browsers.list().iter().map(|browser| browser.created_at).collect();
    assert!(order.is_sorted());
}

#[test]
fn texts_of_browsers_cannot_play_tricks() {
    let browsers = Browsers::in_memory();
    let mut tricky = claims(" \u{202e}gnp.exe\u{2066} ");
    tricky.client.os = "\u{2028}".to_owned();
    let browser = browsers.add(new(&tricky), NOW).unwrap();
    assert_eq!((browser.name.as_str(), browser.os.as_str()), ("gnp.exe", ""));
    assert_eq!(browsers.add(new(&claims(" ")), NOW).unwrap().name, "a browser");
    assert!(!format!("{browsers:?}").contains(&format!("{:?}", [3u8; 32])));
}

#[test]
fn a_full_list_gives_no_codes() {
    let pairing = pairing();
    while pairing.browsers().count() < MAX_BROWSERS {
        pairing.browsers().add(new(&claims("b")), NOW).unwrap();
    }
    let error = pairing.issue_code(NOW).unwrap_err();
    assert_eq!(error.code(), problem::Code::RateLimited);
    assert!(error.to_string().contains("revoke"), "{error}");
}
