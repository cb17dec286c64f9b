//! What the tests of the broker are made of.

use std::sync::Arc;
use std::time::Duration;

use super::{Admitted, Pair, Profile, Role, Scope};
use crate::config::frames::Frames;
use crate::config::relays::{Mode, Relays};

/// The defaults.
pub fn limits() -> Frames {
    Frames {
        dev: false,
        jwks_url: None,
        validate_url: None,
        max_frame_bytes: 1 << 20,
        max_pending_bytes: 4 << 20,
        max_clients_per_workspace: 100,
        max_total_connections: 2000,
        kex_init_rate_per_minute: 60,
        pairing_rate_per_minute: 30,
        runtime_rate_per_minute: 240,
        runtime_rate_per_minute_workspace: 1200,
        daemon_runtime_rate_per_minute: 2400,
        ping_interval: Duration::from_secs(30),
        pong_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(300),
        worker_path_prefix: None,
    }
}

/// Redirects nobody.
pub fn relays() -> Relays {
    Relays {
        mode: Mode::Single,
        hmac_key: None,
        redis_key_prefix: String::new(),
        redis_ca: None,
        public_ws_base_url: None,
        internal_url: None,
        redirect: false,
        redirect_allowed_hosts: Vec::new(),
    }
}

/// A pair with a target.
pub fn pair(workspace: &str, target: &str) -> Pair {
    Pair { workspace: workspace.into(), target: Some(target.into()) }
}

/// Somebody of the pair (w, t), without anything that its role does not need.
pub fn who(role: Role) -> Admitted {
    Admitted {
        pair: pair("w", "t"),
        role,
        scope: (role == Role::Client).then_some(Scope::Runtime),
        profile: None,
        client_id: None,
        user_id: None,
        machine: Some("m".into()),
        channels: Vec::new(),
        generation: 0,
    }
}

/// A client with this scope.
pub fn client(scope: Scope) -> Admitted {
    Admitted { scope: Some(scope), ..who(Role::Client) }
}

/// A client that the platform knows by this name.
pub fn named(name: &str) -> Admitted {
    Admitted { client_id: Some(name.into()), ..who(Role::Client) }
}

/// Somebody of whom a profile is expected.
pub fn expecting(role: Role, profile: Profile) -> Admitted {
    Admitted { profile: Some(profile), ..who(role) }
}

/// A daemon of this generation.
pub fn daemon(generation: i64) -> Admitted {
    Admitted { generation, ..who(Role::Daemon) }
}

/// A client that may listen to these channels.
pub fn listener(scope: Scope, channels: &[&str]) -> Admitted {
    Admitted { channels: channels.iter().map(|name| Arc::from(*name)).collect(), ..client(scope) }
}
