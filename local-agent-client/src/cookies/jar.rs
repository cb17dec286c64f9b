//! One browser's cookies (RFC 6265). Pure: the time comes in.
//!
//! There is one host, and cookies are taken and sent as if over https, so neither `Domain` nor `Secure` decides
//! anything here, but for names that promise something of them: a cookie is known by its name and its path. What
//! the local server sets is bounded, because it may be broken or somebody else's program; the cookie that was
//! unused for longest goes first.

use cookie::Cookie;
use http::HeaderValue;
use serde::{Deserialize, Serialize};

/// Cookies of one jar. RFC 6265 section 6.1 asks for 50; browsers keep about this many.
pub const MAX_COOKIES: usize = 150;
/// Bytes of a cookie's name and value (RFC 6265 section 6.1).
pub const MAX_COOKIE: usize = 4096;
/// Bytes of a path; a longer one counts as none, as in browsers.
pub const MAX_PATH: usize = 1024;
/// Bytes of all names, values and paths of a jar: what a `Cookie` header may become. Servers refuse a line of 8 KiB
/// (nginx) or a head of 16 KiB (Node.js), and a jar that is refused could lock its browser out for good.
pub const MAX_BYTES: usize = 7 * 1024;

/// The cookies of one browser. Its values are secrets and never print.
#[derive(Default)]
pub struct Jar {
    /// The longest known first, which is the order in which RFC 6265 section 5.4 wants them.
    cookies: Vec<Stored>,
    /// Counts uses.
    uses: u64,
}

struct Stored {
    cookie: Kept,
    used: u64,
}

/// A cookie as it is kept in a file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    name: String,
    value: String,
    path: String,
    /// When it ends, in Unix seconds; none ends with the agent.
    expires: Option<i64>,
}

impl Kept {
    /// Whether it is one that [`Jar::store`] could have made.
    fn is_sound(&self) -> bool {
        let text = |text: &str| HeaderValue::from_str(text).is_ok();
        (1..=MAX_PATH).contains(&self.path.len())
            && self.path.starts_with('/')
            && !self.name.is_empty()
            && self.name.len() + self.value.len() <= MAX_COOKIE
            && text(&self.name)
            && text(&self.value)
    }

    fn has_expired(&self, now: i64) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    fn len(&self) -> usize {
        self.name.len() + self.value.len() + self.path.len()
    }
}

impl std::fmt::Debug for Jar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Jar({} cookies)", self.cookies.len())
    }
}

impl Jar {
    /// A jar of what was kept in a file; `None` when that is nothing that a jar has written.
    pub fn restore(kept: Vec<Kept>, now: i64) -> Option<Self> {
        let bytes: usize = kept.iter().map(Kept::len).sum();
        if kept.len() > MAX_COOKIES || bytes > MAX_BYTES || !kept.iter().all(Kept::is_sound) {
            return None;
        }
        let cookies = kept.into_iter().map(|cookie| Stored { cookie, used: 0 }).collect();
        let mut jar = Self { cookies, uses: 0 };
        jar.drop_expired(now);
        Some(jar)
    }

    /// What outlives the agent.
    pub fn persistent(&self, now: i64) -> Vec<Kept> {
        let kept = self.cookies.iter().map(|stored| &stored.cookie);
        kept.filter(|cookie| cookie.expires.is_some() && !cookie.has_expired(now)).cloned().collect()
    }

