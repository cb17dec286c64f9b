//! The command line of a relay that runs alone: its users, tokens and one-time links.
//!
//! `relay-server user …`, `token …` and `login` work on the database directly, also while the server runs.
//! A token, a link or a generated password is printed once, alone on standard output, and is stored
//! nowhere. A password is never an argument, which every user of the machine could read.

mod duration;
mod list;
mod password;

use std::io::{BufRead, Write};
use std::time::Duration;

use clap::Subcommand;
use uuid::Uuid;

pub use self::duration::{DurationError, parse as parse_duration};
use crate::auth::opaque::{NoRandomness, Opaque};
use crate::auth::password::{MAX_CHARS, MIN_CHARS, PasswordError, Passwords};
use crate::auth::token::{Claims, Secret, TokenError, mint};
use crate::clock::unix_now;
use crate::config::parse::public_url;
use crate::store::{Person, Store, StoreError};

/// What can be done with users and tokens.
#[derive(Debug, Clone, Subcommand)]
pub enum IdentityCommand {
    /// Add and list the people who may use this relay
    #[command(subcommand)]
    User(UserCommand),
    /// Make, list and revoke the tokens by which agents and browsers sign in
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print a link that signs a person in, once, within 15 minutes
    Login {
        /// Whose link it is: the e-mail address of a user
        #[arg(value_parser = email)]
        email: String,
        /// Base under which the person's browser reaches the relay, when the settings do not tell it
        #[arg(long, value_name = "BASE", value_parser = base)]
        url: Option<String>,
    },
}

/// What can be done with users.
#[derive(Debug, Clone, Subcommand)]
pub enum UserCommand {
    /// Add a user
    Add {
        /// The user's e-mail address
        #[arg(value_parser = email)]
        email: String,
    },
    /// List all users
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let somebody whom the OpenID Connect provider knows be this user
    Link {
        /// The user's e-mail address
        #[arg(value_parser = email)]
        email: String,
        /// Who, in the provider's words
        #[command(flatten)]
        who: AtProvider,
    },
    /// Undo that, and end what began with it
    Unlink {
        /// Who, in the provider's words
        #[command(flatten)]
        who: AtProvider,
    },
    /// Set a user's password: typed at a terminal, or one line of standard input
    Password {
        /// The user's e-mail address
        #[arg(value_parser = email)]
        email: String,
        /// Make one and print it, alone, on standard output
        #[arg(long)]
        generate: bool,
    },
}

/// Somebody at the provider.
#[derive(Debug, Clone, clap::Args)]
pub struct AtProvider {
    /// The provider, as in RELAY_OIDC_ISSUER
    #[arg(long, value_name = "URL")]
    pub issuer: String,
    /// The person's `sub` there; the relay's log tells it when somebody unknown comes
    #[arg(long, value_name = "SUB")]
    pub subject: String,
}

impl AtProvider {
    fn person(&self) -> Person<'_> {
        Person { issuer: &self.issuer, subject: &self.subject }
    }
}

/// What can be done with tokens.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, alone, on standard output
    Create {
        /// Whose token it is: the e-mail address of a user
        #[arg(long, value_name = "EMAIL", value_parser = email)]
        user: String,
        /// What to call it in lists
        #[arg(long, default_value = "token")]
        name: String,
        /// How long it is good: a number of m, h or d, from 1m to 3650d
        #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = parse_duration)]
        expires: Duration,
    },
    /// List all tokens, without the tokens themselves
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token; everything that hangs on it ends within seconds
    Revoke {
        /// The token's id, from `token list`
        id: Uuid,
    },
}

/// Why a command did nothing, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The store refused or failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// There is no such token, or it is revoked already.
    #[error("there is no token {0} that could be revoked. See: relay-server token list")]
    NoSuchToken(Uuid),
    /// Nobody is linked to it.
    #[error("nobody here is linked to {0} of that issuer")]
    NoSuchIdentity(String),
    /// The token could not be signed.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// The system gave no random bytes.
    #[error("{0}")]
    Random(#[from] NoRandomness),
    /// The password could not be hashed.
    #[error("{0}")]
    Password(#[from] PasswordError),
    /// It is no password.
    #[error("a password has {MIN_CHARS} to {MAX_CHARS} characters")]
    PasswordLength,
    /// The two that were typed differ.
    #[error("the two passwords are not the same; nothing was changed")]
    PasswordsDiffer,
    /// Nothing could be read.
    #[error("the password cannot be read: {0}")]
    Input(std::io::Error),
    /// The answer could not be written.
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
}

/// What a command works with besides the store.
pub struct Tools<'a> {
    /// Signs tokens.
    pub secret: &'a Secret,
    /// The base of links, as the settings tell it.
    pub base: &'a str,
    /// Where a password is read when there is no terminal to ask at.
    pub input: &'a mut dyn BufRead,
    /// Whether there is one.
    pub terminal: bool,
}

