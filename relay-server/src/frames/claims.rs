//! From the claims of a token that is good to what its bearer may be here. Pure.
//!
//! The claims come from whoever vouches for the token; the query comes from its bearer. Where both say something
//! they have to agree. A claim of the wrong type refuses: it may have meant a restriction. Claims that nobody here
//! knows are ignored.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::admission::Asked;
use super::{Admitted, Profile, Role, Scope, role_name};
use crate::backplane::{Pair, is_id};
use crate::http::client_addr::RateKey;

/// How far the clock of whoever made a token may be from ours, in seconds; the same as for other tokens.
pub const LEEWAY: i64 = 60;
/// Channels that one token may name.
const MAX_CHANNELS: usize = 1024;
/// Characters of a channel's name, and of the ids that are only passed on.
const MAX_TEXT: usize = 256;

/// Why somebody with a good token is not admitted: the socket is opened, told, and closed with 4008.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A claim does not allow what is asked; the text goes into the close.
    #[error("{0}")]
    Claim(&'static str),
    /// It has to be said for which runtime target, and nobody did.
    #[error("a runtime target is required")]
    TargetRequired,
}

/// What these claims admit whoever comes from this address, at this time (Unix seconds).
///
/// # Errors
/// [`Violation`].
pub fn admit(
    asked: &Asked,
    claims: &Map<String, Value>,
    address: RateKey,
    now: i64,
) -> Result<Admitted, Violation> {
    use Violation::Claim;
    let claims = Claims(claims);
    if claims.expired(now)? {
        return Err(Claim("the token has expired"));
    }
    if claims.text("workspaceId")? != Some(&asked.workspace) {
        return Err(Claim("the token is for another workspace"));
    }
    if claims.text("role")? != Some(role_name(asked.role)) {
        return Err(Claim("the token is for another role"));
    }
    let target: Option<Arc<str>> = match (claims.text("runtimeTargetId")?, &asked.target) {
        (Some(theirs), Some(ours)) if theirs != &**ours => {
            return Err(Claim("the token is for another runtime target"));
        }
        (Some(theirs), _) if !is_id(theirs) => return Err(Claim("the token's runtime target is no id")),
        (Some(theirs), _) => Some(theirs.into()),
        (None, ours) => ours.clone(),
    };
    let scope = match claims.text("scope")? {
        Some("runtime") => Some(Scope::Runtime),
        Some("pairing") => Some(Scope::Pairing),
        Some("session-events") => Some(Scope::SessionEvents),
        // Daemons and workers have no scopes here; what the platform writes there concerns others.
        _ if asked.role != Role::Client => None,
        Some(_) => return Err(Claim("the token's scope is unknown")),
        None => return Err(Claim("the token has no scope")),
    };
    let profile = match claims.text("e2eeProfile")? {
        Some("noise-ik") => Some(Profile::NoiseIk),
        Some("noise-ikpsk2") => Some(Profile::NoiseIkPsk2),
        Some(_) => return Err(Claim("the token's e2eeProfile is unknown")),
        None => None,
    };
    let wants_target = match asked.role {
        Role::Daemon => true,
        Role::Client => scope == Some(Scope::Runtime),
        Role::Worker => false,
    };
    if wants_target && target.is_none() {
        return Err(Violation::TargetRequired);
    }
    Ok(Admitted {
        pair: Pair { workspace: asked.workspace.clone(), target },
        role: asked.role,
        scope,
        profile,
        client_id: claims.id("clientId")?,
        user_id: claims.id("userId")?,
        machine: claims.id("machineId")?,
        address,
        channels: claims.channels()?,
        generation: claims.generation()?,
    })
}

/// Reads claims; null is the same as absent.
struct Claims<'a>(&'a Map<String, Value>);

impl<'a> Claims<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, Violation> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Violation::Claim("a claim is no text")),
        }
    }

    /// An id that is only passed on: a text or a whole number, as the platform has it.
    fn id(&self, name: &str) -> Result<Option<Arc<str>>, Violation> {
        let text: Arc<str> = match self.get(name) {
            None => return Ok(None),
            Some(Value::String(text)) => text.as_str().into(),
            Some(Value::Number(number)) if !number.is_f64() => number.to_string().into(),
            Some(_) => return Err(Violation::Claim("an id of the token is no id")),
        };
        if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
            return Err(Violation::Claim("an id of the token is no id"));
        }
        Ok(Some(text))
    }

    fn expired(&self, now: i64) -> Result<bool, Violation> {
        match self.get("exp") {
            None => Ok(false),
            Some(Value::Number(exp)) => {
                // NumericDate may have a fraction (RFC 7519 section 2).
                Ok(exp.as_f64().is_none_or(|exp| exp + LEEWAY as f64 <= now as f64))
            }
            Some(_) => Err(Violation::Claim("the token's end is no time")),
        }
    }

    fn generation(&self) -> Result<i64, Violation> {
        match self.get("daemonIssueGeneration") {
            None => Ok(0),
            Some(value) => whole(value).ok_or(Violation::Claim("the token's generation is no whole number")),
        }
    }

    fn channels(&self) -> Result<Vec<Arc<str>>, Violation> {
        let wrong = Violation::Claim("the token's sessionChannels are no list of names");
        let list = match self.get("sessionChannels") {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) if list.len() <= MAX_CHANNELS => list,
            Some(_) => return Err(wrong),
        };
        let name = |value: &Value| match value {
            Value::String(text) if (1..=MAX_TEXT).contains(&text.len()) => Ok(text.as_str().into()),
            _ => Err(wrong),
        };
        list.iter().map(name).collect()
    }
}

/// A whole number, also one that is written with a fraction of zero: JSON knows one kind of number.
fn whole(value: &Value) -> Option<i64> {
    // Up to here what reading the text may be off by is a fraction, and is seen.
    const SAFE: f64 = (1_u64 << 50) as f64;
    value.as_i64().or_else(|| {
        let number = value.as_f64().filter(|number| value.is_f64() && number.abs() <= SAFE)?;
        (number.fract() == 0.0).then_some(number as i64)
    })
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