    /// Takes a `Set-Cookie` of an answer to a request for `path`. One that cannot be used is left out. Whether
    /// what outlives the agent has changed.
    pub fn store(&mut self, field: &HeaderValue, path: &str, now: i64) -> bool {
        let Some(cookie) = std::str::from_utf8(field.as_bytes()).ok().and_then(|text| read(text, path, now))
        else {
            return false;
        };
        self.drop_expired(now);
        let same = |known: &Stored| (&known.cookie.name, &known.cookie.path) == (&cookie.name, &cookie.path);
        let place = self.cookies.iter().position(same);
        let was_persistent =
            place.and_then(|at| self.cookies.get(at)).is_some_and(|known| known.cookie.expires.is_some());
        let changed = was_persistent || cookie.expires.is_some();
        self.uses += 1;
        match (place, cookie.has_expired(now)) {
            (Some(at), true) => drop(self.cookies.remove(at)),
            (None, true) => return false,
            (Some(at), false) => {
                if let Some(known) = self.cookies.get_mut(at) {
                    // It keeps its place, as RFC 6265 section 5.3 keeps its time of creation.
                    *known = Stored { cookie, used: self.uses };
                }
            }
            (None, false) => self.cookies.push(Stored { cookie, used: self.uses }),
        }
        self.evict() || changed
    }

    /// The `Cookie` header of a request for `path`; `None` when there is nothing to say.
    pub fn header(&mut self, path: &str, now: i64) -> Option<HeaderValue> {
        self.drop_expired(now);
        self.uses += 1;
        let uses = self.uses;
        let mut matching: Vec<&mut Stored> =
            self.cookies.iter_mut().filter(|stored| path_matches(&stored.cookie.path, path)).collect();
        // Stable: among paths of one length the older cookie stays first.
        matching.sort_by_key(|stored| std::cmp::Reverse(stored.cookie.path.len()));
        let mut header = String::new();
        for stored in matching {
            stored.used = uses;
            if !header.is_empty() {
                header.push_str("; ");
            }
            header.push_str(&stored.cookie.name);
            header.push('=');
            header.push_str(&stored.cookie.value);
        }
        if header.is_empty() { None } else { HeaderValue::try_from(header).ok() }
    }

    /// Drops everything. Whether what outlives the agent has changed.
    pub fn clear(&mut self) -> bool {
        self.cookies.drain(..).any(|stored| stored.cookie.expires.is_some())
    }

    fn drop_expired(&mut self, now: i64) {
        self.cookies.retain(|stored| !stored.cookie.has_expired(now));
    }

    /// Drops cookies until the jar is within its limits; whether one of them would have outlived the agent.
    fn evict(&mut self) -> bool {
        let mut persistent = false;
        let mut bytes: usize = self.cookies.iter().map(|stored| stored.cookie.len()).sum();
        while self.cookies.len() > MAX_COOKIES || bytes > MAX_BYTES {
            let oldest = self.cookies.iter().enumerate().min_by_key(|(_, stored)| stored.used);
            let Some((at, _)) = oldest else { break };
            let gone = self.cookies.remove(at).cookie;
            bytes -= gone.len();
            persistent |= gone.expires.is_some();
        }
        persistent
    }
}

/// Reads a `Set-Cookie` (RFC 6265 sections 5.2 and 5.3).
fn read(text: &str, request_path: &str, now: i64) -> Option<Kept> {
    let cookie = Cookie::parse(text).ok().filter(keeps_its_prefix)?;
    let path = cookie
        .path()
        .filter(|path| path.starts_with('/') && path.len() <= MAX_PATH)
        .unwrap_or_else(|| default_path(request_path));
    let expires = match (cookie.max_age(), cookie.expires_datetime()) {
        (Some(age), _) => Some(now.saturating_add(age.whole_seconds())),
        (None, Some(at)) => Some(at.unix_timestamp()),
        (None, None) => None,
    };
    let read = Kept {
        name: cookie.name().to_owned(),
        value: cookie.value().to_owned(),
        path: path.to_owned(),
        expires,
    };
    read.is_sound().then_some(read)
}

/// What a name promises that begins with `__Secure-` or `__Host-` (RFC 6265bis section 4.1.3).
fn keeps_its_prefix(cookie: &Cookie<'_>) -> bool {
    let begins_with = |prefix: &str| {
        cookie.name().get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
    };
    let is_secure = cookie.secure() == Some(true);
    if begins_with("__Host-") {
        is_secure && cookie.domain().is_none() && cookie.path() == Some("/")
    } else {
        is_secure || !begins_with("__Secure-")
    }
}