/// Runs one command and writes its answer.
pub async fn run(
    command: IdentityCommand,
    store: &Store,
    tools: Tools<'_>,
    out: &mut impl Write,
) -> Result<(), IdentityError> {
    let now = unix_now();
    match command {
        IdentityCommand::User(UserCommand::Add { email }) => {
            let user = store.add_user(&email).await?;
            writeln!(out, "added {} ({})", user.email, user.id)?;
        }
        IdentityCommand::User(UserCommand::Link { email, who }) => {
            store.link_identity(&email, who.person()).await?;
            writeln!(out, "linked {} to {email}", who.subject)?;
        }
        IdentityCommand::User(UserCommand::Unlink { who }) => {
            if !store.unlink_identity(who.person()).await? {
                return Err(IdentityError::NoSuchIdentity(who.subject));
            }
            writeln!(out, "unlinked {}", who.subject)?;
        }
        IdentityCommand::User(UserCommand::List { json }) => list::users(&store.users().await?, json, out)?,
        IdentityCommand::Token(TokenCommand::Create { user, name, expires }) => {
            let token = create_token(store, tools.secret, &user, &name, now, expires).await?;
            writeln!(out, "{token}")?;
        }
        IdentityCommand::User(UserCommand::Password { email, generate }) => {
            let new =
                if generate { password::generate()? } else { password::read(tools.input, tools.terminal)? };
            if !new.is_acceptable() {
                return Err(IdentityError::PasswordLength);
            }
            let hash = Passwords::default().hash(new.clone()).await?;
            store.reset_password(&email, &hash).await?;
            if generate {
                writeln!(out, "{}", new.reveal())?;
            } else {
                writeln!(out, "the password of {email} is set")?;
            }
        }
        IdentityCommand::Login { email, url } => {
            let token = Opaque::random()?;
            store.add_login_link(&email, &token.hash()).await?;
            let base = url.as_deref().unwrap_or(tools.base);
            writeln!(out, "{base}/#/link/{}", token.reveal())?;
        }
        IdentityCommand::Token(TokenCommand::List { json }) => {
            list::tokens(&store.tokens().await?, now, json, out)?;
        }
        IdentityCommand::Token(TokenCommand::Revoke { id }) => {
            if !store.revoke_token(id).await? {
                return Err(IdentityError::NoSuchToken(id));
            }
            writeln!(out, "revoked {id}")?;
        }
    }
    out.flush()?;
    Ok(())
}

async fn create_token(
    store: &Store,
    secret: &Secret,
    email: &str,
    name: &str,
    now: i64,
    expires: Duration,
) -> Result<String, IdentityError> {
    let exp = now.saturating_add(seconds(expires));
    let row = store.create_token(email, name, exp).await?;
    Ok(mint(secret, &Claims { sub: row.user_id, session_id: row.id, iat: now, exp })?)
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// A base of links: an `http` or `https` URL without query and fragment, and without a slash at its end.
fn base(text: &str) -> Result<String, String> {
    match public_url(text) {
        Some(url) => Ok(url.as_str().trim_end_matches('/').to_owned()),
        None => Err("write an http or https URL without query and fragment".to_owned()),
    }
}

/// An e-mail address as far as a typing mistake can be told: one `@` with a name before it and a host
/// after it, no spaces, no longer than RFC 5321 section 4.5.3.1.3 allows.
pub(crate) fn email(text: &str) -> Result<String, String> {
    let text = text.trim();
    let fine = text.len() <= 254
        && !text.chars().any(|c| c.is_whitespace() || c.is_control() || "<>(),;:\"\\[]".contains(c))
        && text.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty() && !host.is_empty() && !host.contains('@') && !host.split('.').any(str::is_empty)
        });
    if fine { Ok(text.to_lowercase()) } else { Err("write an address like name@example.org".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let long = format!("{}@example.org", "a".repeat(250));
        let cases = [
            ("Ann@Example.org", Some("ann@example.org")),
            (" ann@example.org ", Some("ann@example.org")),
            ("ann+tag@localhost", Some("ann+tag@localhost")),
            ("j\u{fc}rgen@example.org", Some("j\u{fc}rgen@example.org")),
            ("ann", None),
            ("@example.org", None),
            ("ann@", None),
            ("ann@b@example.org", None),
            ("ann@example..org", None),
            ("ann@.org", None),
            ("an n@example.org", None),
            ("Ann <ann@example.org>", None),
            ("ann@example.org\nb@example.org", None),
            ("", None),
            (&long, None),
        ];
        for (text, expected) in cases {
            assert_eq!(email(text).ok().as_deref(), expected, "{text:?}");
        }
    }
}
