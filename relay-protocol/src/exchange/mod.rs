//! Exchanges (PROTOCOL.md section 5.2): one request and its answer, both as records, over whatever path.
//!
//! The browser's bytes begin with a [`Prelude`], which says the session and the number of the exchange, and
//! go on with records, of which the first is a HEAD: a [`RequestHead`]. Anybody on the way may bring the
//! same bytes again, or others under a number that was used; [`Numbers`] lets each number through once, and
//! only after a record under it has opened.
//!
//! An agent, for each exchange, in this order:
//! ```text
//! let prelude = Prelude::from_bytes(&bytes);
//! let session = sessions.get(prelude.session_id)?;      // signing_session_expired
//! let record = decoder.next_record()?;                  // signature_invalid
//! session.numbers.lock().take(prelude.number)?;         // replayed, signing_session_expired
//! order.next(record.kind)?;                             // from here on everything is said in records
//! let head = RequestHead::decode(&record.payload)?;
//! ```

mod head;
mod numbers;
mod prelude;
mod query;

pub use head::{HeadError, MAX_METHOD, RequestHead};
pub use numbers::{MAX_SEALED_EXCHANGES, NumberError, Numbers, WINDOW};
pub use prelude::{PRELUDE_LEN, Prelude};
pub use query::{MAX_QUERY_VALUE, QUERY_NAME, decode_query, encode_query};

/// The path of exchanges over the relay (PROTOCOL.md section 5.3).
pub const PATH: &str = "/_relay/exchange";
