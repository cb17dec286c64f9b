//! The paired browsers: who may speak to this host, in `browsers.json` and in memory.
//!
//! A change is on the disk before it is in memory, and in memory before anybody is told; one that cannot be
//! written is none. A file that cannot be read or understood stops the start and is left as it is: an
//! empty list would lock people out, and a guessed one would let strangers in.

use super::{Issuer, SecretText, TrustError};
use crate::state::StateDir;
use parking_lot::{Mutex, RwLock};
use relay_protocol::{
    keys::{BrowserDhPublicKey, BrowserVerifyingKey},
    pairing::{ClientInfo, MAX_TEXT, Psk},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Browsers that an agent keeps.
pub const MAX_BROWSERS: usize = 64;
/// The file in the state folder.
const FILE: &str = "browsers.json";
/// The form of the file that this version writes, and the only one that it reads.
const FORM: u32 = 1;

/// One paired browser.
#[derive(Debug)]
pub struct Browser {
    /// The id under which the agent knows it: the `keyid` of its session requests.
    pub id: Uuid,
    /// The name that people see, 1 to [`MAX_TEXT`] characters, printable.
    pub name: String,
    /// Such as `Firefox`; as the browser told, printable.
    pub browser: String,
    /// Such as `Linux`; as the browser told, printable.
    pub os: String,
    /// Such as `phone`; as the browser told, printable.
    pub device: String,
    /// The key that its requests are signed with.
    pub ed25519: BrowserVerifyingKey,
    /// Its key for sealed sessions.
    pub x25519: BrowserDhPublicKey,
    /// The secret of the pairing.
    pub psk: Psk,
    /// When it was paired, in Unix seconds.
    pub created_at: i64,
    /// Shared with the entry that a renaming makes.
    last_used_at: Arc<AtomicI64>,
    revoked: CancellationToken,
}

impl Browser {
    /// When it was last used, in Unix seconds; never before it was paired.
    pub fn last_used_at(&self) -> i64 {
        self.last_used_at.load(Ordering::Relaxed)
    }

    /// Is cancelled when the browser is revoked, or paired anew with another secret. What lives on its
    /// behalf has to end then.
    pub fn revoked(&self) -> CancellationToken {
        self.revoked.clone()
    }
}

/// A browser that is about to be added.
#[derive(Debug)]
pub struct NewBrowser {
    /// What it says of itself, the id that it proposes among it.
    pub client: ClientInfo,
    /// See [`Browser`].
    pub ed25519: BrowserVerifyingKey,
    /// See [`Browser`].
    pub x25519: BrowserDhPublicKey,
    /// See [`Browser`].
    pub psk: Psk,
}

type Map = HashMap<Uuid, Arc<Browser>>;

/// The list of paired browsers.
#[derive(Debug)]
pub struct Browsers {
    /// Where it is kept; nowhere for programs without a state folder.
    state: Option<Arc<StateDir>>,
    map: RwLock<Map>,
    /// Held during a change, so that readers need not wait for the disk.
    changing: Mutex<()>,
    /// Whether a time of last use is not in the file yet.
    touched: AtomicBool,
    changes: watch::Sender<u64>,
}

impl Browsers {
    /// Reads the list from the state folder.
    ///
    /// # Errors
    /// When the file is there and cannot be read or understood.
    pub fn open(state: Arc<StateDir>) -> Result<Self, TrustError> {
        let map = match state.read(FILE)? {
            Some(text) => parse(&text)
                .map_err(|reason| TrustError::Damaged { path: state.path().join(FILE), reason })?,
            None => Map::new(),
        };
        Ok(Self::new(Some(state), map))
    }

    /// A list that ends with the process.
    pub fn in_memory() -> Self {
        Self::new(None, Map::new())
    }

    fn new(state: Option<Arc<StateDir>>, map: Map) -> Self {
        Self {
            state,
            map: RwLock::new(map),
            changing: Mutex::default(),
            touched: AtomicBool::new(false),
            changes: watch::channel(0).0,
        }
    }

    /// The browser of this id.
    pub fn get(&self, id: Uuid) -> Option<Arc<Browser>> {
        self.map.read().get(&id).cloned()
    }

    /// All of them, the longest paired first.
    pub fn list(&self) -> Vec<Arc<Browser>> {
        let mut all: Vec<_> = self.map.read().values().cloned().collect();
        all.sort_by_key(|browser| (browser.created_at, browser.id));
        all
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.map.read().len()
    }

    /// Changes whenever the list does (not for a time of last use).
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Adds a browser. One with the same signing key is replaced, and what lives on its behalf ends. The id is
    /// the proposed one unless another browser has it.
    ///
    /// # Errors
    /// When there are [`MAX_BROWSERS`], or it cannot be written.
    pub fn add(&self, new: NewBrowser, now: i64) -> Result<Arc<Browser>, TrustError> {
        self.add_by(&Issuer::Owner, new, now)
    }

    /// The same for a browser that was let in by somebody's code. Once the revocation of that one is done, it adds
    /// nobody.
    ///
    /// # Errors
    /// As [`Browsers::add`], and when it was revoked.
    pub fn add_by(&self, by: &Issuer, new: NewBrowser, now: i64) -> Result<Arc<Browser>, TrustError> {
        let _changing = self.changing.lock();
        if by.is_revoked() {
            return Err(TrustError::IssuerRevoked);
        }
        let mut map = self.map.read().clone();
        let same = map.values().find(|known| known.ed25519 == new.ed25519).map(|known| known.id);
        let replaced = same.and_then(|id| map.remove(&id));
        if map.len() >= MAX_BROWSERS {
            return Err(TrustError::Full);
        }
        let mut id = new.client.id;
        while map.contains_key(&id) {
            id = Uuid::new_v4();
        }
        let name = printable(&new.client.name);
        let browser = Arc::new(Browser {
            id,
            name: if name.is_empty() { "a browser".to_owned() } else { name },
            browser: printable(&new.client.browser),
            os: printable(&new.client.os),
            device: printable(&new.client.device),
            ed25519: new.ed25519,
            x25519: new.x25519,
            psk: new.psk,
            created_at: now,
            last_used_at: Arc::new(AtomicI64::new(now)),
            revoked: CancellationToken::new(),
        });
        map.insert(id, browser.clone());
        self.keep(map)?;
        if let Some(replaced) = replaced {
            replaced.revoked.cancel();
        }
        Ok(browser)
    }

    /// Gives a browser another name.
    ///
    /// # Errors
    /// When there is no such browser, the name is none, or it cannot be written.
    pub fn rename(&self, id: Uuid, name: &str) -> Result<Arc<Browser>, TrustError> {
        let shown = printable(name);
        if shown.is_empty() || name.trim().chars().count() > MAX_TEXT || shown != name.trim() {
            return Err(TrustError::Name);
        }
        let _changing = self.changing.lock();
        let mut map = self.map.read().clone();
        let old = map.get(&id).ok_or(TrustError::NoSuchBrowser)?;
        let renamed = Arc::new(Browser {
            id,
            name: shown,
            browser: old.browser.clone(),
            os: old.os.clone(),
            device: old.device.clone(),
            ed25519: old.ed25519,
            x25519: old.x25519,
            psk: old.psk.clone(),
            created_at: old.created_at,
            last_used_at: old.last_used_at.clone(),
            revoked: old.revoked.clone(),
        });
        map.insert(id, renamed.clone());
        self.keep(map)?;
        Ok(renamed)
    }

    /// Takes a browser off the list; what lives on its behalf ends. Gives what it was.
    ///
    /// # Errors
    /// When there is no such browser, or it cannot be written: then it is still paired.
    pub fn revoke(&self, id: Uuid) -> Result<Arc<Browser>, TrustError> {
        let _changing = self.changing.lock();
        let mut map = self.map.read().clone();
        let revoked = map.remove(&id).ok_or(TrustError::NoSuchBrowser)?;
        self.keep(map)?;
        revoked.revoked.cancel();
        Ok(revoked)
    }

    /// Notes that a browser was used. Costs nothing; [`Browsers::flush`] writes it.
    pub fn touch(&self, id: Uuid, now: i64) {
        if let Some(browser) = self.get(id)
            && browser.last_used_at.fetch_max(now, Ordering::Relaxed) < now
        {
            self.touched.store(true, Ordering::Relaxed);
        }
    }

    /// Writes times of last use that are not in the file yet.
    ///
    /// # Errors
    /// When it cannot be written; the next call tries again.
    pub fn flush(&self) -> Result<(), TrustError> {
        let _changing = self.changing.lock();
        if !self.touched.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let map = self.map.read().clone();
        self.write(&map).inspect_err(|_| self.touched.store(true, Ordering::Relaxed))
    }

    /// Writes the new list, then makes it the list.
    fn keep(&self, map: Map) -> Result<(), TrustError> {
        self.write(&map)?;
        *self.map.write() = map;
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    fn write(&self, map: &Map) -> Result<(), TrustError> {
        let Some(state) = &self.state else { return Ok(()) };
        let mut browsers: Vec<_> = map.values().map(|browser| Entry::new(browser)).collect();
        browsers.sort_by_key(|entry| (entry.created_at, entry.id));
        let text = serde_json::to_vec_pretty(&File { v: FORM, browsers });
        let text = text.map(Zeroizing::new).map_err(|error| TrustError::Damaged {
            path: state.path().join(FILE),
            reason: error.to_string(),
        })?;
        Ok(state.replace(FILE, &text)?)
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    v: u32,
    browsers: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: Uuid,
    name: String,
    browser: String,
    os: String,
    device: String,
    ed25519: BrowserVerifyingKey,
    x25519: BrowserDhPublicKey,
    psk: SecretText,
    created_at: i64,
    last_used_at: i64,
}

impl Entry {
    fn new(browser: &Browser) -> Self {
        Self {
            id: browser.id,
            name: browser.name.clone(),
            browser: browser.browser.clone(),
            os: browser.os.clone(),
            device: browser.device.clone(),
            ed25519: browser.ed25519,
            x25519: browser.x25519,
            psk: SecretText::new(browser.psk.reveal_bytes()),
            created_at: browser.created_at,
            last_used_at: browser.last_used_at(),
        }
    }

    fn browser(self) -> Result<Browser, String> {
        let of = |what: &str| format!("the {what} of the browser {} is not one", self.id);
        if [&self.name, &self.browser, &self.os, &self.device].iter().any(|text| printable(text) != ***text)
            || self.name.is_empty()
        {
            return Err(of("name or description"));
        }
        Ok(Browser {
            psk: Psk::from_bytes(&*self.psk.bytes().ok_or_else(|| of("psk"))?),
            ed25519: self.ed25519,
            x25519: self.x25519,
            id: self.id,
            name: self.name,
            browser: self.browser,
            os: self.os,
            device: self.device,
            created_at: self.created_at,
            last_used_at: Arc::new(AtomicI64::new(self.last_used_at)),
            revoked: CancellationToken::new(),
        })
    }
}

fn parse(text: &[u8]) -> Result<Map, String> {
    // What serde says of a damaged file might quote it.
    let file: File = serde_json::from_slice(text)
        .map_err(|error| format!("line {} is not as it was written", error.line()))?;
    if file.v != FORM {
        return Err(format!("it is of form {}, and this version knows only {FORM}", file.v));
    }
    if file.browsers.len() > MAX_BROWSERS {
        return Err(format!("it lists more than {MAX_BROWSERS} browsers"));
    }
    let mut map = Map::new();
    for entry in file.browsers {
        let browser = entry.browser()?;
        if map.values().any(|known: &Arc<Browser>| known.ed25519 == browser.ed25519) {
            return Err(format!("two browsers have the key of {}", browser.id));
        }
        let id = browser.id;
        if map.insert(id, Arc::new(browser)).is_some() {
            return Err(format!("two browsers have the id {id}"));
        }
    }
    Ok(map)
}

/// A text from outside as it may be shown: cut, and without characters that would play with a terminal or with
/// the order in which a line is read.
fn printable(text: &str) -> String {
    let shown: String = text
        .chars()
        .take(MAX_TEXT)
        .map(|c| match c {
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ' ',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect();
    shown.trim().to_owned()
}
