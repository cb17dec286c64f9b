//! SQL written once for both databases.
//!
//! A template is SQL that SQLite and PostgreSQL both understand, with the few things that they say
//! differently in braces. What goes in comes from this crate's own constants alone, never from
//! outside: values are always bound.
//!
//! | in a template | means |
//! | --- | --- |
//! | `{users}`, `{hosts}`, ... | the table, where it is found now |
//! | `{own:auth_sessions}`, ... | the table, while people sign in here: an error where it may be a web app's |
//! | `{now}` | the database's clock, the only clock that the store knows |
//! | `{ago:auth_session}`, `{ago:tunnel}`, `{ago:touch}` | that long before now |
//! | `{from_now:login_link}`, ... | that long after now |
//! | `{unix:column}` | a time column read as Unix seconds |
//! | `{time:$1}` | a bound number of Unix seconds as a time |
//! | `{in:$1}` | `in` a bound list of ids |
//! | `{zip:$1,$2}` | two bound lists of ids side by side, as `z(connection_id, host_id)` |
//! | `{lock}` | lock the selected rows until the transaction ends |

use super::StoreError;

/// A token that nobody used for this long is no longer good (contract: 365 days).
pub(super) const AUTH_SESSION_SECONDS: u64 = 365 * 24 * 60 * 60;
/// A tunnel that its relay has not confirmed for this long is gone: two of the 20 s confirmations
/// may be lost, and the third has 5 s to arrive.
pub(super) const TUNNEL_SECONDS: u64 = 45;
/// `last_used_at` is kept to the minute: a busy token costs one write a minute.
pub(super) const TOUCH_SECONDS: u64 = 60;

/// How long a one-time link is good (PROTOCOL.md section 1.1).
pub(super) const LOGIN_LINK_SECONDS: u64 = 15 * 60;
/// How long a device waits to be let in (PROTOCOL.md section 1.1).
pub(super) const DEVICE_LOGIN_SECONDS: u64 = 10 * 60;
/// How long it waits between two questions (RFC 8628 section 3.5).
pub(super) const DEVICE_POLL_SECONDS: u64 = 5;
/// How long what has ended is kept: a late question is told what became of it.
pub(super) const KEEP_ENDED_SECONDS: u64 = 60 * 60;
/// How long an ended sign-in is kept, for whoever asks afterwards who was in.
pub(super) const KEEP_SESSIONS_SECONDS: u64 = 30 * 24 * 60 * 60;

/// The seconds behind the name in `{ago:name}` and `{from_now:name}`.
pub(super) fn seconds(name: &str) -> Result<u64, StoreError> {
    match name {
        "auth_session" => Ok(AUTH_SESSION_SECONDS),
        "tunnel" => Ok(TUNNEL_SECONDS),
        "touch" => Ok(TOUCH_SECONDS),
        "login_link" => Ok(LOGIN_LINK_SECONDS),
        "device_login" => Ok(DEVICE_LOGIN_SECONDS),
        "device_poll" => Ok(DEVICE_POLL_SECONDS),
        "keep_ended" => Ok(KEEP_ENDED_SECONDS),
        "keep_sessions" => Ok(KEEP_SESSIONS_SECONDS),
        other => Err(unknown(other)),
    }
}

/// The error of a template that asks for something that does not exist.
pub(super) fn unknown(what: &str) -> StoreError {
    StoreError::Corrupt(format!("the SQL asks for `{what}`, which this relay does not know"))
}

/// Replaces every `{name}` and `{name:argument}` by what `expand` says.
pub(super) fn render(
    template: &str,
    expand: impl Fn(&str, &str) -> Result<String, StoreError>,
) -> Result<String, StoreError> {
    let mut sql = String::with_capacity(template.len() + 256);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, after) = after.split_once('}').ok_or_else(|| unknown("{ without }"))?;
        let (name, argument) = inside.split_once(':').unwrap_or((inside, ""));
        sql.push_str(before);
        sql.push_str(&expand(name, argument)?);
        rest = after;
    }
    sql.push_str(rest);
    Ok(sql)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::{postgres::Tables, sqlite};

    #[test]
    fn each_database_reads_its_own_words() {
        let alone =
            Tables::from_catalog(&[("relay".into(), "hosts".into()), ("relay".into(), "tunnels".into())]);
        let beside =
            Tables::from_catalog(&[("relay".into(), "hosts".into()), ("public".into(), "hosts".into())]);
        let cases = [
            ("select 1", "select 1", "select 1"),
            ("from {hosts} h", "from hosts h", "from relay.hosts h"),
            ("{now}", "unixepoch()", "now()"),
            ("{ago:tunnel}", "(unixepoch() - 45)", "(now() - interval '45 seconds')"),
            ("{from_now:device_login}", "(unixepoch() + 600)", "(now() + interval '600 seconds')"),
            ("{unix:h.a}", "h.a", "floor(extract(epoch from h.a))::bigint"),
            ("{time:$2}", "$2", "to_timestamp($2)"),
            ("x {in:$1}", "x in (select unhex(value) from json_each($1))", "x = any($1)"),
            ("select 1 {lock}", "select 1 ", "select 1 for update"),
        ];
        for (template, lite, pg) in cases {
            assert_eq!(render(template, sqlite::expand).unwrap(), lite);
            assert_eq!(render(template, |n, a| alone.expand(n, a)).unwrap(), pg);
        }
        assert_eq!(render("{hosts}", |n, a| beside.expand(n, a)).unwrap(), "public.hosts");
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let tables = Tables::from_catalog(&[]);
        assert!(matches!(render("{hosts}", |n, a| tables.expand(n, a)), Err(StoreError::NotReady(_))));
        for template in ["{nonsense}", "{ago:nonsense}", "{now"] {
            assert!(
                matches!(render(template, |n, a| tables.expand(n, a)), Err(StoreError::Corrupt(_))),
                "{template}"
            );
            assert!(matches!(render(template, sqlite::expand), Err(StoreError::Corrupt(_))), "{template}");
        }
    }
}
