//! Pairing as a whole: what is answered below `/_relay/pairing`, and what the owner sees of it.
//!
//! `start` and `finish` come from strangers by way of the relay; `issue_code` and `withdraw` from this machine or by
//! a signed request. The one lock is held while a proof is verified (microseconds), never while a file is
//! written. The code itself is in no log, no view and no error.

use super::{
    Browser, Browsers, FailedGuesses, Issuer, Keys, NewBrowser, Outcome, TooManyCodes, TrustError,
    browsers::MAX_BROWSERS,
    codes::{Closed, Codes, LIFE},
    host::HostId,
};
use crate::{state::StateDir, status::now};
use parking_lot::Mutex;
use rand::{TryRngCore, rngs::OsRng};
use relay_protocol::{
    pairing::{
        self, AgentClaims, AgentInfo, AgentStart, Code, Fingerprint, FinishMessage, MAX_TEXT, Message, Proved,
    },
    problem,
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{sync::watch, time::MissedTickBehavior};
use uuid::Uuid;

/// The agent's name to its peers.
pub const AGENT_NAME: &str = "local-agent-client";
/// What the agent can do beyond version 1's least (PROTOCOL.md sections 3 and 7).
pub const FEATURES: &[&str] = &["records", "websocket", "exchange", "sealed"];
/// How often it is looked whether a code has expired.
const TICK: Duration = Duration::from_secs(1);
/// Times of last use are written so often, in [`TICK`]s.
const FLUSH_EVERY: u32 = 60;
/// Codes whose end is remembered: those of an hour, and some.
const REMEMBERED: usize = 16;

/// Why a step of pairing was refused.
#[derive(Debug, thiserror::Error)]
pub enum PairingError {
    /// No code is shown, or the exchange is not one of it.
    #[error("no pairing code is shown on the host; show one there and begin again")]
    NotOpen,
    /// The code expired within the last hour.
    #[error("the pairing code has expired; show a new one on the host and begin again")]
    Expired,
    /// The code was begun with too often.
    #[error("this code was tried too often; show a new one on the host")]
    Exhausted,
    /// The relay has not told yet which host this is.
    #[error("the relay has not told this host's id yet; wait until the agent is connected")]
    HostUnknown,
    /// The message is malformed, the proof wrong, or what it proves cannot be used.
    #[error(transparent)]
    Refused(#[from] pairing::PairingError),
    /// The browser that asks for a code was revoked.
    #[error("this browser was revoked; it can pair no other")]
    Revoked,
    /// The owner asked for too many codes.
    #[error(transparent)]
    TooManyCodes(#[from] TooManyCodes),
    /// The browser cannot be added.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl PairingError {
    /// The code of the problem that tells it.
    pub const fn code(&self) -> problem::Code {
        match self {
            Self::NotOpen | Self::HostUnknown => problem::Code::PairingNotOpen,
            Self::Expired => problem::Code::PairingExpired,
            Self::Revoked => problem::Code::NotPaired,
            Self::Exhausted | Self::TooManyCodes(_) => problem::Code::RateLimited,
            Self::Refused(error) => error.code(),
            Self::Trust(error) => error.code(),
        }
    }

    /// Seconds after which it may be worth trying again, where that is known: the value of `Retry-After`.
    pub fn retry_after(&self) -> Option<i64> {
        match self {
            Self::TooManyCodes(refused) => Some((refused.next_at - refused.now).max(1)),
            _ => None,
        }
    }
}

impl From<Closed> for PairingError {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::NotOpen => Self::NotOpen,
            Closed::Expired => Self::Expired,
            Closed::Exhausted => Self::Exhausted,
        }
    }
}

/// A code for the owner's eyes.
#[derive(Debug)]
pub struct Issued {
    /// Names the code in a [`View`].
    pub number: u64,
    /// The six digits.
    pub code: Code,
    /// When it ends, in Unix seconds.
    pub expires_at: i64,
}

/// What the owner may know at any time: everything but the code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The outstanding code's number, and when it ends in Unix seconds.
    pub outstanding: Option<(u64, i64)>,
    /// How the last codes ended, by their numbers, oldest first.
    pub ended: VecDeque<(u64, Outcome)>,
    /// Wrong proofs since the agent started.
    pub failed: FailedGuesses,
}

impl View {
    /// How the code of this number ended; `None` while it is out, or when it was long ago.
    pub fn outcome(&self, number: u64) -> Option<&Outcome> {
        self.ended.iter().rev().find(|(ended, _)| *ended == number).map(|(_, outcome)| outcome)
    }
}

/// Keys, browsers and codes of one agent.
#[derive(Debug)]
pub struct Pairing {
    keys: Keys,
    browsers: Browsers,
    host: HostId,
    /// What browsers call the host at first.
    name: String,
    codes: Mutex<Codes<Code, AgentStart>>,
    view: watch::Sender<View>,
}

