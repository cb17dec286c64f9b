//! The frame broker at `/ws` (contract: frames): daemons, clients and workers of a platform exchange JSON frames
//! whose content is sealed between them.
//!
//! Everybody here holds a token that the platform vouches for, and lies all the same: frames are bounded, checked
//! against the list of what may pass, and routed as they came. What is sealed is never looked into.
