//! A browser at one relay, the agent at another: what passes, who is believed, and what happens when a part is gone.

#[path = "relays_tunnels/failure.rs"]
mod failure;
#[path = "relays_tunnels/paired.rs"]
mod paired;
#[path = "relays_tunnels/redirect.rs"]
mod redirect;
#[path = "relays_tunnels/traffic.rs"]
mod traffic;
#[path = "relays_tunnels/trust.rs"]
mod trust;
