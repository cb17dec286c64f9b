//! The cookies of paired browsers: what a local server sets in an exchange stays with the agent (PROTOCOL.md
//! section 5.2), so that neither the relay nor a script in the browser ever sees it.
//!
//! Each browser has a [`Jar`] of its own, in memory and, as far as the cookies outlive the agent, in a file of
//! the state folder, `cookies-<id>.json`. Requests touch the memory alone; files are written behind
//! them, at most once a second, and a file that cannot be written breaks nothing. When a browser is
//! revoked its jar and its file go, also when it was revoked just before the agent ended.
//!
//! Cookies are no keys: a damaged file is set aside with a warning, and people sign in to the local server anew.

mod jar;

pub use jar::{Jar, MAX_BYTES, MAX_COOKIE, MAX_COOKIES};

use crate::{
    state::{StateDir, StateError},
    trust::{Browser, Browsers},
};
use http::HeaderValue;
use jar::Kept;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The form of the file that this version writes, and the only one that it reads.
const FORM: u32 = 1;
/// How the names of the files begin and end.
const FILE: (&str, &str) = ("cookies-", ".json");
/// How a file is called that was set aside.
const DAMAGED: &str = ".damaged";
/// Files are written at most this often.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Unix seconds.
type Now = dyn Fn() -> i64 + Send + Sync;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    v: u32,
    /// When the browser was paired: one that is paired anew under the same id is another one.
    paired_at: i64,
    cookies: Vec<Kept>,
}

/// The jars of all paired browsers; at most as many as there are browsers.
#[derive(Debug, Default)]
pub struct Jars {
    /// Where they are kept; nowhere for programs without a state folder.
    state: Option<Arc<StateDir>>,
    jars: Mutex<HashMap<Uuid, Slot>>,
    /// Held while files are written, so that no write overtakes a removal. Never on the way of a request.
    writing: Mutex<()>,
    changed: Notify,
}

#[derive(Debug)]
struct Slot {
    jar: Jar,
    paired_at: i64,
    revoked: CancellationToken,
    /// Whether the file is not up to date.
    dirty: bool,
}

impl Slot {
    fn new(jar: Jar, browser: &Browser) -> Self {
        Self { jar, paired_at: browser.created_at, revoked: browser.revoked(), dirty: false }
    }
}

impl Jars {
    /// Reads what is kept for `browsers`. What is kept for others is removed.
    pub fn open(state: Arc<StateDir>, browsers: &Browsers, now: i64) -> Self {
        remove_strangers(&state, browsers);
        let read = |browser: Arc<Browser>| {
            let jar = read(&state, &browser, now)?;
            Some((browser.id, Slot::new(jar, &browser)))
        };
        let jars = browsers.list().into_iter().filter_map(read).collect();
        Self { state: Some(state), jars: Mutex::new(jars), ..Self::default() }
    }

    /// The `Cookie` header of a request of `browser` for `path`.
    pub fn header(&self, browser: &Browser, path: &str, now: i64) -> Option<HeaderValue> {
        let mut jars = self.jars.lock();
        let slot = jars.get_mut(&browser.id)?;
        if slot.revoked.is_cancelled() { None } else { slot.jar.header(path, now) }
    }

    /// Takes the `Set-Cookie`s of an answer to a request of `browser` for `path`.
    pub fn store(&self, browser: &Browser, cookies: &[HeaderValue], path: &str, now: i64) {
        if cookies.is_empty() {
            return;
        }
        let mut jars = self.jars.lock();
        // Looked at under the lock: whoever clears takes it after the browser was revoked.
        if browser.revoked().is_cancelled() {
            return;
        }
        let slot = jars.entry(browser.id).or_insert_with(|| Slot::new(Jar::default(), browser));
        if slot.revoked.is_cancelled() {
            // Paired anew under the same id.
            *slot = Slot { dirty: true, ..Slot::new(Jar::default(), browser) };
        }
        for cookie in cookies {
            slot.dirty |= slot.jar.store(cookie, path, now);
        }
        if slot.dirty {
            self.changed.notify_one();
        }
    }

    /// Forgets all cookies of `browser`: the local server asks for it.
    pub fn clear(&self, browser: &Browser) {
        let mut jars = self.jars.lock();
        // Whoever is revoked is cleared anyway.
        let Some(slot) = jars.get_mut(&browser.id).filter(|slot| !slot.revoked.is_cancelled()) else {
            return;
        };
        if slot.jar.clear() {
            slot.dirty = true;
            self.changed.notify_one();
        }
    }

