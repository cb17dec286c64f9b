//! The code for the next device, sealed by a pairing's psk: the relay carries it and must not learn it
//! (PROTOCOL.md section 3.2).

use super::{
    code::Code,
    schedule::{Psk, hkdf32},
};
use crate::keys::SignatureBytes;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The length of a sealed code: six digits and the tag.
pub const SEALED_CODE_LEN: usize = 22;

/// The code could not be sealed or opened: another psk, another request, or it was altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed code does not open")]
pub struct NotSealed;

/// The key is used for one message: salt and so key are new with each request.
fn key(psk: &Psk, salt: &[u8; 32]) -> Result<LessSafeKey, NotSealed> {
    let key = hkdf32(salt, psk.reveal_bytes(), b"relay-pairing/1 code");
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| NotSealed)?))
}

/// Seals a code for the browser that asked for it by a request with this signature.
pub fn seal_code(code: &Code, psk: &Psk, request: &SignatureBytes) -> Result<Vec<u8>, NotSealed> {
    seal_code_with_salt(code, psk, &Sha256::digest(request).into())
}

/// The same for a browser that asked inside an exchange: the salt is the hash of its prelude (section 5.2).
pub fn seal_code_with_salt(code: &Code, psk: &Psk, salt: &[u8; 32]) -> Result<Vec<u8>, NotSealed> {
    let mut sealed = code.digits().to_vec();
    key(psk, salt)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut sealed)
        .map_err(|_| NotSealed)?;
    Ok(sealed)
}

/// Opens a sealed code.
pub fn open_code(sealed: &[u8], psk: &Psk, request: &SignatureBytes) -> Result<Code, NotSealed> {
    open_code_with_salt(sealed, psk, &Sha256::digest(request).into())
}

/// The same for a code that was asked for inside an exchange.
pub fn open_code_with_salt(sealed: &[u8], psk: &Psk, salt: &[u8; 32]) -> Result<Code, NotSealed> {
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let digits = key(psk, salt)?
        .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut buffer)
        .map_err(|_| NotSealed)?;
    let text = std::str::from_utf8(digits).map_err(|_| NotSealed)?;
    if digits.len() == SEALED_CODE_LEN - 16 {
        Code::parse(text).map_err(|_| NotSealed)
    } else {
        Err(NotSealed)
    }
}
