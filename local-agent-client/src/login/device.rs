//! Signing in by the device authorization grant (RFC 8628): the agent shows a link and a code, a person who is
//! signed in at the relay approves it there, and nobody copies a token by hand.

use super::{CLIENT_ID, Grant, LoginError, http};
use crate::dial::{Route, refusal::printable};
use ::http::StatusCode;
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// The relay's path for a device code.
const CODE_PATH: &str = "/v1/auth/device/code";
/// What the grant is called (RFC 8628 section 3.4).
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// Between questions unless the relay says otherwise (RFC 8628 section 3.2).
const INTERVAL: Duration = Duration::from_secs(5);
/// The shortest and the longest pause between questions, whatever the relay says.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// What `slow_down` adds (RFC 8628 section 3.5).
const SLOWER: Duration = Duration::from_secs(5);
/// The longest that a person is waited for, whatever the relay says.
const LONGEST: Duration = Duration::from_secs(1800);
/// Characters of a user code; the relay's own have 9.
const MAX_USER_CODE: usize = 32;

/// The answer of RFC 8628 section 3.2.
#[derive(Deserialize)]
struct Answer {
    device_code: Zeroized,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

/// A secret in an answer.
#[derive(Deserialize)]
#[serde(from = "String")]
struct Zeroized(Zeroizing<String>);

impl From<String> for Zeroized {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

/// A sign-in that waits for a person.
pub struct Device {
    /// Where the person enters the code.
    pub verification_uri: String,
    /// The same with the code in it.
    pub verification_uri_complete: Option<String>,
    /// The code, as the person reads it.
    pub user_code: String,
    /// How long the person has.
    pub expires_in: Duration,
    device_code: Zeroizing<String>,
    interval: Duration,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("verification_uri", &self.verification_uri).finish_non_exhaustive()
    }
}

impl Device {
    /// Asks the relay for a code under which `name` wants to sign in.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn begin(route: &Route<'_>, name: &str) -> Result<Self, LoginError> {
        let answer = http::post(route, CODE_PATH, None, &[("client_id", CLIENT_ID), ("name", name)]).await?;
        match answer.status {
            StatusCode::OK => read(&answer.body),
            StatusCode::NOT_FOUND => Err(LoginError::NoSignIn),
            _ => Err(LoginError::Refused(answer.describe())),
        }
    }

    /// Asks until the person has decided. `pause` waits.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn wait(
        &self,
        route: &Route<'_>,
        mut pause: impl AsyncFnMut(Duration),
    ) -> Result<Grant, LoginError> {
        let (begun, mut waited, mut interval) = (Instant::now(), Duration::ZERO, self.interval);
        loop {
            pause(interval).await;
            waited += interval;
            if waited.max(begun.elapsed()) > self.expires_in {
                return Err(LoginError::Expired);
            }
            let form =
                [("grant_type", GRANT_TYPE), ("device_code", &self.device_code), ("client_id", CLIENT_ID)];
            let answer = match http::post(route, super::TOKEN_PATH, None, &form).await {
                Ok(answer) => answer,
                // RFC 8628 section 3.5: back off and ask again.
                Err(LoginError::Unreachable(reason)) => {
                    tracing::debug!(reason, "the relay was not reached; asking again");
                    interval = (interval * 2).min(PAUSES.1);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if answer.status == StatusCode::OK {
                return Grant::read(&answer.body);
            }
            match (answer.status.as_u16(), answer.error().as_deref()) {
                (400, Some("authorization_pending")) => {}
                (_, Some("slow_down")) => interval = (interval + SLOWER).min(PAUSES.1),
                (400, Some("access_denied")) => return Err(LoginError::Denied),
                (400, Some("expired_token")) => return Err(LoginError::Expired),
                (429 | 500..=599, _) => {
                    let asked = answer.retry_after().unwrap_or(interval * 2);
                    interval = interval.max(asked).min(PAUSES.1);
                }
                _ => return Err(LoginError::Refused(answer.describe())),
            }
        }
    }
}

/// Reads what the relay says, which a person will see and follow.
fn read(body: &[u8]) -> Result<Device, LoginError> {
    const MALFORMED: LoginError = LoginError::NotARelay("its answer is not that of RFC 8628");
    let answer: Answer = serde_json::from_slice(body).map_err(|_| MALFORMED)?;
    let is_link = |text: &String| {
        url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let user_code = printable(&answer.user_code);
    if !is_link(&answer.verification_uri)
        || !answer.verification_uri_complete.as_ref().is_none_or(is_link)
        || user_code.is_empty()
        || user_code.len() > MAX_USER_CODE
        || answer.device_code.0.is_empty()
    {
        return Err(MALFORMED);
    }
    Ok(Device {
        verification_uri: answer.verification_uri,
        verification_uri_complete: answer.verification_uri_complete,
        user_code,
        expires_in: Duration::from_secs(answer.expires_in).min(LONGEST),
        device_code: answer.device_code.0,
        interval: answer.interval.map_or(INTERVAL, Duration::from_secs).clamp(PAUSES.0, PAUSES.1),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn answer(changes: &[(&str, serde_json::Value)]) -> Result<Device, LoginError> {
        let mut answer = serde_json::json!({
            "device_code": "d", "user_code": "BCDF-GHJK", "verification_uri": "https://relay.example/device",
            "verification_uri_complete": "https://relay.example/device?user_code=BCDF-GHJK",
            "expires_in": 600, "interval": 5,
        });
        for (name, value) in changes {
            answer[*name] = value.clone();
        }
        read(answer.to_string().as_bytes())
    }

    #[test]
    fn answers_are_read_with_care() {
        let good = answer(&[]).unwrap();
        assert_eq!((good.user_code.as_str(), good.interval), ("BCDF-GHJK", INTERVAL));
        assert!(!format!("{good:?}").contains("BCDF"));
        for (value, seconds) in
            [(0.into(), 1), (7.into(), 7), (9999.into(), 60), (serde_json::Value::Null, 5)]
        {
            assert_eq!(answer(&[("interval", value)]).unwrap().interval, Duration::from_secs(seconds));
        }
        assert_eq!(answer(&[("expires_in", 1_000_000.into())]).unwrap().expires_in, LONGEST);
        let clean = answer(&[("user_code", "AB\u{1b}[2J".into())]).unwrap();
        assert_eq!(clean.user_code, "AB [2J");
        for (name, value) in [
            ("verification_uri", "javascript:alert(1)"),
            ("verification_uri", "https://relay.example/\u{1b}[2J"),
            ("verification_uri_complete", "file:///etc/passwd"),
            ("user_code", ""),
            ("user_code", "a code that is far too long to be typed by anybody"),
            ("device_code", ""),
            ("expires_in", "soon"),
        ] {
            assert!(
                matches!(answer(&[(name, value.into())]), Err(LoginError::NotARelay(_))),
                "{name} {value}"
            );
        }
        assert!(read(b"<html>").is_err());
    }
}
