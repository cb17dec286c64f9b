//! Jars of several browsers, and what becomes of them on the disk.

use super::*;
use crate::trust::NewBrowser;
use rand::{TryRngCore, rngs::OsRng};
use relay_protocol::{
    keys::{BrowserDhKey, BrowserSigningKey},
    pairing::{ClientInfo, Psk},
};
use tempfile::TempDir;

const NOW: i64 = 1_800_000_000;

fn add(browsers: &Browsers, id: u128, now: i64) -> Arc<Browser> {
    let mut random = OsRng.unwrap_err();
    let text = str::to_owned;
    let client = ClientInfo {
        id: Uuid::from_u128(id),
        name: text("one"),
        browser: text("Firefox"),
        os: text("Linux"),
        device: text("laptop"),
    };
    let new = NewBrowser {
        client,
        ed25519: BrowserSigningKey::generate(&mut random).verifying_key(),
        x25519: BrowserDhKey::generate(&mut random).public_key(),
        psk: Psk::from_bytes(&[1; 32]),
    };
    browsers.add(new, now).unwrap()
}

fn set(jars: &Jars, browser: &Browser, cookie: &str) {
    jars.store(browser, &[HeaderValue::from_str(cookie).unwrap()], "/", NOW);
}

fn sent(jars: &Jars, browser: &Browser) -> String {
    let header = jars.header(browser, "/", NOW);
    header.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
}

struct Kept {
    dir: TempDir,
    state: Arc<StateDir>,
    browsers: Browsers,
}

impl Kept {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDir::open(dir.path()).unwrap());
        Self { dir, state, browsers: Browsers::in_memory() }
    }

    fn open(&self) -> Jars {
        Jars::open(self.state.clone(), &self.browsers, NOW)
    }

    fn files(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.dir.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.starts_with(FILE.0)).collect();
        names.sort();
        names
    }
}

