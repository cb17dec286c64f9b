//! What the control server and its callers say to each other, in JSON. Times are Unix seconds. What holds a code or
//! a key does not print.

use crate::{
    status::Status,
    trust::{Browser, FailedGuesses, Outcome, Pairing},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A paired browser.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowserView {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Such as `Firefox`.
    pub browser: String,
    /// Such as `Linux`.
    pub os: String,
    /// Such as `phone`.
    pub device: String,
    /// What both ends show.
    pub fingerprint: String,
    /// When it was paired.
    pub created_at: i64,
    /// When it was used last.
    pub last_used_at: i64,
}

impl BrowserView {
    /// What is shown of a browser.
    pub fn new(pairing: &Pairing, browser: &Browser) -> Self {
        Self {
            id: browser.id,
            name: browser.name.clone(),
            browser: browser.browser.clone(),
            os: browser.os.clone(),
            device: browser.device.clone(),
            fingerprint: pairing.fingerprint(browser).to_string(),
            created_at: browser.created_at,
            last_used_at: browser.last_used_at(),
        }
    }

    /// All of them.
    pub fn list(pairing: &Pairing) -> Vec<Self> {
        pairing.browsers().list().iter().map(|browser| Self::new(pairing, browser)).collect()
    }
}

/// `GET /api/browsers`.
#[derive(Debug, Serialize, Deserialize)]
pub struct BrowserList {
    /// The longest paired first.
    pub browsers: Vec<BrowserView>,
}

/// `PATCH /api/browsers/{id}`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// The new name.
    pub name: String,
}

/// The outstanding code, without the code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeView {
    /// Its number.
    pub number: u64,
    /// When it ends.
    pub expires_at: i64,
}

/// How a code ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndView {
    /// Its number.
    pub number: u64,
    /// How.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// `GET /api/state` and each event of `GET /api/events`.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The agent's time.
    pub now: i64,
    /// How it is.
    pub status: Status,
    /// The outstanding code.
    pub code: Option<CodeView>,
    /// How the last codes ended, oldest first.
    pub ended: Vec<EndView>,
    /// Wrong codes.
    pub failed_guesses: FailedGuesses,
    /// The paired browsers.
    pub browsers: Vec<BrowserView>,
}

/// `POST /api/pair`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRequest {
    /// Seconds that the code lives, 1 to 300; 300 unless given.
    #[serde(default)]
    pub life: Option<i64>,
}

/// `POST /api/code`, and the first line of `POST /api/pair`.
#[derive(Serialize, Deserialize)]
pub struct NewCode {
    /// Its number.
    pub number: u64,
    /// The six digits.
    pub code: String,
    /// When it ends.
    pub expires_at: i64,
    /// The link to open on the other device. Never holds the code.
    pub link: String,
    /// The link's QR code as rows of `0` and `1`.
    pub qr: Vec<String>,
}

/// `POST /api/page`.
#[derive(Serialize, Deserialize)]
pub struct PageLink {
    /// Opens the page once.
    pub url: String,
    /// Until when.
    pub expires_at: i64,
}

/// `POST /session`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenSession {
    /// The one-time key.
    pub key: String,
}

/// The answer to `POST /session`.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenedSession {
    /// Where the page lives from now on.
    pub path: String,
}
