//! What a browser keeps between leaving for the provider and coming back.
//!
//! A code that comes back counts only in the browser that asked for it: whoever could make somebody else's browser
//! use a code of their own would have them work in a foreign account. So the state, the nonce and the PKCE verifier
//! stay in a cookie of that browser, sealed with a key of the relay's, for as long as a person takes to sign in.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{self, HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroizing;

use crate::auth::credential;
use crate::auth::token::Secret;
use crate::http::client_addr::Scheme;

/// How long a person may take at the provider, in seconds: second factors, forgotten passwords.
pub const LIFE: u64 = 15 * 60;
/// What tells this use of the relay's secret from others.
const USE: &[u8] = b"sidecar-relay oidc sign-in v1";
const NONCE: usize = 12;
/// A longer cookie is none of ours.
const MAX_COOKIE: usize = 2048;

/// What is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Comes back in the address.
    pub state: String,
    /// Comes back in the ID token.
    pub nonce: String,
    /// Proves to the provider that it is us who asked.
    pub verifier: String,
    /// The address that people come back to.
    pub redirect: String,
    /// When it is void, in Unix seconds.
    pub expires_at: i64,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept(***)")
    }
}

/// Seals what browsers keep.
pub struct Sealer(RandomizedNonceKey);

/// The system's cryptography refused, which it does not do with keys of the right length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealing failed")]
pub struct SealError;

impl Sealer {
    /// With a key of its own that comes from the relay's secret, so that every relay with that secret opens it.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn new(secret: &Secret) -> Result<Self, SealError> {
        let mut key = Zeroizing::new([0; 32]);
        let derived = Salt::new(HKDF_SHA256, &[]).extract(secret.bytes());
        let okm = derived.expand(&[USE], HKDF_SHA256).map_err(|_| SealError)?;
        okm.fill(key.as_mut()).map_err(|_| SealError)?;
        RandomizedNonceKey::new(&AES_256_GCM, key.as_ref()).map(Self).map_err(|_| SealError)
    }

    /// As it goes into the cookie.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal(&self, kept: &Kept) -> Result<String, SealError> {
        let mut text = serde_json::to_vec(kept).map_err(|_| SealError)?;
        let nonce = self.0.seal_in_place_append_tag(Aad::from(USE), &mut text).map_err(|_| SealError)?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut text);
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What this cookie holds, if it is ours and not too old.
    pub fn open(&self, cookie: &str, now: i64) -> Option<Kept> {
        if cookie.len() > MAX_COOKIE {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(cookie).ok()?;
        let (nonce, text) = sealed.split_at_checked(NONCE)?;
        let mut text = Zeroizing::new(text.to_vec());
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.0.open_in_place(nonce, Aad::from(USE), &mut text).ok()?;
        let kept: Kept = serde_json::from_slice(opened).ok()?;
        (kept.expires_at > now).then_some(kept)
    }
}

/// The cookie's name for who uses this scheme. The prefix makes browsers refuse one that came otherwise.
const fn cookie_name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Https => "__Host-relay_oidc",
        Scheme::Http => "relay_oidc",
    }
}

