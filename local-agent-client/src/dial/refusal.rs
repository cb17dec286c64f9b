//! What an answer of the relay other than `101` means. Pure.
//!
//! A refusal is not a loss: it will be the same the next time, and a person has to do something.
//! So it is said plainly, and attempts are far apart.

use crate::backoff::Cause;
use http::{HeaderMap, StatusCode, header};
use relay_protocol::problem::{Code, Problem};
use std::{
    fmt,
    time::{Duration, SystemTime},
};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

/// Characters of a relay's text that are shown: it may be anything.
const MAX_DETAIL: usize = 300;

/// An answer other than `101`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    /// The problem's code, when the answer was a problem that this version knows.
    pub code: Option<Code>,
    /// What the relay says about it.
    pub detail: Option<String>,
    /// When it wants to be asked again.
    pub retry_after: Option<Duration>,
    /// Where it sends the agent instead; not followed, because the token would go along.
    pub location: Option<String>,
}

impl Refusal {
    /// Reads an answer; `body` is as much of it as was read.
    pub fn read(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let problem: Option<Problem> = serde_json::from_slice(body).ok();
        // A problem of a newer relay has a code that does not parse; its detail is still worth reading.
        let loose = || {
            serde_json::from_slice::<serde_json::Value>(body).ok()?.get("detail")?.as_str().map(str::to_owned)
        };
        let detail = problem
            .as_ref()
            .map(|problem| problem.detail.clone())
            .or_else(loose)
            .map(|detail| printable(&detail));
        Self {
            status,
            code: problem.map(|problem| problem.code),
            detail: detail.filter(|detail| !detail.is_empty()),
            retry_after: text(header::RETRY_AFTER).and_then(|value| retry_after(value, now)),
            location: text(header::LOCATION).filter(|_| status.is_redirection()).map(printable),
        }
    }

    /// What the back-off makes of it.
    pub fn cause(&self) -> Cause {
        match self.status.as_u16() {
            401 | 403 | 426 => Cause::Refused,
            429 | 503 => Cause::Busy { retry_after: self.retry_after },
            _ => Cause::Unreachable,
        }
    }

    /// Whether another token might change it.
    pub fn is_about_the_token(&self) -> bool {
        matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.status.as_u16(), self.code) {
            (401, _) => {
                "the relay refused the token (401): it is unknown, expired or revoked; give the agent a new one"
            }
            (403, _) => "the relay does not let this token use this host (403)",
            (426, Some(Code::UpgradeRequired)) => {
                "the WebSocket upgrade did not reach the relay (426): a proxy between here and there takes it out"
            }
            (426, _) => {
                "this agent and the relay are too far apart in version (426); upgrade the older one, most likely this agent"
            }
            (429, _) => "the relay asks for patience (429)",
            (503, _) => "the relay takes no connections at the moment (503)",
            (404, _) => "there is no relay under this URL (404): check the URL, its path included",
            _ => "the relay did not accept the connection",
        };
        f.write_str(what)?;
        if !matches!(self.status.as_u16(), 401 | 403 | 404 | 426 | 429 | 503) {
            write!(f, " ({})", self.status.as_u16())?;
        }
        if let Some(location) = &self.location {
            write!(
                f,
                "; it points to {location}, which is not followed: give the agent that URL if it is right"
            )?;
        }
        if let Some(detail) = &self.detail {
            write!(f, ". It says: {detail}")?;
        }
        Ok(())
    }
}

/// A text from outside, cut and without characters that would play with a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_DETAIL)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

/// RFC 9110 section 10.2.3: seconds, or a date.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = OffsetDateTime::parse(value.trim(), &Rfc2822).ok()?;
    Some((until - OffsetDateTime::from(now)).try_into().unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refusal(status: u16, headers: &[(&'static str, &str)], body: &str) -> Refusal {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Refusal::read(
            StatusCode::from_u16(status).unwrap(),
            &headers,
            body.as_bytes(),
            SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770),
        )
    }

    #[test]
    fn refusals_are_told_from_loss() {
        let busy = |seconds| Cause::Busy { retry_after: Some(Duration::from_secs(seconds)) };
        for (status, retry, cause, about_the_token) in [
            (401, "", Cause::Refused, true),
            (403, "", Cause::Refused, true),
            (426, "", Cause::Refused, false),
            (429, "7", busy(7), false),
            (503, "Sun, 06 Nov 1994 08:49:37 GMT", busy(7), false),
            (503, "Sun, 06 Nov 1994 08:00:00 GMT", busy(0), false),
            (503, "soon", Cause::Busy { retry_after: None }, false),
            (404, "", Cause::Unreachable, false),
            (500, "9", Cause::Unreachable, false),
            (502, "", Cause::Unreachable, false),
            (200, "", Cause::Unreachable, false),
        ] {
            let refusal = refusal(status, &[("retry-after", retry)], "");
            assert_eq!(refusal.cause(), cause, "{status} {retry}");
            assert_eq!(refusal.is_about_the_token(), about_the_token, "{status}");
        }
    }

    #[test]
    fn what_a_person_reads() {
        let outdated = refusal(
            426,
            &[],
            &Problem::new(Code::AgentOutdated, "Upgrade local-agent-client to 0.9.").to_json(),
        );
        assert_eq!(outdated.code, Some(Code::AgentOutdated));
        for (refusal, says) in [
            (
                outdated,
                "upgrade the older one, most likely this agent. It says: Upgrade local-agent-client to 0.9.",
            ),
            (
                refusal(426, &[], &Problem::new(Code::UpgradeRequired, "").to_json()),
                "a proxy between here and there takes it out",
            ),
            (refusal(401, &[], "<html>"), "refused the token (401)"),
            (
                refusal(403, &[], r#"{"code":"from_the_future","detail":"No \u001b[31mred"}"#),
                "(403). It says: No  [31mred",
            ),
            (
                refusal(301, &[("location", "https://other.example/")], ""),
                "(301); it points to https://other.example/",
            ),
        ] {
            assert!(refusal.to_string().contains(says), "{refusal}");
        }
        let long = refusal(401, &[], &format!(r#"{{"detail":"{}"}}"#, "x".repeat(10_000)));
        assert_eq!(long.detail.unwrap().len(), MAX_DETAIL);
    }
}
