//! Who is calling.

pub mod access;
pub mod token;