/// `Set-Cookie` for this; an empty one that has lived for 0 s takes the cookie away. It is sent along when the
/// provider sends the browser back, which is another site's doing, and with nothing else that other sites make it do.
pub fn set_cookie(scheme: Scheme, sealed: &str, seconds: u64) -> Option<HeaderValue> {
    let secure = if scheme == Scheme::Https { "; Secure" } else { "" };
    let name = cookie_name(scheme);
    let text = format!("{name}={sealed}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}");
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The cookie of a request. Two of one name are none.
pub fn cookie(headers: &HeaderMap, scheme: Scheme) -> Option<&str> {
    credential::cookie(headers, cookie_name(scheme))
}

/// Whether a browser says that another site's page made it ask. Old browsers do not say it, but may name the page;
/// `own_origin` tells whether that is the relay's own. Of who names nothing it cannot be known.
pub fn from_another_site(headers: &HeaderMap, own_origin: impl Fn(&HeaderValue) -> bool) -> bool {
    if !credential::from_own_page(headers, &own_origin) {
        return true;
    }
    match headers.get("sec-fetch-site") {
        Some(site) => site != "same-origin" && site != "none",
        None if headers.contains_key(header::REFERER) => {
            !referer(headers).is_some_and(|page| own_origin(&page))
        }
        None => false,
    }
}

/// The origin of the one page that `Referer` names.
fn referer(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut pages = headers.get_all(header::REFERER).iter();
    let (page, None) = (pages.next()?, pages.next()) else { return None };
    let origin = Url::parse(page.to_str().ok()?).ok()?.origin().ascii_serialization();
    HeaderValue::from_str(&origin).ok()
}

/// Whether a browser goes to a page of its own window, as opposed to a picture or a frame of another page. Browsers
/// that do not say it are old.
pub fn is_navigation(headers: &HeaderMap) -> bool {
    let is = |name: &str, wanted: &str| headers.get(name).is_none_or(|said| said == wanted);
    is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(&Secret::from_base64(&STANDARD.encode([byte; 32])).unwrap()).unwrap()
    }

    fn kept() -> Kept {
        Kept {
            state: "s".to_owned(),
            nonce: "n".to_owned(),
            verifier: "v".repeat(43),
            redirect: "https://relay.example/v1/auth/oidc/callback".to_owned(),
            expires_at: 100,
        }
    }

    #[test]
    fn what_is_kept_comes_back_whole_in_time_or_not_at_all() {
        let (ours, theirs) = (sealer(1), sealer(2));
        let cookie = ours.seal(&kept()).unwrap();
        assert_eq!(ours.open(&cookie, 99), Some(kept()));
        assert_eq!(ours.open(&cookie, 100), None, "too late");
        assert_eq!(theirs.open(&cookie, 99), None, "another relay's");
        assert_ne!(ours.seal(&kept()).unwrap(), cookie);
        assert!(!cookie.contains('v') || !cookie.contains(&"v".repeat(43)));
        for at in [0, 13, cookie.len() - 1] {
            let mut bytes = cookie.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(ours.open(&String::from_utf8(bytes).unwrap(), 99), None, "byte {at}");
        }
        for bad in ["", "AAAA", &cookie[..20], &"A".repeat(MAX_COOKIE + 1), &format!("{cookie}A")] {
            assert_eq!(ours.open(bad, 99), None, "{bad}");
        }
        assert_eq!(format!("{:?}", kept()), "Kept(***)");
    }

    #[test]
    fn the_cookie_is_as_strict_as_the_way_back_allows() {
        let set = |scheme| set_cookie(scheme, "X", 60).unwrap().to_str().unwrap().to_owned();
        assert_eq!(
            set(Scheme::Https),
            "__Host-relay_oidc=X; Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure"
        );
        assert_eq!(set(Scheme::Http), "relay_oidc=X; Path=/; HttpOnly; SameSite=Lax; Max-Age=60");
        assert!(set_cookie(Scheme::Http, "a\nb", 1).is_none());
        let headers =
            |line: &'static str| HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static(line))]);
        assert_eq!(cookie(&headers("a=b; relay_oidc=X"), Scheme::Http), Some("X"));
        assert_eq!(cookie(&headers("relay_oidc=X"), Scheme::Https), None);
        assert_eq!(cookie(&headers("relay_oidc=X; relay_oidc=Y"), Scheme::Http), None);
    }

    #[test]
    fn other_sites_do_not_begin_it() {
        let own = |origin: &HeaderValue| origin == "https://relay.example";
        for (name, value, other) in [
            ("sec-fetch-site", "same-origin", false),
            ("sec-fetch-site", "none", false),
            ("accept", "text/html", false),
            ("sec-fetch-site", "same-site", true),
            ("sec-fetch-site", "cross-site", true),
            ("origin", "https://evil.example", true),
            ("origin", "null", true),
            ("origin", "https://relay.example", false),
            ("referer", "https://relay.example/", false),
            ("referer", "https://relay.example/?a=b", false),
            ("referer", "https://relay.example:8443/", true),
            ("referer", "http://relay.example/", true),
            ("referer", "https://evil.example/https://relay.example/", true),
            ("referer", "https://relay.example@evil.example/", true),
            ("referer", "https://relay.example.evil.example/", true),
            ("referer", "about:blank", true),
            ("referer", "", true),
        ] {
            let headers = HeaderMap::from_iter([(
                header::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )]);
            assert_eq!(from_another_site(&headers, own), other, "{name}: {value}");
        }
        // Who says it is believed; a page alone that is named twice is none.
        let of = |lines: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            from_another_site(&headers, own)
        };
        let (ours, theirs) = (("referer", "https://relay.example/"), ("referer", "https://evil.example/"));
        assert!(!of(&[("sec-fetch-site", "same-origin"), ours]));
        assert!(!of(&[("sec-fetch-site", "none"), theirs]));
        assert!(of(&[("sec-fetch-site", "cross-site"), ours]));
        assert!(of(&[ours, theirs]) && of(&[ours, ours]));
        assert!(of(&[ours, ("origin", "https://evil.example")]));
        assert!(!of(&[]));
    }

    #[test]
    fn only_windows_navigate() {
        for (mode, dest, navigates) in [
            (None, None, true),
            (Some("navigate"), Some("document"), true),
            (Some("navigate"), None, true),
            (Some("navigate"), Some("iframe"), false),
            (Some("no-cors"), Some("image"), false),
            (Some("cors"), Some("empty"), false),
            (Some("no-cors"), None, false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [("sec-fetch-mode", mode), ("sec-fetch-dest", dest)] {
                value.map(|value| headers.insert(name, HeaderValue::from_static(value)));
            }
            assert_eq!(is_navigation(&headers), navigates, "{mode:?} {dest:?}");
        }
    }
}
