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

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngCore, SeedableRng, rngs::StdRng};

    /// Draws these numbers, then nothing.
    struct Draws(Vec<u32>);

    impl RngCore for Draws {
        fn next_u32(&mut self) -> u32 {
            self.0.remove(0)
        }

        fn next_u64(&mut self) -> u64 {
            u64::from(self.next_u32())
        }

        fn fill_bytes(&mut self, to: &mut [u8]) {
            to.fill(0);
        }
    }

    impl CryptoRng for Draws {}

    #[test]
    fn what_would_favour_some_codes_is_drawn_again() {
        let mut rng = Draws(vec![u32::MAX, 4_294_000_000, 4_293_999_999, 42]);
        assert_eq!(*Code::generate(&mut rng).reveal(), "999999");
        assert_eq!(*Code::generate(&mut rng).reveal(), "000042");
    }

    #[test]
    fn every_digit_comes_at_every_place() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut seen = [[false; 10]; DIGITS];
        for _ in 0..1000 {
            let code = Code::generate(&mut rng);
            for (place, digit) in code.digits().iter().enumerate() {
                seen[place][usize::from(digit - b'0')] = true;
            }
        }
        assert!(seen.iter().flatten().all(|seen| *seen));
    }

    #[test]
    fn reads_what_people_type() {
        for text in ["042917", "042 917", " 04-29-17 ", "0 4 2 9 1 7"] {
            let code = Code::parse(text).unwrap();
            assert_eq!((code.reveal().as_str(), code.reveal_grouped().as_str()), ("042917", "042 917"));
        }
        for text in ["", "12345", "1234567", "12345a", "123\u{a0}456", "１２３４５６", "+12345", "123 45 "]
        {
            assert!(Code::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn does_not_print() {
        assert_eq!(format!("{:?}", Code::parse("042917").unwrap()), "Code(******)");
    }
}