#[test]
fn each_browser_has_its_own_and_lasting_ones_are_kept() {
    let kept = Kept::new();
    let (one, two) = (add(&kept.browsers, 1, NOW), add(&kept.browsers, 2, NOW));
    let jars = kept.open();
    set(&jars, &one, "a=1; Max-Age=60");
    set(&jars, &one, "session=1");
    set(&jars, &two, "a=2");
    assert_eq!((sent(&jars, &one).as_str(), sent(&jars, &two).as_str()), ("a=1; session=1", "a=2"));
    jars.flush(NOW);
    assert_eq!(kept.files(), [name(one.id)], "nothing of the other's outlives the agent");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(kept.dir.path().join(name(one.id))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let again = kept.open();
    assert_eq!((sent(&again, &one).as_str(), sent(&again, &two).as_str()), ("a=1", ""));
    set(&again, &one, "a=; Max-Age=0");
    again.flush(NOW);
    assert!(kept.files().is_empty());
}

#[test]
fn clearing_forgets_one_browsers_also_on_the_disk() {
    let kept = Kept::new();
    let (one, two) = (add(&kept.browsers, 1, NOW), add(&kept.browsers, 2, NOW));
    let jars = kept.open();
    for browser in [&one, &two] {
        set(&jars, browser, "a=1; Max-Age=60");
        set(&jars, browser, "session=1");
    }
    jars.flush(NOW);
    jars.clear(&one);
    assert_eq!((sent(&jars, &one).as_str(), sent(&jars, &two).as_str()), ("", "a=1; session=1"));
    jars.flush(NOW);
    assert_eq!(kept.files(), [name(two.id)]);
    set(&jars, &one, "b=2");
    assert_eq!(sent(&jars, &one), "b=2");
    jars.clear(&add(&kept.browsers, 3, NOW));
}

#[test]
fn revoking_clears_memory_and_disk_also_while_the_agent_is_down() {
    let kept = Kept::new();
    let browsers: Vec<_> = (1..=3).map(|id| add(&kept.browsers, id, NOW)).collect();
    let jars = kept.open();
    browsers.iter().for_each(|browser| set(&jars, browser, "a=1; Max-Age=60"));
    jars.flush(NOW);
    kept.browsers.revoke(browsers[0].id).unwrap();
    // From that moment on, whatever is still under way.
    assert_eq!(sent(&jars, &browsers[0]), "");
    set(&jars, &browsers[0], "b=1; Max-Age=60");
    jars.flush(NOW);
    assert_eq!(kept.files(), [name(browsers[1].id), name(browsers[2].id)]);
    assert_eq!(jars.jars.lock().len(), 2);
    // Killed between the two writes, and paired anew under the same id.
    kept.browsers.revoke(browsers[1].id).unwrap();
    kept.browsers.revoke(browsers[2].id).unwrap();
    let anew = add(&kept.browsers, 3, NOW + 5);
    assert_eq!(anew.id, browsers[2].id);
    let again = kept.open();
    assert!(kept.files().is_empty());
    assert_eq!(sent(&again, &anew), "");
    // The same without an end in between.
    set(&jars, &anew, "c=1");
    assert_eq!(sent(&jars, &anew), "c=1");
}

#[test]
fn a_damaged_file_is_set_aside_and_breaks_nothing() {
    let kept = Kept::new();
    let browser = add(&kept.browsers, 1, NOW);
    let sound = || {
        let jars = kept.open();
        set(&jars, &browser, "a=1; Max-Age=60");
        jars.flush(NOW);
        std::fs::read_to_string(kept.dir.path().join(name(browser.id))).unwrap()
    };
    let text = sound();
    for damaged in [
        String::new(),
        "garbage".to_owned(),
        text.replace("\"v\":1", "\"v\":2"),
        text.replace("\"/\"", "\"x\""),
        text.replace("\"v\":1", "\"v\":1,\"more\":1"),
    ] {
        std::fs::write(kept.dir.path().join(name(browser.id)), &damaged).unwrap();
        let jars = kept.open();
        assert_eq!(sent(&jars, &browser), "", "{damaged}");
        let aside = kept.dir.path().join(format!("{}{DAMAGED}", name(browser.id)));
        assert_eq!(kept.files().len(), 1, "{damaged}");
        assert_eq!(std::fs::read_to_string(aside).unwrap(), damaged);
        assert_eq!(sound(), text, "it goes on");
    }
    kept.browsers.revoke(browser.id).unwrap();
    kept.open();
    assert!(kept.files().is_empty(), "what was set aside goes with the browser");
}

#[tokio::test(start_paused = true)]
async fn what_changes_is_written_by_itself() {
    let kept = Kept::new();
    let browser = add(&kept.browsers, 1, NOW);
    let jars = Arc::new(kept.open());
    let until = async |wanted: usize| {
        while kept.files().len() != wanted {
            tokio::time::sleep(WRITE_EVERY).await;
        }
    };
    let changes = async {
        set(&jars, &browser, "a=1; Max-Age=60");
        until(1).await;
        kept.browsers.revoke(browser.id).unwrap();
        until(0).await;
    };
    tokio::select! {
        () = jars.keep(&kept.browsers, Arc::new(|| NOW)) => {}
        () = changes => {}
    }
    assert_eq!(jars.jars.lock().len(), 0);
}

#[test]
fn a_disk_that_fails_breaks_no_request() {
    let kept = Kept::new();
    let browser = add(&kept.browsers, 1, NOW);
    let jars = kept.open();
    // Nothing can be renamed onto a folder that is not empty.
    let in_the_way = kept.dir.path().join(name(browser.id));
    std::fs::create_dir_all(in_the_way.join("x")).unwrap();
    set(&jars, &browser, "a=1; Max-Age=60");
    jars.flush(NOW);
    assert_eq!(sent(&jars, &browser), "a=1");
    std::fs::remove_dir_all(&in_the_way).unwrap();
    jars.flush(NOW);
    assert_eq!(kept.files(), [name(browser.id)], "the next attempt writes it");
}
