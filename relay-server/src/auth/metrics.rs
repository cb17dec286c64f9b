//! What is counted of tokens and browser sessions.

use ::metrics::Counter;

use super::token::TokenError;
use crate::telemetry::metrics::Metric;

const TOKENS: Metric = Metric::counter(
    "relay_auth_tokens_total",
    "result=ok|missing|too_long|malformed|algorithm|signature|audience|expired|not_yet|revoked|store",
    "Bearer tokens and cookies of the relay's own making that callers showed, and what became of them",
);
const LOOK_UPS: Metric = Metric::counter(
    "relay_auth_session_look_ups_total",
    "result=found|unknown|failed",
    "Browser sessions that were not in memory and were asked of the database",
);
const RENEWALS: Metric = Metric::counter(
    "relay_auth_session_renewals_total",
    "result=ok|failed",
    "Rounds in which the browser sessions in use were asked for anew",
);

const FETCHES: Metric = Metric::counter(
    "relay_auth_provider_fetches_total",
    "what=keys|discovery|code result=ok|failed",
    "Key sets, discovery documents and tokens for codes that were fetched",
);
const PROVIDER_TOKENS: Metric = Metric::counter(
    "relay_auth_provider_tokens_total",
    "result=ok|refused|unavailable",
    "Bearer tokens of the OpenID Connect provider; unavailable: its keys, or the database, could not be had",
);
const SIGN_INS: Metric = Metric::counter(
    "relay_auth_sign_ins_total",
    "by=password|link|provider result=ok|failed",
    "People who signed in with a browser, and attempts that failed",
);

/// What is counted here.
pub const METRICS: &[Metric] = &[TOKENS, LOOK_UPS, RENEWALS, FETCHES, PROVIDER_TOKENS, SIGN_INS];

/// The counters of one kind of fetch.
pub struct Fetches {
    ok: Counter,
    failed: Counter,
}

impl Fetches {
    /// For this `what`.
    pub fn new(what: &'static str) -> Self {
        let of = |result: &'static str| ::metrics::counter!(FETCHES.name, "what" => what, "result" => result);
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
        let of = |result: &'static str| ::metrics::counter!(SIGN_INS.name, "by" => by, "result" => result);
        Self { ok: of("ok"), failed: of("failed") }
    }

    /// Counts one.
    pub fn count(&self, ok: bool) {
        if ok { &self.ok } else { &self.failed }.increment(1);
    }
}

/// The handles of the provider's tokens.
pub struct ProviderTokens {
    /// Good ones.
    pub ok: Counter,
    /// Bad ones.
    pub refused: Counter,
    /// Those that could not be judged.
    pub unavailable: Counter,
}

impl ProviderTokens {
    /// Made with what checks them.
    pub fn new() -> Self {
        let of = |result| PROVIDER_TOKENS.count_of("result", result);
        Self { ok: of("ok"), refused: of("refused"), unavailable: of("unavailable") }
    }
}

impl Default for ProviderTokens {
    fn default() -> Self {
        Self::new()
    }
}

/// The handles of tokens that are ours.
#[derive(Clone)]
pub struct Tokens {
    /// A good one.
    pub ok: Counter,
    /// None came.
    pub missing: Counter,
    /// Its auth session has ended.
    pub revoked: Counter,
    /// The database did not answer.
    pub store: Counter,
    refused: [(&'static str, Counter); 7],
}

impl Tokens {
    /// Made with what checks tokens.
    pub fn new() -> Self {
        let of = |result| TOKENS.count_of("result", result);
        Self {
            ok: of("ok"),
            missing: of("missing"),
            revoked: of("revoked"),
            store: of("store"),
            refused: ["too_long", "malformed", "algorithm", "signature", "audience", "expired", "not_yet"]
                .map(|result| (result, of(result))),
        }
    }

    /// A token was no good.
    pub fn refused(&self, why: &TokenError) {
        let result = match why {
            TokenError::TooLong => "too_long",
            TokenError::Malformed => "malformed",
            TokenError::Algorithm => "algorithm",
            TokenError::Signature => "signature",
            TokenError::Audience => "audience",
            TokenError::Expired => "expired",
            TokenError::NotYet => "not_yet",
            // Nobody is refused for what happens when a token is made.
            TokenError::Signing => return,
        };
        if let Some((_, counter)) = self.refused.iter().find(|(name, _)| *name == result) {
            counter.increment(1);
        }
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self::new()
    }
}

/// The handles of browser sessions.
pub(super) struct Sessions {
    pub(super) found: Counter,
    pub(super) unknown: Counter,
    pub(super) failed: Counter,
    pub(super) renewed: Counter,
    pub(super) not_renewed: Counter,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self {
            found: LOOK_UPS.count_of("result", "found"),
            unknown: LOOK_UPS.count_of("result", "unknown"),
            failed: LOOK_UPS.count_of("result", "failed"),
            renewed: RENEWALS.count_of("result", "ok"),
            not_renewed: RENEWALS.count_of("result", "failed"),
        }
    }
}
