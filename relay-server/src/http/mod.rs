//! From accepted sockets to answered requests.
//!
//! What comes in here was sent by anybody: every byte, header and address may be a lie, and a
//! sender may stop in the middle of anything. [`serve`] owns sockets and deadlines; [`front`] finds
//! out who calls and refuses what is too large; [`routes`] is the relay's own API, [`sign_in`] its
//! part for people, [`portal`] their pages. The rest are
//! pure decisions that these use.

pub mod access_log;
pub mod api_body;
pub mod caller;
pub mod client_addr;
pub mod cookie_place;
pub mod cors;
pub mod front;
pub mod guards;
pub mod handshake;
pub mod head;
mod ice;
pub mod metrics;
pub mod offline;
pub mod portal;
pub mod problem;
pub mod request_id;
pub mod routes;
pub mod serve;
pub mod sign_in;
