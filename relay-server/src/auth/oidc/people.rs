//! From who it is to a user of ours.

use sha2::{Digest as _, Sha256};
use url::Url;
use uuid::Uuid;

use crate::store::{Adopted, Person, Store, StoreError};

/// Hexadecimal digits of an address that stands for somebody whose own is not known.
const DIGITS: usize = 16;

/// Why somebody whom the provider knows is nobody here.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Nobody linked them, and unknown people are not let in.
    #[error(
        "this person is not linked to a user here. To let them in: relay-server user link EMAIL --issuer … --subject …"
    )]
    Unknown,
    /// Another user has their address.
    #[error(
        "a user with this person's address is here and not linked to them. If they are the same person: relay-server user link EMAIL --issuer … --subject …"
    )]
    EmailTaken,
    /// It could not be found out.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The user whom this person is; a new one for somebody who comes for the first time, where that is allowed.
///
/// # Errors
/// [`Refused`].
pub async fn adopt(
    store: &Store,
    who: Person<'_>,
    email: Option<&str>,
    auto_create: bool,
) -> Result<Uuid, Refused> {
    if let Some(user) = store.user_of_identity(who).await? {
        return Ok(user);
    }
    if !auto_create {
        return Err(Refused::Unknown);
    }
    let stand_in;
    let email = match email {
        Some(email) => email,
        None => {
            stand_in = address(who);
            &stand_in
        }
    };
    match store.adopt_identity(who, email).await? {
        Adopted::User(user) => {
            tracing::info!(target: "relay::audit", %user, subject = ?who.subject, "a user was made for somebody whom the provider knows");
            Ok(user)
        }
        Adopted::EmailTaken => Err(Refused::EmailTaken),
    }
}

/// An address that nobody has (RFC 2606) and that is always the same for the same person.
fn address(who: Person<'_>) -> String {
    let mut hash = Sha256::new();
    hash.update(who.issuer.as_bytes());
    hash.update([0]);
    hash.update(who.subject.as_bytes());
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let host = Url::parse(who.issuer).ok().and_then(|url| url.domain().map(str::to_owned));
    format!("{}@{}.invalid", digits.get(..DIGITS).unwrap_or(&digits), host.as_deref().unwrap_or("provider"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_in_addresses_are_nobodys_and_tell_people_apart() {
        let of = |issuer, subject| address(Person { issuer, subject });
        let ann = of("https://id.example/realm", "ann");
        assert!(ann.ends_with("@id.example.invalid") && ann.len() == DIGITS + 19, "{ann}");
        assert_eq!(ann, of("https://id.example/realm", "ann"));
        assert_ne!(ann, of("https://id.example/realm", "bob"));
        assert_ne!(ann, of("https://id.example/realm/", "ann"));
        assert!(of("http://127.0.0.1:9", "ann@example.org").ends_with("@provider.invalid"));
    }
}
