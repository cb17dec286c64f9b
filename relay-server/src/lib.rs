//! placeholder
pub mod auth;
pub mod identity;
pub mod store;
