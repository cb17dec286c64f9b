//! Requests for a host whose tunnel another relay holds: passed on to that relay, signed, one hop at most.