    /// Writes what has changed and clears what was revoked, for as long as the agent runs.
    pub async fn keep(self: &Arc<Self>, browsers: &Browsers, now: Arc<Now>) {
        let mut changes = browsers.changes();
        // What was revoked before it was looked at.
        changes.mark_changed();
        loop {
            tokio::select! {
                () = self.changed.notified() => tokio::time::sleep(WRITE_EVERY).await,
                // The list lasts as long as the agent.
                _ = changes.changed() => {}
            }
            let (jars, now) = (self.clone(), now());
            // It would have to panic to fail.
            let _ = tokio::task::spawn_blocking(move || jars.flush(now)).await;
        }
    }

    /// Writes what has changed, and clears what was revoked. Waits for the disk.
    pub fn flush(&self, now: i64) {
        let _writing = self.writing.lock();
        let (gone, changed) = self.take_changes(now);
        let Some(state) = &self.state else { return };
        gone.into_iter().for_each(|id| remove(state, &name(id)));
        for (id, file) in changed {
            if let Err(error) = write(state, id, &file) {
                tracing::warn!(%error, "cookies cannot be kept; they end with the agent");
                if let Some(slot) = self.jars.lock().get_mut(&id) {
                    slot.dirty = true;
                }
            }
        }
    }

    /// Takes out whose browsers were revoked, and what has to be written.
    fn take_changes(&self, now: i64) -> (Vec<Uuid>, Vec<(Uuid, File)>) {
        let mut jars = self.jars.lock();
        let gone: Vec<Uuid> =
            jars.iter().filter(|(_, slot)| slot.revoked.is_cancelled()).map(|(id, _)| *id).collect();
        for id in &gone {
            jars.remove(id);
        }
        let mut changed = Vec::new();
        for (id, slot) in jars.iter_mut().filter(|(_, slot)| slot.dirty) {
            slot.dirty = false;
            let cookies = slot.jar.persistent(now);
            changed.push((*id, File { v: FORM, paired_at: slot.paired_at, cookies }));
        }
        (gone, changed)
    }
}

fn name(id: Uuid) -> String {
    format!("{}{id}{}", FILE.0, FILE.1)
}

fn write(state: &StateDir, id: Uuid, file: &File) -> Result<(), StateError> {
    if file.cookies.is_empty() {
        return state.remove(&name(id));
    }
    // Strings and numbers always have a JSON text.
    state.replace(&name(id), &serde_json::to_vec(file).unwrap_or_default())
}

/// What is kept for a browser. Whatever is wrong with it, there is a warning and a jar that is empty.
fn read(state: &StateDir, browser: &Browser, now: i64) -> Option<Jar> {
    let name = name(browser.id);
    let text = match state.read(&name) {
        Ok(text) => text?,
        Err(error) => {
            tracing::warn!(%error, "cookies cannot be read; people sign in to the local server anew");
            return None;
        }
    };
    let file = serde_json::from_slice::<File>(&text).ok().filter(|file| file.v == FORM);
    // Of an earlier pairing of the same id: nobody's any more.
    if file.as_ref().is_some_and(|file| file.paired_at != browser.created_at) {
        remove(state, &name);
        return None;
    }
    let jar = file.and_then(|file| Jar::restore(file.cookies, now));
    if jar.is_none() {
        let path = state.path().join(&name);
        let aside = state.path().join(format!("{name}{DAMAGED}"));
        match std::fs::rename(&path, &aside) {
            Ok(()) => tracing::warn!(
                file = %aside.display(),
                "cookies were not as they were written, and are set aside; people sign in to the local server anew"
            ),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "damaged cookies cannot be set aside")
            }
        }
    }
    jar
}

/// Removes what belongs to browsers that are not paired any more: an agent that ends just after a revocation
/// leaves it behind. What was set aside goes with its browser too.
fn remove_strangers(state: &StateDir, browsers: &Browsers) {
    let Ok(entries) = std::fs::read_dir(state.path()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let id = name
            .strip_prefix(FILE.0)
            .and_then(|rest| rest.strip_suffix(DAMAGED).unwrap_or(rest).strip_suffix(FILE.1));
        if let Some(id) = id.and_then(|id| id.parse::<Uuid>().ok())
            && browsers.get(id).is_none()
        {
            remove(state, &name);
        }
    }
}

fn remove(state: &StateDir, name: &str) {
    if let Err(error) = state.remove(name) {
        tracing::warn!(%error, "the cookies of a revoked browser cannot be removed from the disk");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
