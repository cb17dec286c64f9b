//! Who is calling, and how they prove it.

pub mod access;
pub mod agent_name;
pub mod bearer;
pub mod credential;
pub mod jwks;
pub mod jws;
pub mod metrics;
pub mod oidc;
pub mod opaque;
pub mod password;
pub mod token;
pub mod turn;
pub mod user_code;
