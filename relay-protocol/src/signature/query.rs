//! The signature of a WebSocket upgrade, carried by the query (PROTOCOL.md section 4.5).

use super::{SignatureError, request::Made, request::Signed};
use crate::keys::b64;
use std::fmt::Write;

const INPUT: &str = "relay-signature-input=";
const SIGNATURE: &str = "relay-signature=";

/// Splits a query (without its `?`) into what is left and the signature that it ended with. What is left is
/// `None` when the query was nothing else. A query without a signature comes back as it is.
///
/// # Errors
/// [`SignatureError::Malformed`] when the two parameters are there in any other form: twice, one without the
/// other, or not at the end.
pub fn split_query(query: &str) -> Result<(Option<&str>, Option<Signed>), SignatureError> {
    let ours = |part: &str| part.starts_with(INPUT) || part.starts_with(SIGNATURE);
    let mut parts = query.rsplit('&');
    let (last, before) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (Some(signature), Some(input)) = (last.strip_prefix(SIGNATURE), before.strip_prefix(INPUT)) else {
        return if query.split('&').any(ours) { Err(misplaced()) } else { Ok((Some(query), None)) };
    };
    let carried = before.len() + 1 + last.len();
    let rest = match query.len().checked_sub(carried) {
        Some(at) if at > 0 => query.get(..at - 1),
        _ => None,
    };
    if rest.is_some_and(|rest| rest.split('&').any(ours)) {
        return Err(misplaced());
    }
    let signature = b64::decode_array(signature)
        .map_err(|_| SignatureError::Malformed("relay-signature cannot be read"))?;
    let input =
        percent_decode(input).ok_or(SignatureError::Malformed("relay-signature-input cannot be read"))?;
    Ok((rest, Some(Signed::from_query(&input, signature)?)))
}

fn misplaced() -> SignatureError {
    SignatureError::Malformed("relay-signature-input and relay-signature belong at the end of the query")
}

/// A query that ends with a signature.
pub fn append_query(query: Option<&str>, made: &Made) -> String {
    let mut text = query.map(|query| format!("{query}&")).unwrap_or_default();
    text.push_str(INPUT);
    for byte in made.input.as_str().bytes() {
        // The unreserved characters of RFC 3986 section 2.3.
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text.push('&');
    text.push_str(SIGNATURE);
    text.push_str(&b64::encode(made.signature));
    text
}

/// Every `%` begins two hexadecimal digits; everything else stands for itself.
fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, others @ ..] = others else { return None };
        let digit = |b: u8| char::from(b).to_digit(16);
        bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
        rest = others;
    }
    Some(bytes)
}
