//! The six digits. They exist on the agent's screen and in the browser's boxes, and nowhere between.

use rand::CryptoRng;
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

const DIGITS: usize = 6;
const CODES: u32 = 1_000_000;

/// The text was not six digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pairing code has six digits")]
pub struct NotACode;

/// A pairing code. Wiped when it is dropped; prints as stars and does not compare.
#[derive(Clone)]
pub struct Code([u8; DIGITS]);

impl Code {
    /// A new code; every one of the million is as likely as another.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        // What lies above the largest multiple is drawn again: a remainder of it would favour some codes.
        const LIMIT: u32 = u32::MAX - u32::MAX % CODES;
        loop {
            let drawn = rng.next_u32();
            if drawn < LIMIT {
                return Self::from_number(drawn % CODES);
            }
        }
    }

    fn from_number(mut number: u32) -> Self {
        let mut digits = [b'0'; DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        Self(digits)
    }

    /// Reads what a person typed: six digits, spaces and hyphens anywhere.
    pub fn parse(text: &str) -> Result<Self, NotACode> {
        let mut code = Self([0; DIGITS]);
        let mut digits = text.bytes().filter(|b| !matches!(b, b' ' | b'-'));
        for place in &mut code.0 {
            *place = digits.next().filter(u8::is_ascii_digit).ok_or(NotACode)?;
        }
        if digits.next().is_some() { Err(NotACode) } else { Ok(code) }
    }

    /// The six digits as they are the password of SPAKE2.
    pub(super) fn digits(&self) -> &[u8; DIGITS] {
        &self.0
    }

    /// The six digits, for the person who asked for them: `123456`.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.iter().map(|digit| char::from(*digit)).collect())
    }

    /// The same as it reads best: `123 456`.
    pub fn reveal_grouped(&self) -> Zeroizing<String> {
        let mut text = String::with_capacity(DIGITS + 1);
        for (at, digit) in self.0.iter().enumerate() {
            if at == DIGITS / 2 {
                text.push(' ');
            }
            text.push(char::from(*digit));
        }
        Zeroizing::new(text)
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(******)")
    }
}
