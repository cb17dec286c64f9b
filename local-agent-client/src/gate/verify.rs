//! The checks of a signed request, in the order of PROTOCOL.md section 4.2.
//!
//! Whoever sends may be anybody. Until the signature is right nothing is remembered of the request, and
//! one verification is all the work that it can cause.

use super::{Gate, clients::Refused, sessions::InUse};
use crate::{
    refusal::Refusal,
    trust::{Browser, Require},
};
use relay_protocol::{
    problem::Code,
    signature::{
        SignatureError,
        request::{Parts, Signed, Verified},
    },
};
use std::sync::Arc;

/// Whose request it is.
#[derive(Debug)]
pub struct Caller {
    /// The session; none on `/_relay/session`.
    pub session: Option<InUse>,
    /// The browser.
    pub browser: Arc<Browser>,
}

impl Caller {
    /// Whether the session has ended, or the browser was revoked, since the request was verified.
    pub fn has_ended(&self) -> bool {
        let session = self.session.as_ref().is_some_and(|session| session.session().ended.is_cancelled());
        session || self.browser.revoked().is_cancelled()
    }
}

/// Whose key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyed {
    /// A session's: everything but the request for one.
    BySession,
    /// A paired browser's own: `/_relay/session`.
    ByBrowser,
}

impl Gate {
    /// Verifies a request whose signature was read.
    ///
    /// # Errors
    /// The first check that fails.
    pub(super) fn verify<'a>(
        &self,
        signed: &'a Signed,
        parts: &Parts<'_>,
        keyed: Keyed,
        now: i64,
    ) -> Result<(Caller, Verified<'a>), Refusal> {
        if self.require == Require::Sealed && keyed == Keyed::BySession {
            return Err(super::sealed_required());
        }
        let refused = |error| refusal(error, now);
        let covered = signed.cover(parts).map_err(refused)?;
        let id = uuid::Uuid::try_parse(covered.key_id()).ok();
        let (session, browser) = match keyed {
            Keyed::BySession => {
                // A sealed session takes nothing but exchanges.
                let session =
                    id.and_then(|id| self.sessions.find(id, now)).filter(|session| !session.is_sealed());
                let browser =
                    session.as_ref().and_then(|session| self.pairing.browsers().get(session.browser));
                let (Some(session), Some(browser)) = (session, browser) else {
                    return Err(Refusal::new(
                        Code::SigningSessionExpired,
                        "The signing session is unknown, expired or ended. Open a new one.",
                    ));
                };
                (Some(session), browser)
            }
            Keyed::ByBrowser => {
                let Some(browser) = id.and_then(|id| self.pairing.browsers().get(id)) else {
                    return Err(Refusal::new(
                        Code::NotPaired,
                        "This host does not know the browser, or not any more. Pair it anew.",
                    ));
                };
                (None, browser)
            }
        };
        // A session keeps the key that it was opened with.
        let key = session.as_ref().map_or(&browser.ed25519, |session| &session.key);
        let verified = covered.verify(parts, key).map_err(refused)?;
        verified.check_time(now).map_err(refused)?;
        let (nonce, created) = (verified.nonce(), verified.created());
        match &session {
            Some(session) => session.nonces.lock().remember(nonce, created, now).map_err(refused)?,
            None => self
                .clients
                .remember(browser.id, nonce, created, now)
                .map_err(|error| not_opened(error, now))?,
        }
        self.pairing.browsers().touch(browser.id, now);
        self.forwarder.stats().gate.signed();
        let session = session.map(|session| session.begin(now));
        Ok((Caller { session, browser }, verified))
    }
}

/// How it is told that a session is not opened.
fn not_opened(refused: Refused, now: i64) -> Refusal {
    match refused {
        Refused::Replayed => refusal(SignatureError::Replayed, now),
        Refused::TooMany(seconds) => Refusal::new(
            Code::RateLimited,
            format!("This browser asks for sessions too often. It may have another one in {seconds} s."),
        )
        .retry_after(seconds),
    }
}

/// How a failed check is told.
pub(super) fn refusal(error: SignatureError, now: i64) -> Refusal {
    let detail = match error {
        SignatureError::Malformed(what) => format!("The signature cannot be used: {what}."),
        SignatureError::Uncovered(what) => format!("The signature has to cover {what}."),
        SignatureError::Invalid => {
            "The signature does not fit the request: it was changed on its way, or signed with another key."
                .to_owned()
        }
        SignatureError::ClockSkew => {
            "The request was signed too long ago or ahead of this host's clock. Use its time and send it again."
                .to_owned()
        }
        SignatureError::Replayed => "This very request has come before. It is not done twice.".to_owned(),
        SignatureError::TooManyNonces => {
            "Too many requests came within two minutes. Wait a minute, or open another session.".to_owned()
        }
    };
    let mut refusal = Refusal::new(error.code(), detail);
    if error == SignatureError::ClockSkew {
        refusal.problem.agent_time = Some(now);
    }
    refusal
}
