//! User codes: what a person reads from one screen and types on another (RFC 8628 section 6.1).
//!
//! Eight consonants: no words arise by chance, nothing looks like a digit, and 20⁸ of them are too many to
//! guess at the rate that is allowed.

use rand::TryRngCore as _;
use rand::rngs::OsRng;

use super::opaque::NoRandomness;

/// The letters (PROTOCOL.md section 1.1).
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// How many of them.
const LENGTH: usize = 8;
/// Bytes from here on are drawn anew: 240 is the largest multiple of 20 in a byte.
const BIASED_FROM: u8 = 240;
/// Longer texts are no code, however many spaces are in them.
const MAX_TYPED: usize = 64;

/// A new code, as the store keeps it: eight letters.
///
/// # Errors
/// [`NoRandomness`].
pub fn random() -> Result<String, NoRandomness> {
    let mut code = String::with_capacity(LENGTH);
    let mut bytes = [0; 32];
    while code.len() < LENGTH {
        OsRng.try_fill_bytes(&mut bytes).map_err(NoRandomness::of)?;
        let fair = bytes.iter().filter(|byte| **byte < BIASED_FROM);
        let letters = fair.filter_map(|byte| LETTERS.get(usize::from(*byte) % LETTERS.len()));
        code.extend(letters.take(LENGTH - code.len()).map(|letter| char::from(*letter)));
    }
    Ok(code)
}

/// As people are shown it: `XXXX-XXXX`.
pub fn shown(code: &str) -> String {
    match code.split_at_checked(LENGTH / 2) {
        Some((first, second)) => format!("{first}-{second}"),
        None => code.to_owned(),
    }
}

/// The code that somebody typed, in either case, with hyphens and spaces wherever they like.
pub fn parse(typed: &str) -> Option<String> {
    if typed.len() > MAX_TYPED {
        return None;
    }
    let letters: String =
        typed.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| c.to_ascii_uppercase()).collect();
    let fine = letters.len() == LENGTH && letters.bytes().all(|letter| LETTERS.contains(&letter));
    fine.then_some(letters)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn codes_are_shown_and_read() {
        for _ in 0..200 {
            let code = random().unwrap();
            assert_eq!(parse(&shown(&code)).as_deref(), Some(code.as_str()));
        }
        assert_ne!(random().unwrap(), random().unwrap());
        for typed in ["WDJB-MJHT", "wdjbmjht", " wd jb-MJ ht ", "W-D-J-B-M-J-H-T"] {
            assert_eq!(parse(typed).as_deref(), Some("WDJBMJHT"), "{typed}");
        }
        let long = format!("WDJBMJHT{}", " ".repeat(100));
        for typed in ["", "WDJB", "WDJB-MJHTX", "WDJB-MJHA", "WDJB-MJH1", "WDJB_MJHT", "ẄDJB-MJHT", &long] {
            assert_eq!(parse(typed), None, "{typed}");
        }
    }
}
