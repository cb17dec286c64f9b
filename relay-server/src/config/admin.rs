//! The operator's interface.

use super::settings::Key;
use super::{ConfigError, Reader, SecretText, parse};

/// Who may look, and at how much.
#[derive(Debug, Clone)]
pub struct Admin {
    /// What opens it; `None` when it is off.
    pub token: Option<SecretText>,
    /// Log lines that are kept.
    pub log_lines: usize,
}

pub(super) fn read(values: &Reader) -> Result<Admin, ConfigError> {
    let enabled = values.required(Key::EnableAdmin, parse::flag)?;
    let token = values.secret(Key::AdminToken);
    if enabled && token.is_none() {
        return Err(ConfigError::Together(
            "RELAY_ENABLE_ADMIN_HTTP is on and RELAY_ADMIN_TOKEN is not set: nobody could look".to_owned(),
        ));
    }
    Ok(Admin { token: token.filter(|_| enabled), log_lines: values.number(Key::LogLines)? })
}
