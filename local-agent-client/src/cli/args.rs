//! What can be said on the command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use local_agent_client::peer::addresses::PortRange;
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};
use uuid::Uuid;

/// Serves a local HTTP server through a relay.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Connect to the relay and serve until told to end.
    ///
    /// The token comes from --token-file, RELAY_TOKEN or RELAY_TOKEN_FILE (the file is read again at every connect),
    /// otherwise from what `login` stored.
    Run(Box<Run>),
    /// Tell whether the agent of this state folder is connected. Ends with 0 when it is, with 1 when not.
    Status(Status),
    /// Show a code that pairs one browser with the running agent, and wait for it.
    ///
    /// The code lives five minutes and allows one attempt; interrupting this command voids it. Ends with 0 once a
    /// browser is paired, with 1 when the code came to another end.
    Pair(Pair),
    /// List, rename or revoke paired browsers.
    Browsers(Browsers),
    /// Print a link that opens the local page of the running agent. It works once, within five minutes.
    Page(Page),
    /// Sign in at a relay: a link is shown, and somebody who is signed in there approves.
    Login(Login),
    /// Sign out at the relay, and forget what `login` stored.
    Logout(Logout),
}

/// Which agent is meant.
#[derive(Debug, Args)]
pub struct Where {
    /// The state folder of the agent in question [env: RELAY_AGENT_STATE_DIR]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Pair {
    #[command(flatten)]
    pub at: Where,
    /// Draw the link's QR code even when the output is no terminal
    #[arg(long, conflicts_with = "json")]
    pub qr: bool,
    /// Seconds that the code lives [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(1..=300))]
    pub life: Option<i64>,
    /// Print a line of JSON for the code, and one for its end
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Browsers {
    #[command(subcommand)]
    pub action: BrowsersAction,
}

#[derive(Debug, Subcommand)]
pub enum BrowsersAction {
    /// List the paired browsers.
    List {
        #[command(flatten)]
        at: Where,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a browser another name.
    Rename {
        /// Its id
        id: Uuid,
        /// The new name, 1 to 100 characters
        name: String,
        #[command(flatten)]
        at: Where,
        /// Print the browser as JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a browser's access away; what it has open ends at once.
    Revoke {
        /// Its id
        id: Uuid,
        #[command(flatten)]
        at: Where,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct Page {
    #[command(flatten)]
    pub at: Where,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Login {
    /// Base URL of the relay, such as https://relay.example
    pub url: String,
    /// Name under which the sign-in is listed at the relay; otherwise the machine's [env: RELAY_AGENT_NAME]
    #[arg(long)]
    pub name: Option<String>,
    /// PEM file with further roots to trust, beside the system's [env: RELAY_CA_FILE]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    #[command(flatten)]
    pub at: Where,
}

#[derive(Debug, Args)]
pub struct Logout {
    /// PEM file with further roots to trust, beside the system's [env: RELAY_CA_FILE]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    #[command(flatten)]
    pub at: Where,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Base URL of the relay, such as https://relay.example [env: RELAY_URL, VK_SHARED_RELAY_API_BASE]
    #[arg(long, value_name = "URL")]
    pub relay: Option<String>,
    /// How many connections are kept open at once, 1 to 8, to different relays where there are different ones [default: 1] [env: RELAY_CONNECTIONS]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    pub connections: Option<u8>,
    /// Another relay that serves the same hosts, once for each; connections go there too [env: RELAY_ALSO, with commas]
    #[arg(long = "also-relay", value_name = "URL")]
    pub also_relays: Vec<String>,
    /// The local server: http://…, https://… or unix:/path [env: LOCAL_URL]
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    /// File that holds the token and nothing else [env: RELAY_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Name under which people see this host; otherwise the machine's [env: RELAY_AGENT_NAME]
    #[arg(long)]
    pub name: Option<String>,
    /// Whose requests reach the local server [default: paired] [env: RELAY_TRUST]
    #[arg(long, value_enum)]
    pub trust: Option<TrustArg>,
    /// What paired browsers have to use [default: nothing] [env: RELAY_REQUIRE]
    #[arg(long, value_enum)]
    pub require: Option<RequireArg>,
    /// Where commands and the local page reach the agent: a loopback address, or `off` [default: 127.0.0.1:0] [env: RELAY_AGENT_CONTROL]
    #[arg(long, value_name = "ADDRESS")]
    pub control: Option<ControlArg>,
    /// Folder for the machine's id, keys, paired browsers and the status [env: RELAY_AGENT_STATE_DIR]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// PEM file with further roots to trust, beside the system's [env: RELAY_CA_FILE]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Do not check the certificate of an https local server on this machine
    #[arg(long)]
    pub insecure_local: bool,
    /// Leave Host, Origin and Referer as the browser sent them
    #[arg(long)]
    pub preserve_host: bool,
    /// Do not let browsers upgrade to a direct path by WebRTC [env: RELAY_AGENT_WEBRTC=0]
    #[arg(long)]
    pub no_webrtc: bool,
    /// UDP ports for WebRTC; otherwise the system chooses [env: RELAY_AGENT_WEBRTC_PORTS]
    #[arg(long, value_name = "MIN-MAX")]
    pub webrtc_ports: Option<PortRange>,
    /// A local address for WebRTC, once for each; otherwise all that others can reach [env: RELAY_AGENT_WEBRTC_ADDRESSES, with commas]
    #[arg(long = "webrtc-address", value_name = "IP")]
    pub webrtc_addresses: Vec<IpAddr>,
    /// How the log is written to standard error; RUST_LOG says how much
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    pub at: Where,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TrustArg {
    /// What a paired browser signed
    Paired,
    /// All that the relay authorised, for local servers that verify for themselves
    Relay,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RequireArg {
    /// Signed or sealed sessions, as the browser likes
    Nothing,
    /// Sealed sessions, whose requests the relay cannot read
    Sealed,
}

/// Where local control listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlArg {
    /// Nowhere.
    Off,
    /// Here.
    At(SocketAddr),
}

impl std::str::FromStr for ControlArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::At(address)),
            _ if text == "off" => Ok(Self::Off),
            _ => Err("it can be `off` or a loopback address such as 127.0.0.1:0"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}
