//! Who may send what (contract: frames, "Routing"). Pure.

use super::frame::{Frame, Kind};
use super::{Admitted, Close, Profile, Role, Scope};

/// Of a client that names another profile than the platform expects of it.
pub const OTHER_PROFILE: Close = Close::policy("another profile than expected");
/// Of a daemon that falls back to a weaker profile than the platform expects of it.
pub const WEAKER_PROFILE: Close = Close::policy("a weaker profile than expected");

/// What becomes of a frame, before anybody asks where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Pass,
    /// It is not for this sender to say: dropped.
    Drop,
    /// The sender breaks its word: closed.
    Close(Close),
}

/// Whether this sender may send this.
pub fn judge(who: &Admitted, frame: &Frame<'_>) -> Verdict {
    if !may(who.role, who.scope, frame.kind()) {
        return Verdict::Drop;
    }
    match (who.role, who.profile, frame.profile()) {
        (Role::Client, Some(expected), Some(used)) if used != expected => Verdict::Close(OTHER_PROFILE),
        (Role::Daemon, Some(expected), Some(used)) if used < expected => Verdict::Close(WEAKER_PROFILE),
        _ => Verdict::Pass,
    }
}

/// Which frames a role with this scope sends.
pub fn may(role: Role, scope: Option<Scope>, kind: Kind) -> bool {
    match role {
        Role::Daemon => from_daemon(kind),
        Role::Worker => kind == Kind::TransportRequest,
        Role::Client => match scope {
            // Whether the channel is among those of the token is asked later: the answer says so.
            Some(Scope::Runtime) => matches!(kind, Kind::Envelope | Kind::KeyInit | Kind::Subscription),
            Some(Scope::Pairing) => kind == Kind::PairingRequest,
            Some(Scope::SessionEvents) => kind == Kind::Subscription,
            None => false,
        },
    }
}

/// Which frames go from a daemon to clients, also by way of the bus.
pub fn from_daemon(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Envelope
            | Kind::KeyResponse
            | Kind::KeyUpdate
            | Kind::PairingResponse
            | Kind::SessionEvent
            | Kind::TransportResponse
    )
}

/// Which frames go from clients and workers to a daemon, also by way of the bus. Subscriptions do not: every
/// relay answers its own.
pub fn to_daemon(kind: Kind) -> bool {
    matches!(kind, Kind::Envelope | Kind::KeyInit | Kind::PairingRequest | Kind::TransportRequest)
}

/// Whether what a daemon says in this profile may reach a client of whom this one is expected: otherwise a daemon
/// without an expectation of its own could talk it down.
pub fn may_receive(expected: Option<Profile>, used: Option<Profile>) -> bool {
    !matches!((expected, used), (Some(expected), Some(used)) if used < expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::Pair;

    fn who(role: Role, scope: Option<Scope>, profile: Option<Profile>) -> Admitted {
        Admitted {
            pair: Pair { workspace: "w".into(), target: Some("t".into()) },
            role,
            scope,
            profile,
            client_id: None,
            user_id: None,
            machine: None,
            channels: Vec::new(),
            generation: 0,
            address: crate::http::client_addr::RateKey::of([203, 0, 113, 1].into()),
        }
    }

    #[test]
    fn roles_and_scopes() {
        let clients = |scope| (Role::Client, Some(scope));
        let table: [((Role, Option<Scope>), &[Kind]); 6] = [
            (clients(Scope::Runtime), &[Kind::Envelope, Kind::KeyInit, Kind::Subscription]),
            (clients(Scope::Pairing), &[Kind::PairingRequest]),
            (clients(Scope::SessionEvents), &[Kind::Subscription]),
            ((Role::Client, None), &[]),
            ((Role::Worker, Some(Scope::Runtime)), &[Kind::TransportRequest]),
            (
                (Role::Daemon, None),
                &[
                    Kind::Envelope,
                    Kind::KeyResponse,
                    Kind::KeyUpdate,
                    Kind::PairingResponse,
                    Kind::SessionEvent,
                    Kind::TransportResponse,
                ],
            ),
        ];
        for ((role, scope), allowed) in table {
            for kind in Kind::ALL {
                assert_eq!(may(role, scope, kind), allowed.contains(&kind), "{role:?} {scope:?} {kind:?}");
            }
        }
    }

    #[test]
    fn every_frame_goes_one_way_but_the_envelope() {
        for kind in Kind::ALL {
            let both = from_daemon(kind) && to_daemon(kind);
            assert_eq!(both, kind == Kind::Envelope, "{kind:?}");
            assert!(from_daemon(kind) || to_daemon(kind) || kind == Kind::Subscription, "{kind:?}");
        }
    }

    #[test]
    fn profiles() {
        use Profile::{NoiseIk as Ik, NoiseIkPsk2 as Psk2};
        let client = (Role::Client, Some(Scope::Runtime));
        let daemon = (Role::Daemon, None);
        for ((role, scope), expected, used, verdict) in [
            (client, None, Ik, Verdict::Pass),
            (client, Some(Ik), Ik, Verdict::Pass),
            (client, Some(Ik), Psk2, Verdict::Close(OTHER_PROFILE)),
            (client, Some(Psk2), Ik, Verdict::Close(OTHER_PROFILE)),
            (client, Some(Psk2), Psk2, Verdict::Pass),
            (daemon, None, Ik, Verdict::Pass),
            (daemon, Some(Ik), Ik, Verdict::Pass),
            (daemon, Some(Ik), Psk2, Verdict::Pass),
            (daemon, Some(Psk2), Ik, Verdict::Close(WEAKER_PROFILE)),
            (daemon, Some(Psk2), Psk2, Verdict::Pass),
        ] {
            let envelope = Frame::Envelope { profile: used, session: "s".into() };
            assert_eq!(
                judge(&who(role, scope, expected), &envelope),
                verdict,
                "{role:?} {expected:?} {used:?}"
            );
        }
        let init = Frame::KeyInit { profile: Ik, request: "r".into() };
        let response = Frame::KeyResponse { profile: Ik, request: "r".into(), session: "s".into() };
        assert_eq!(judge(&who(Role::Client, client.1, Some(Psk2)), &init), Verdict::Close(OTHER_PROFILE));
        assert_eq!(judge(&who(Role::Daemon, None, Some(Psk2)), &response), Verdict::Close(WEAKER_PROFILE));
        let update = Frame::KeyUpdate { session: "s".into() };
        assert_eq!(judge(&who(Role::Daemon, None, Some(Psk2)), &update), Verdict::Pass, "names no profile");
        assert!(!may_receive(Some(Psk2), Some(Ik)) && may_receive(Some(Ik), Some(Psk2)));
        assert!(may_receive(None, Some(Ik)) && may_receive(Some(Psk2), None));
    }
}
