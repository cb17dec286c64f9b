//! `GET /v1/relay/ice-servers`: what a browser needs to look for a direct path (PROTOCOL.md section 6.1).
//!
//! Whoever may call the API gets credentials for the TURN servers in its own name, so that those servers'
//! logs and quotas know whose traffic it is. Nothing here touches the store.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use http::header;
use relay_protocol::api::{IceServer, IceServers, SecretString};
use uuid::Uuid;

use super::caller::Caller;
use super::routes::Api;
use crate::auth::access::expires_at;
use crate::auth::turn::TurnSecret;
use crate::clock::unix_now;
use crate::config::{self, Config};

/// The path, which exists unless RELAY_WEBRTC is off.
pub(super) const PATH: &str = "/v1/relay/ice-servers";

/// What the settings say.
pub(super) struct Ice {
    servers: Vec<config::ice::IceServer>,
    secret: Option<TurnSecret>,
    lifetime: Duration,
}

impl Ice {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            servers: config.ice_servers.clone(),
            secret: config.turn_secret.clone(),
            lifetime: config.turn_lifetime,
        }
    }

    fn of_user(&self, user: Uuid, now: i64) -> IceServers {
        let expires_at = expires_at(now, self.lifetime);
        // One login does for all: they share the secret.
        let login = self.secret.as_ref().map(|secret| secret.login(user, expires_at));
        let ice_servers = self.servers.iter().map(|server| {
            let (username, credential) = match (&server.login, &login) {
                (Some(given), _) => {
                    let credential = SecretString(given.credential.reveal().to_owned());
                    (Some(given.username.clone()), Some(credential))
                }
                (None, Some(made)) if server.turn => {
                    (Some(made.username.clone()), Some(made.credential.clone()))
                }
                (None, _) => (None, None),
            };
            IceServer { urls: server.urls.clone(), username, credential }
        });
        IceServers { ice_servers: ice_servers.collect(), expires_at }
    }
}

/// Answers the caller.
pub(super) async fn ice_servers(State(api): State<Arc<Api>>, caller: Caller) -> Response {
    let servers = api.ice.of_user(caller.user, unix_now());
    // The credentials let their bearer in: no cache may keep them.
    ([(header::CACHE_CONTROL, "no-store")], Json(servers)).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    const NOW: i64 = 1_800_000_000;

    fn ice(servers: &str, secret: Option<&str>) -> Ice {
        Ice {
            servers: config::ice::servers(servers).unwrap(),
            secret: secret.and_then(TurnSecret::new),
            lifetime: Duration::from_secs(600),
        }
    }

    fn answer(ice: &Ice, user: Uuid) -> serde_json::Value {
        serde_json::to_value(ice.of_user(user, NOW)).unwrap()
    }

    #[test]
    fn without_servers_there_are_none_to_tell() {
        let user = Uuid::new_v4();
        assert_eq!(answer(&ice("", None), user), json!({"ice_servers": [], "expires_at": NOW + 600}));
        let stun = answer(&ice("stun:a,stun:b:1", None), user);
        assert_eq!(stun["ice_servers"], json!([{"urls": ["stun:a", "stun:b:1"]}]));
    }

    #[test]
    fn turn_servers_get_credentials_of_the_caller_and_others_none() {
        let ice = ice("turn:t?transport=udp,stun:a", Some("north-wind-and-the-sun"));
        let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
        let servers = answer(&ice, one)["ice_servers"].clone();
        assert_eq!(servers[0], json!({"urls": ["stun:a"]}));
        assert_eq!(servers[1]["urls"], json!(["turn:t?transport=udp"]));
        assert_eq!(servers[1]["username"], json!(format!("{}:{one}", NOW + 600)));
        let others = answer(&ice, other)["ice_servers"].clone();
        assert_ne!(others[1]["credential"], servers[1]["credential"]);
    }

    #[test]
    fn a_fixed_login_is_handed_on() {
        let text = r#"[{"urls":"turn:t","username":"u","credential":"p"}]"#;
        let servers = answer(&ice(text, None), Uuid::new_v4())["ice_servers"].clone();
        assert_eq!(servers, json!([{"urls": ["turn:t"], "username": "u", "credential": "p"}]));
    }
}
