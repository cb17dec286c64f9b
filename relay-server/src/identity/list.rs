//! Lists for people (columns) and for programs (JSON).

use std::io::{self, Write};

use serde::Serialize;
use time::OffsetDateTime;

use crate::store::{TokenRow, User};

/// What a token is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Live,
    Expired,
    Revoked,
}

impl State {
    fn of(token: &TokenRow, now: i64) -> Self {
        if token.revoked_at.is_some() {
            Self::Revoked
        } else if token.expires_at <= now {
            Self::Expired
        } else {
            Self::Live
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// A token in JSON: its row and its state.
#[derive(Serialize)]
struct Stated<'a> {
    #[serde(flatten)]
    token: &'a TokenRow,
    state: State,
}

pub(super) fn users(users: &[User], json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        return as_json(users, out);
    }
    let rows = users.iter().map(|user| vec![user.id.to_string(), clean(&user.email), date(user.created_at)]);
    columns(&["ID", "EMAIL", "ADDED"], rows.collect(), out)
}

pub(super) fn tokens(tokens: &[TokenRow], now: i64, json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        let stated: Vec<Stated<'_>> =
            tokens.iter().map(|token| Stated { token, state: State::of(token, now) }).collect();
        return as_json(&stated, out);
    }
    let rows = tokens.iter().map(|token| {
        vec![
            token.id.to_string(),
            clean(&token.email),
            clean(&token.name),
            State::of(token, now).text().to_owned(),
            date(token.created_at),
            token.last_used_at.map_or_else(|| "never".to_owned(), date),
            date(token.expires_at),
        ]
    });
    columns(&["ID", "USER", "NAME", "STATE", "MADE", "LAST USED", "EXPIRES"], rows.collect(), out)
}

fn as_json<T: Serialize + ?Sized>(value: &T, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Every column as wide as its widest cell, two spaces between, none at the end of a line.
fn columns(head: &[&str], rows: Vec<Vec<String>>, out: &mut impl Write) -> io::Result<()> {
    let mut lines = vec![head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows);
    let mut widths = vec![0; head.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Text from the database on a terminal: no control characters.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `2026-11-21 08:00` in UTC; the number itself where it is no date.
fn date(unix: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix).map_or_else(
        |_| unix.to_string(),
        |t| {
            let (month, day) = (u8::from(t.month()), t.day());
            format!("{:04}-{month:02}-{day:02} {:02}:{:02}", t.year(), t.hour(), t.minute())
        },
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use uuid::Uuid;

    use super::*;

    fn token(revoked_at: Option<i64>, expires_at: i64) -> TokenRow {
        TokenRow {
            id: Uuid::from_u128(7),
            user_id: Uuid::from_u128(1),
            email: "ann@example.org".into(),
            name: "lap\u{1b}top".into(),
            created_at: 0,
            last_used_at: None,
            expires_at,
            revoked_at,
        }
    }

    #[test]
    fn states() {
        assert_eq!(State::of(&token(None, 101), 100), State::Live);
        assert_eq!(State::of(&token(None, 100), 100), State::Expired);
        assert_eq!(State::of(&token(Some(1), 101), 100), State::Revoked);
    }

    #[test]
    fn tokens_in_columns() {
        let mut out = Vec::new();
        tokens(&[token(None, 86_400), token(Some(1), 86_400)], 100, false, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ID                                    USER             NAME     STATE    MADE              LAST USED  EXPIRES\n\
             00000000-0000-0000-0000-000000000007  ann@example.org  lap\u{fffd}top  live     1970-01-01 00:00  never      1970-01-02 00:00\n\
             00000000-0000-0000-0000-000000000007  ann@example.org  lap\u{fffd}top  revoked  1970-01-01 00:00  never      1970-01-02 00:00\n"
        );
    }

    #[test]
    fn tokens_in_json() {
        let mut out = Vec::new();
        tokens(&[token(None, 99)], 100, true, &mut out).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json[0]["state"], "expired");
        assert_eq!(json[0]["email"], "ann@example.org");
    }
}
