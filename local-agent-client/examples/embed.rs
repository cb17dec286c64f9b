//! Serves an axum Router through a relay, without opening a TCP port on this machine.
//!
//! ```text
//! RELAY_URL=https://relay.example RELAY_TOKEN_FILE=token cargo run --example embed
//! ```
//!
//! Every request that the router sees was authorised by the relay and carries `x-relayed: 1`. It trusts the relay;
//! without that line only paired browsers would be let through, and `.control(…)` would let `local-agent-client pair`
//! pair them.

use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    http::HeaderMap,
    routing::{any, get},
};
use local_agent_client::{Agent, LocalTarget, TokenSource, Trust, platform};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let router = Router::new()
        .route(
            "/",
            get(
                |headers: HeaderMap| async move { format!("Hello from inside the program.\n{headers:#?}\n") },
            ),
        )
        .route("/echo", any(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo) }));

    let agent = Agent::builder(
        std::env::var("RELAY_URL")?.parse()?,
        TokenSource::File(std::env::var("RELAY_TOKEN_FILE")?.into()),
        LocalTarget::service(router),
    )
    .name("embedded")
    .state_dir("embed-state")
    .trust(Trust::Relay)
    .build()?;

    // Whoever embeds the agent can wait for its status as well as read it.
    let mut status = agent.status();
    let told = async {
        while status.wait_for(|status| status.connected).await.is_ok() {
            eprintln!("reachable as host {}", status.borrow().host_id.as_deref().unwrap_or("(not told)"));
            if status.wait_for(|status| !status.connected).await.is_err() {
                break;
            }
        }
    };

    let shutdown = CancellationToken::new();
    let mut interrupts = platform::Interrupts::listen()?;
    let interrupted = async {
        interrupts.next().await;
        shutdown.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = agent.run(shutdown.clone()) => {}
        () = told => {}
        () = interrupted => {}
    }
    Ok(())
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}