impl Pairing {
    /// What the state folder holds; without one, new keys and no browsers, which end with the process.
    ///
    /// # Errors
    /// When a file is there and cannot be read or understood.
    pub fn open(relay: String, state: Option<Arc<StateDir>>) -> Result<Self, TrustError> {
        let (keys, browsers) = match &state {
            Some(state) => {
                let browsers = Browsers::open(state.clone())?;
                (Keys::open(state, browsers.count() > 0)?, browsers)
            }
            None => (Keys::generate(), Browsers::in_memory()),
        };
        Ok(Self {
            keys,
            browsers,
            host: HostId::open(relay, state),
            name: AGENT_NAME.to_owned(),
            codes: Mutex::default(),
            view: watch::channel(View::default()).0,
        })
    }

    /// Under this name of the host, cut to what claims take, where browsers list it.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.chars().take(MAX_TEXT).collect();
        self
    }

    /// The agent's keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The paired browsers.
    pub fn browsers(&self) -> &Browsers {
        &self.browsers
    }

    /// The id under which the relay knows this host.
    pub fn host(&self) -> &HostId {
        &self.host
    }

    /// What both ends show of a pairing.
    pub fn fingerprint(&self, browser: &Browser) -> Fingerprint {
        Fingerprint::new(&self.keys.signing.verifying_key(), &browser.ed25519)
    }

    /// What the agent says of itself; in claims with the host's name.
    pub fn agent_info() -> AgentInfo {
        AgentInfo {
            name: AGENT_NAME.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: FEATURES.iter().map(|feature| (*feature).to_owned()).collect(),
        }
    }

    /// What the owner may know, to read or to wait for its changes.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// Makes a code; the one before ends. Only for the owner, on this machine.
    ///
    /// # Errors
    /// When there were too many within the hour, there is no room for another browser, or the host is not known.
    pub fn issue_code(&self, now: i64) -> Result<Issued, PairingError> {
        self.issue_code_for(LIFE, now)
    }

    /// The same for a code that lives so many seconds, 1 to [`LIFE`].
    ///
    /// # Errors
    /// As [`Pairing::issue_code`].
    pub fn issue_code_for(&self, life: i64, now: i64) -> Result<Issued, PairingError> {
        self.issue(Issuer::Owner, life, now)
    }

    /// The same for a paired browser that asked; the code ends when it is revoked.
    ///
    /// # Errors
    /// As [`Pairing::issue_code`], and when it was revoked already.
    pub fn issue_code_by(&self, browser: &Browser, now: i64) -> Result<Issued, PairingError> {
        self.issue(Issuer::Browser(browser.revoked()), LIFE, now)
    }

    fn issue(&self, by: Issuer, life: i64, now: i64) -> Result<Issued, PairingError> {
        if by.is_revoked() {
            return Err(PairingError::Revoked);
        }
        if self.host.get().is_none() {
            return Err(PairingError::HostUnknown);
        }
        if self.browsers.count() >= MAX_BROWSERS {
            return Err(TrustError::Full.into());
        }
        let code = Code::generate(&mut OsRng.unwrap_err());
        let mut codes = self.codes.lock();
        self.expire(&mut codes, now);
        let before = codes.outstanding();
        let number = codes.issue_for(code.clone(), by, life, now)?;
        if let Some((replaced, _)) = before {
            self.ended(&codes, replaced, Outcome::Replaced);
        }
        self.publish(&codes);
        tracing::info!(number, "a pairing code is shown");
        let expires_at = codes.outstanding().map_or(now, |(_, expires_at)| expires_at);
        Ok(Issued { number, code, expires_at })
    }

    /// Ends the code of this number if it is still out; whether it was.
    pub fn withdraw(&self, number: u64) -> bool {
        let mut codes = self.codes.lock();
        let out = codes.outstanding().is_some_and(|(outstanding, _)| outstanding == number);
        if out {
            codes.end();
            self.ended(&codes, number, Outcome::Withdrawn);
        }
        out
    }

    /// Steps 1 and 2: answers a browser's message A by the exchange's id and message B.
    ///
    /// # Errors
    /// See [`PairingError`]; none of them is a guess.
    pub fn start(&self, message: &[u8], now: i64) -> Result<(Uuid, Message), PairingError> {
        let host_id = self.host.get().ok_or(PairingError::HostUnknown)?;
        let mut codes = self.codes.lock();
        self.expire(&mut codes, now);
        let (start, answer) = AgentStart::new(codes.code(now)?, host_id, message, &mut OsRng.unwrap_err())?;
        let pairing_id = Uuid::new_v4();
        codes.begin(pairing_id, start);
        Ok((pairing_id, answer))
    }

    /// Steps 4 and 5: verifies the browser's proof, stores the browser, then proves the agent's claims. A
    /// wrong proof burns the code, a right one uses it up.
    ///
    /// # Errors
    /// See [`PairingError`].
    pub fn finish(&self, message: &FinishMessage, now: i64) -> Result<FinishMessage, PairingError> {
        let (number, by, proved) = {
            let mut codes = self.codes.lock();
            self.expire(&mut codes, now);
            let by = codes.issuer().cloned().ok_or(PairingError::NotOpen);
            let start = codes.take(message.pairing_id, now)?;
            match start.finish(message) {
                Ok(proved) => (codes.end(), by?, proved),
                Err(error @ pairing::PairingError::WrongProof) => {
                    if let Some(number) = codes.burn(now) {
                        self.ended(&codes, number, Outcome::FailedGuess);
                    }
                    return Err(error.into());
                }
                Err(error) => {
                    if let Some(number) = codes.end() {
                        self.ended(&codes, number, Outcome::NotAdded { reason: error.to_string() });
                    }
                    return Err(error.into());
                }
            }
        };
        let added = self.add(&by, &proved, now);
        let outcome = match &added {
            Ok((browser, _)) => Outcome::Paired {
                id: browser.id,
                name: browser.name.clone(),
                fingerprint: self.fingerprint(browser).to_string(),
            },
            Err(TrustError::IssuerRevoked) => Outcome::IssuerRevoked,
            Err(error) => Outcome::NotAdded { reason: error.to_string() },
        };
        if let Some(number) = number {
            self.ended(&self.codes.lock(), number, outcome);
        }
        Ok(added?.1)
    }

    fn add(
        &self,
        by: &Issuer,
        proved: &Proved,
        now: i64,
    ) -> Result<(Arc<Browser>, FinishMessage), TrustError> {
        let claims = &proved.browser;
        let new = NewBrowser {
            client: claims.client.clone(),
            ed25519: claims.ed25519,
            x25519: claims.x25519,
            psk: proved.psk.clone(),
        };
        let browser = self.browsers.add_by(by, new, now)?;
        let answer = proved.answer(&AgentClaims {
            host_id: claims.host_id,
            agent: AgentInfo { name: self.name.clone(), ..Self::agent_info() },
            ed25519: self.keys.signing.verifying_key(),
            x25519: self.keys.dh.public_key(),
            client_id: browser.id,
        });
        Ok((browser, answer))
    }

    /// Lets codes end in time or with who asked for them, and writes times of last use, for as long as the agent runs.
    pub async fn keep(&self) {
        let (mut ticks, mut tick) = (0_u32, tokio::time::interval(TICK));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.browsers.changes();
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    ticks = (ticks + 1) % FLUSH_EVERY;
                    if ticks == 0 {
                        self.flush();
                    }
                }
                // It lasts as long as the list, which is ours.
                _ = changes.changed() => {}
            }
            self.expire(&mut self.codes.lock(), now());
        }
    }

    /// Writes what is not written yet.
    pub fn flush(&self) {
        if let Err(error) = self.browsers.flush() {
            tracing::warn!(%error, "when browsers were used last cannot be written");
        }
    }

    /// Ends the outstanding code when its time or its issuer's is over.
    fn expire(&self, codes: &mut Codes<Code, AgentStart>, now: i64) {
        if let Some(number) = codes.disown() {
            self.ended(codes, number, Outcome::IssuerRevoked);
        }
        if let Some(number) = codes.expire(now) {
            self.ended(codes, number, Outcome::Expired);
        }
    }

    /// Tells everybody how a code ended.
    fn ended(&self, codes: &Codes<Code, AgentStart>, number: u64, outcome: Outcome) {
        match &outcome {
            Outcome::Paired { name, fingerprint, .. } => {
                tracing::info!(number, name, fingerprint, "a browser was paired");
            }
            Outcome::FailedGuess => tracing::warn!(
                number,
                "a wrong pairing code was tried, and the code is void: a digit was mistyped, or somebody guessed"
            ),
            Outcome::NotAdded { reason } => tracing::warn!(number, reason, "a browser could not be paired"),
            Outcome::Expired | Outcome::Replaced | Outcome::Withdrawn | Outcome::IssuerRevoked => {
                tracing::info!(number, how = ?outcome, "a pairing code has ended");
            }
        }
        self.view.send_modify(|view| {
            view.ended.push_back((number, outcome));
            while view.ended.len() > REMEMBERED {
                view.ended.pop_front();
            }
            (view.outstanding, view.failed) = (codes.outstanding(), codes.guesses());
        });
    }

    fn publish(&self, codes: &Codes<Code, AgentStart>) {
        self.view.send_modify(|view| {
            (view.outstanding, view.failed) = (codes.outstanding(), codes.guesses());
        });
    }
}
