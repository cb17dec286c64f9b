//! Who speaks: a command that read `control.json`, or a page that was opened by a one-time key. Pure.
//!
//! Of every secret only the SHA-256 is kept and compared: what a comparison's time would tell of it is
//! of no use to anybody.
//!
//! Browsers send cookies to every port of a host, so another local server sees ours unless it is confined to
//! a path: each page session has one of its own, which nobody can guess.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use rand::{TryRngCore, rngs::OsRng};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use zeroize::{Zeroize, Zeroizing};

/// Seconds in which a one-time key has to be used.
pub const KEY_LIFE: i64 = 300;
/// Seconds after which a page has to be opened anew: a working day.
pub const PAGE_LIFE: i64 = 12 * 3600;
/// Keys and page sessions at a time; one more ends the oldest.
const MOST: usize = 8;
/// The cookie's name.
pub const COOKIE: &str = "agent_control";

/// Random and unguessable: 32 bytes as base64url.
pub fn random() -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; 32]);
    rand::RngCore::fill_bytes(&mut OsRng.unwrap_err(), &mut *bytes);
    Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes))
}

/// The SHA-256 of a secret.
type Hash = [u8; 32];

fn hash(secret: &str) -> Hash {
    Sha256::digest(secret).into()
}

/// Whoever was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A command of this machine's user.
    Command,
    /// The page session of this path.
    Page(String),
}

/// A page session that was opened just now.
pub struct Opened {
    /// The path below which it lives, such as `/s/…/`.
    pub path: String,
    /// The value of `Set-Cookie`.
    pub cookie: Zeroizing<String>,
}

struct Page {
    path: String,
    cookie: Hash,
    ends_at: i64,
}

/// What opens the door.
pub struct Access {
    secret: Hash,
    keys: VecDeque<(Hash, i64)>,
    pages: VecDeque<Page>,
}

impl Access {
    /// Lets in who knows `secret`.
    pub fn new(secret: &str) -> Self {
        Self { secret: hash(secret), keys: VecDeque::new(), pages: VecDeque::new() }
    }

    /// Makes a key that opens the page once.
    pub fn key(&mut self, now: i64) -> Zeroizing<String> {
        let key = random();
        if self.keys.len() >= MOST {
            self.keys.pop_front();
        }
        self.keys.push_back((hash(&key), now.saturating_add(KEY_LIFE)));
        key
    }

    /// Takes a key and opens a page session; `None` when the key is none, or used or too old.
    pub fn open(&mut self, key: &str, now: i64) -> Option<Opened> {
        let known = hash(key);
        let at = self.keys.iter().position(|(kept, _)| *kept == known)?;
        let (_, ends_at) = self.keys.remove(at)?;
        if now >= ends_at {
            return None;
        }
        let (path, value) = (format!("/s/{}/", random().as_str()), random());
        if self.pages.len() >= MOST {
            self.pages.pop_front();
        }
        self.pages.push_back(Page {
            path: path.clone(),
            cookie: hash(&value),
            ends_at: now.saturating_add(PAGE_LIFE),
        });
        let cookie = format!(
            "{COOKIE}={}; Path={path}; Max-Age={PAGE_LIFE}; HttpOnly; SameSite=Strict",
            value.as_str()
        );
        Some(Opened { path, cookie: Zeroizing::new(cookie) })
    }

    /// Who made a request for `path`, and the path below the page session's. `None` for strangers.
    pub fn who<'a>(&self, path: &'a str, headers: &HeaderMap, now: i64) -> Option<(Who, &'a str)> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        if bearer.is_some_and(|secret| hash(secret) == self.secret) {
            return Some((Who::Command, path));
        }
        let page = self.pages.iter().find(|page| path.starts_with(&page.path) && now < page.ends_at)?;
        let mut shown = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let known = shown.any(|cookies| {
            cookies
                .split(';')
                .filter_map(|pair| pair.trim().split_once('='))
                .any(|(name, value)| name == COOKIE && hash(value) == page.cookie)
        });
        // The slash at the end of the session's path begins what is below it.
        known.then(|| (Who::Page(page.path.clone()), path.get(page.path.len() - 1..).unwrap_or("/")))
    }

    /// Whether whoever was let in may stay.
    pub fn is_good(&self, who: &Who, now: i64) -> bool {
        match who {
            Who::Command => true,
            Who::Page(path) => self.pages.iter().any(|page| page.path == *path && now < page.ends_at),
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn commands_know_the_secret() {
        let access = Access::new("right");
        for (value, expected) in [
            ("Bearer right", true),
            ("Bearer wrong", false),
            ("Bearer ", false),
            ("bearer right", false),
            ("right", false),
        ] {
            let who = access.who("/api/state", &headers("authorization", value), 0);
            assert_eq!(who, expected.then_some((Who::Command, "/api/state")), "{value}");
        }
        assert_eq!(access.who("/api/state", &HeaderMap::new(), 0), None);
    }

    #[test]
    fn a_key_opens_once_and_its_cookie_is_good_below_its_path() {
        let mut access = Access::new("s");
        let key = access.key(0);
        assert!(access.open("no key", 0).is_none());
        let opened = access.open(&key, KEY_LIFE - 1).unwrap();
        assert!(access.open(&key, KEY_LIFE - 1).is_none(), "once");
        let late = access.key(0);
        assert!(access.open(&late, KEY_LIFE).is_none(), "too old");
        assert!(access.open(&late, 0).is_none(), "and used up by the attempt");

        let cookie = opened.cookie.split(';').next().unwrap().to_owned();
        assert!(opened.cookie.contains(&format!("Path={};", opened.path)));
        assert!(opened.cookie.contains("HttpOnly") && opened.cookie.contains("SameSite=Strict"));
        let (who, path) = (Who::Page(opened.path.clone()), format!("{}api/state", opened.path));
        let begin = KEY_LIFE - 1;
        for (path, cookies, now, expected) in [
            (path.as_str(), cookie.clone(), begin, Some((who.clone(), "/api/state"))),
            (path.as_str(), format!("a=b; {cookie}"), begin, Some((who.clone(), "/api/state"))),
            (&opened.path, cookie.clone(), begin, Some((who.clone(), "/"))),
            ("/api/state", cookie.clone(), begin, None),
            ("/s/other/api/state", cookie.clone(), begin, None),
            (&path, cookie.replace('=', "=x"), begin, None),
            (&path, "a=b".to_owned(), begin, None),
            (&path, cookie.clone(), begin + PAGE_LIFE, None),
        ] {
            assert_eq!(access.who(path, &headers("cookie", &cookies), now), expected, "{path} {cookies}");
        }
        assert!(access.is_good(&who, begin) && !access.is_good(&who, begin + PAGE_LIFE));
        for _ in 0..MOST {
            let key = access.key(begin);
            access.open(&key, begin).unwrap();
        }
        assert!(!access.is_good(&who, begin), "the oldest makes room");
    }
}
