//! The operator's interface: `/state`, `/logs`, `/metrics`, for whoever shows the token. Off, it is as if it had
//! never been there.
