//! What is counted of tokens, keys and sign-ins.

use ::metrics::Counter;

use crate::telemetry::metrics::{Kind, Metric};

const TOKENS: &str = "relay_auth_tokens_total";
const FETCHES: &str = "relay_auth_provider_fetches_total";
const SIGN_INS: &str = "relay_auth_sign_ins_total";

/// This component's metrics.
pub const METRICS: &[Metric] = &[
    Metric {
        name: TOKENS,
        kind: Kind::Counter,
        labels: "kind=own|provider, result=ok|refused|unavailable",
        help: "Tokens of callers: good, refused, or not to be judged because keys or database were away",
    },
    Metric {
        name: FETCHES,
        kind: Kind::Counter,
        labels: "what=keys|discovery|code, result=ok|failed",
        help: "Key sets, discovery documents and tokens for codes that were fetched",
    },
    Metric {
        name: SIGN_INS,
        kind: Kind::Counter,
        labels: "by=password|link|provider, result=ok|failed",
        help: "People who signed in with a browser, and attempts that failed",
    },
];

/// Whose a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// Signed with our secret, or said to be.
    Own,
    /// The provider's.
    Provider,
}

/// What became of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// Good.
    Ok,
    /// Refused.
    Refused,
    /// Could not be found out.
    Unavailable,
}

/// The counters of tokens.
pub struct Tokens {
    own: [Counter; 3],
    provider: [Counter; 3],
}

impl Default for Tokens {
    fn default() -> Self {
        let of = |kind: &'static str| {
            ["ok", "refused", "unavailable"]
                .map(|result| ::metrics::counter!(TOKENS, "kind" => kind, "result" => result))
        };
        Self { own: of("own"), provider: of("provider") }
    }
}

impl Tokens {
    /// Counts one.
    pub fn count(&self, maker: Maker, judged: Judged) {
        let [ok, refused, unavailable] = match maker {
            Maker::Own => &self.own,
            Maker::Provider => &self.provider,
        };
        match judged {
            Judged::Ok => ok,
            Judged::Refused => refused,
            Judged::Unavailable => unavailable,
        }
        .increment(1);
    }
}

/// The counters of one kind of fetch.
pub struct Fetches {
    ok: Counter,
    failed: Counter,
}

impl Fetches {
    /// For this `what`.
    pub fn new(what: &'static str) -> Self {
        let of = |result: &'static str| ::metrics::counter!(FETCHES, "what" => what, "result" => result);
        Self { ok: of("ok"), failed: of("failed") }
    }

    /// Counts one.
    pub fn count(&self, ok: bool) {
        if ok { &self.ok } else { &self.failed }.increment(1);
    }
}

/// The counters of one way to sign in.
pub struct SignIns {
    ok: Counter,
    failed: Counter,
}

impl SignIns {
    /// For this `by`.
    pub fn new(by: &'static str) -> Self {
        let of = |result: &'static str| ::metrics::counter!(SIGN_INS, "by" => by, "result" => result);
        Self { ok: of("ok"), failed: of("failed") }
    }

    /// Counts one.
    pub fn count(&self, ok: bool) {
        if ok { &self.ok } else { &self.failed }.increment(1);
    }
}
