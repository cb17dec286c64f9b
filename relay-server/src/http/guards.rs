//! What one address may do, as refusals.

use std::net::IpAddr;

use ::metrics::Counter;
use relay_protocol::problem::Code;

use super::client_addr::RateKey;
use super::problem::Refusal;
use crate::config::Limits;
use crate::limits::metrics::refused;
use crate::limits::{AddrGuard, Open, Rate};

/// Upgrades and look-ups of every address.
pub struct Guards {
    upgrades: Rate,
    ws_attempts: Rate,
    bad_tokens: Rate,
    open: Open,
    look_ups: Rate,
    refused: Refused,
}

/// How often each said no.
struct Refused {
    upgrades: Counter,
    ws_attempts: Counter,
    bad_tokens: Counter,
    open: Counter,
    look_ups: Counter,
}

impl Guards {
    /// With these limits.
    pub fn new(limits: &Limits) -> Self {
        Self {
            upgrades: Rate::per_minute(limits.upgrade_rate_per_minute),
            ws_attempts: Rate::per_minute(limits.upgrade_rate_per_minute),
            bad_tokens: Rate::per_minute(limits.upgrade_rate_per_minute),
            open: Open::new(limits.max_connections_per_ip),
            look_ups: Rate::per_minute(limits.api_rate_per_minute),
            refused: Refused {
                upgrades: refused("upgrade_rate"),
                ws_attempts: refused("ws_attempt_rate"),
                bad_tokens: refused("bad_token_rate"),
                open: refused("connections_per_ip"),
                look_ups: refused("look_up_rate"),
            },
        }
    }

    /// Somebody without a good token wanted a tunnel. Counted apart, because behind a proxy a stranger may
    /// have the owner's address and must not use up what the owner needs.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn bad_token(&self, addr: IpAddr) -> Result<(), Refusal> {
        if self.bad_tokens.check(RateKey::of(addr)) {
            return Ok(());
        }
        self.refused.bad_tokens.increment(1);
        Err(Refusal::new(
            Code::RateLimited,
            "Too many bad tokens came from this address within a minute. Wait a little.",
        ))
    }

    /// Somebody has shown a token at `/ws` that is not judged yet, which costs whoever judges it. Counted apart:
    /// any web page can make its visitor's browser try, and must not use up what that person's tunnels need.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn ws_attempt(&self, addr: IpAddr) -> Result<(), Refusal> {
        if self.ws_attempts.check(RateKey::of(addr)) {
            return Ok(());
        }
        self.refused.ws_attempts.increment(1);
        Err(Refusal::new(
            Code::RateLimited,
            "Too many sockets were asked for from this address within a minute. Wait a little.",
        ))
    }

    /// One more upgrade by somebody who may ask for it, whether or not it succeeds.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn try_upgrade(&self, addr: IpAddr) -> Result<(), Refusal> {
        if self.upgrades.check(RateKey::of(addr)) {
            return Ok(());
        }
        self.refused.upgrades.increment(1);
        Err(Refusal::new(
            Code::RateLimited,
            "Too many connections were opened from this address within a minute. Wait a little.",
        ))
    }

    /// Counts an upgraded connection until the guard is dropped.
    ///
    /// # Errors
    /// `too_many_connections`.
    pub fn open(&self, addr: IpAddr) -> Result<AddrGuard, Refusal> {
        self.open.enter(RateKey::of(addr)).ok_or_else(|| {
            self.refused.open.increment(1);
            Refusal::new(
                Code::TooManyConnections,
                "This address has as many tunnels and WebSockets open as it may. Close one.",
            )
        })
    }

    /// A browser session that is not in memory is to be looked up.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn look_up(&self, addr: IpAddr) -> Result<(), Refusal> {
        if self.look_ups.check(RateKey::of(addr)) {
            return Ok(());
        }
        self.refused.look_ups.increment(1);
        Err(Refusal::new(
            Code::RateLimited,
            "Too many unknown sessions were asked for from this address. Wait a little.",
        ))
    }
}
