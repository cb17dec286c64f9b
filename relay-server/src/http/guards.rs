//! What one address may do, as refusals.

use std::net::IpAddr;

use relay_protocol::problem::Code;

use super::client_addr::RateKey;
use super::problem::Refusal;
use crate::config::Limits;
use crate::limits::{AddrGuard, Open, Rate};

/// Upgrades and look-ups of every address.
pub struct Guards {
    upgrades: Rate,
    open: Open,
    look_ups: Rate,
}

impl Guards {
    /// With these limits.
    pub fn new(limits: &Limits) -> Self {
        Self {
            upgrades: Rate::per_minute(limits.upgrade_rate_per_minute),
            open: Open::new(limits.max_connections_per_ip),
            look_ups: Rate::per_minute(limits.api_rate_per_minute),
        }
    }

    /// One more try to upgrade a connection, whether or not it succeeds.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn try_upgrade(&self, addr: IpAddr) -> Result<(), Refusal> {
        if self.upgrades.check(RateKey::of(addr)) {
            return Ok(());
        }
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
        Err(Refusal::new(
            Code::RateLimited,
            "Too many unknown sessions were asked for from this address. Wait a little.",
        ))
    }
}