/// RFC 6265 section 5.1.4: up to the last slash. One that would be too long is the whole host's.
fn default_path(request_path: &str) -> &str {
    match request_path.rfind('/') {
        Some(at @ 1..) if request_path.starts_with('/') && at <= MAX_PATH => {
            request_path.get(..at).unwrap_or("/")
        }
        _ => "/",
    }
}

/// RFC 6265 section 5.1.4.
fn path_matches(cookie: &str, request: &str) -> bool {
    request
        .strip_prefix(cookie)
        .is_some_and(|rest| rest.is_empty() || cookie.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn set(jar: &mut Jar, field: &str, path: &str, now: i64) -> bool {
        jar.store(&HeaderValue::from_str(field).unwrap(), path, now)
    }

    fn sent(jar: &mut Jar, path: &str, now: i64) -> String {
        let header = jar.header(path, now);
        header.map_or_else(String::new, |value| String::from_utf8(value.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn what_is_set_is_sent_where_it_belongs() {
        // (set, for a request for, sent with a request for, expected)
        for (field, set_at, sent_at, expected) in [
            ("a=1", "/", "/", "a=1"),
            ("a=1", "/", "/deep/below", "a=1"),
            ("a=1", "/app/page", "/app/other", "a=1"),
            ("a=1", "/app/page", "/app", "a=1"),
            ("a=1", "/app/page", "/apple", ""),
            ("a=1", "/app/page", "/", ""),
            ("a=1; Path=/x", "/app", "/x/y", "a=1"),
            ("a=1; Path=/x", "/app", "/xy", ""),
            ("a=1; Path=/x/", "/app", "/x/y", "a=1"),
            ("a=1; Path=/x/", "/app", "/x", ""),
            ("a=1; Path=x", "/app/page", "/app", "a=1"),
            ("a=1; Path=", "/app/page", "/app", "a=1"),
            // Neither of these decides anything: there is one host, as if over https.
            ("a=1; Domain=evil.example; Secure; HttpOnly; SameSite=Strict", "/", "/", "a=1"),
            ("a=\"q u\"; Path=/", "/", "/", "a=\"q u\""),
            ("a=", "/", "/", "a="),
            ("a=b=c", "/", "/", "a=b=c"),
            ("=nameless", "/", "/", ""),
            ("nothing", "/", "/", ""),
            ("", "/", "/", ""),
            // What the name promises.
            ("__Secure-a=1; Secure", "/", "/", "__Secure-a=1"),
            ("__Secure-a=1; Secure; Domain=x; Path=/x", "/", "/x", "__Secure-a=1"),
            ("__Secure-a=1", "/", "/", ""),
            ("__secure-a=1", "/", "/", ""),
            ("__Host-a=1; Secure; Path=/", "/", "/", "__Host-a=1"),
            ("__Host-a=1; Path=/", "/", "/", ""),
            ("__Host-a=1; Secure", "/", "/", ""),
            ("__Host-a=1; Secure; Path=/x", "/", "/x", ""),
            ("__Host-a=1; Secure; Path=/; Domain=x.example", "/", "/", ""),
            ("__HOST-a=1; Path=/", "/", "/", ""),
            ("__Hosta=1", "/", "/", "__Hosta=1"),
            // Gone before they are there.
            ("a=1; Max-Age=0", "/", "/", ""),
            ("a=1; Max-Age=-5", "/", "/", ""),
            ("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "/", "/", ""),
            ("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=10", "/", "/", "a=1"),
            ("a=1; Expires=whenever", "/", "/", "a=1"),
        ] {
            let mut jar = Jar::default();
            set(&mut jar, field, set_at, NOW);
            assert_eq!(sent(&mut jar, sent_at, NOW), expected, "{field} at {set_at}, sent to {sent_at}");
        }
    }

    #[test]
    fn longer_paths_and_older_cookies_come_first() {
        let mut jar = Jar::default();
        for (field, path) in
            [("a=1; Path=/", "/"), ("b=2; Path=/x", "/"), ("c=3; Path=/", "/"), ("a=4; Path=/x", "/")]
        {
            set(&mut jar, field, path, NOW);
        }
        assert_eq!(sent(&mut jar, "/x", NOW), "b=2; a=4; a=1; c=3");
        set(&mut jar, "a=5; Path=/", "/", NOW);
        assert_eq!(sent(&mut jar, "/", NOW), "a=5; c=3", "a new value keeps its place");
        set(&mut jar, "a=; Path=/; Max-Age=0", "/", NOW);
        assert_eq!(sent(&mut jar, "/x", NOW), "b=2; a=4; c=3");
    }

    #[test]
    fn cookies_end_in_time_and_only_lasting_ones_are_kept() {
        let mut jar = Jar::default();
        assert!(!set(&mut jar, "session=1", "/", NOW));
        assert!(set(&mut jar, "short=1; Max-Age=10", "/", NOW));
        assert!(set(&mut jar, "long=1; Expires=Fri, 31 Dec 2100 23:59:59 GMT", "/", NOW));
        assert_eq!(sent(&mut jar, "/", NOW + 9), "session=1; short=1; long=1");
        let mut restored = Jar::restore(jar.persistent(NOW), NOW).unwrap();
        assert_eq!(sent(&mut restored, "/", NOW), "short=1; long=1");
        let mut later = Jar::restore(jar.persistent(NOW), NOW + 10).unwrap();
        assert_eq!(sent(&mut later, "/", NOW + 10), "long=1");
        assert_eq!(sent(&mut jar, "/", NOW + 10), "session=1; long=1");
        assert!(set(&mut jar, "long=; Max-Age=0", "/", NOW), "to forget one is a change");
        assert!(!set(&mut jar, "session=2", "/", NOW));
        assert!(jar.persistent(NOW).is_empty());
    }

    #[test]
    fn a_jar_has_bounds() {
        let mut jar = Jar::default();
        set(&mut jar, "kept=1", "/", NOW);
        for n in 0..2 * MAX_COOKIES {
            set(&mut jar, &format!("c{n}=1; Path=/other"), "/", NOW);
            assert_eq!(sent(&mut jar, "/", NOW), "kept=1", "{n}: what is used stays");
        }
        assert_eq!(jar.cookies.len(), MAX_COOKIES);
        let fits = format!("big={}", "x".repeat(MAX_COOKIE - 3));
        set(&mut jar, &format!("{fits}x"), "/", NOW);
        assert!(!sent(&mut jar, "/", NOW).contains("big"), "too large a cookie is none");
        for n in 0..100 {
            set(&mut jar, &format!("{fits}; Path=/{n}"), "/", NOW);
        }
        let bytes: usize = jar.cookies.iter().map(|stored| stored.cookie.len()).sum();
        assert!(bytes <= MAX_BYTES && bytes > MAX_BYTES / 2, "{bytes}");
        let long = format!("p=1; Path=/{}", "p".repeat(MAX_PATH));
        set(&mut jar, &long, "/here/x", NOW);
        assert!(sent(&mut jar, "/here/y", NOW).contains("p=1"), "a path that is too long is none");
        assert!(Jar::restore(jar.persistent(NOW), NOW).is_some());
    }

    #[test]
    fn what_no_jar_has_written_is_not_restored() {
        let kept = |name: &str, value: &str, path: &str| {
            vec![Kept { name: name.into(), value: value.into(), path: path.into(), expires: Some(NOW + 1) }]
        };
        assert!(Jar::restore(kept("a", "1", "/"), NOW).is_some());
        for wrong in [
            kept("", "1", "/"),
            kept("a", "1\r\nx: y", "/"),
            kept("a", "1", "x"),
            kept("a", &"x".repeat(MAX_COOKIE), "/"),
            kept("a", "1", "/").into_iter().cycle().take(MAX_COOKIES + 1).collect(),
        ] {
            assert!(Jar::restore(wrong, NOW).is_none());
        }
    }
}
