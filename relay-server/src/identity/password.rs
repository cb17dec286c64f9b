//! Where a password comes from: a terminal, standard input, or chance.

use std::io::{self, BufRead, Read};

use rand::TryRngCore as _;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

use super::IdentityError;
use crate::auth::password::Password;

/// Longer lines are no passwords. Each character has up to four bytes.
const MAX_LINE: u64 = 4 * 1024;
/// Letters and digits that are not taken for each other: 5 bits each.
const CHARACTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 20 of them have 100 bits.
const LENGTH: usize = 20;

/// A new password that can be read aloud.
pub(super) fn generate() -> Result<Password, IdentityError> {
    let mut bytes = Zeroizing::new([0; LENGTH]);
    OsRng.try_fill_bytes(bytes.as_mut()).map_err(|error| IdentityError::Input(io::Error::other(error)))?;
    let chosen = bytes.iter().filter_map(|byte| CHARACTERS.get(usize::from(*byte) % CHARACTERS.len()));
    Ok(Password::new(chosen.map(|byte| char::from(*byte)).collect::<String>()))
}

/// The password that a person types twice, unseen; or the first line of the input.
pub(super) fn read(input: &mut dyn BufRead, terminal: bool) -> Result<Password, IdentityError> {
    if !terminal {
        let mut line = Zeroizing::new(String::new());
        input.take(MAX_LINE).read_line(&mut line).map_err(IdentityError::Input)?;
        return Ok(Password::new(line.trim_end_matches(['\r', '\n']).to_owned()));
    }
    let ask =
        |prompt: &str| rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(IdentityError::Input);
    let (first, second) = (ask("New password: ")?, ask("The same again: ")?);
    if first != second {
        return Err(IdentityError::PasswordsDiffer);
    }
    Ok(Password::new(first))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_line_of_the_input_is_the_password() {
        for (input, password) in [
            ("correct horse\n", "correct horse"),
            ("correct horse\r\n", "correct horse"),
            (" correct horse ", " correct horse "),
            ("first\nsecond\n", "first"),
            ("", ""),
        ] {
            assert_eq!(read(&mut input.as_bytes(), false).unwrap().reveal(), password, "{input:?}");
        }
        let endless = read(&mut io::BufReader::new(io::repeat(b'x')), false).unwrap();
        assert!(!endless.is_acceptable());
    }

    #[test]
    fn generated_ones_are_acceptable_and_never_the_same() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert!(one.is_acceptable() && one.reveal() != two.reveal());
        assert_eq!(one.reveal().len(), LENGTH);
    }
}
