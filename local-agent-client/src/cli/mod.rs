//! What the command line and the environment come to. Flags win.

mod args;

pub use args::*;

use anyhow::{Context, bail};
use clap::ValueEnum;
use local_agent_client::{
    Agent, LocalTarget, RelayUrl, Require, Token, TokenSource, Trust, login::Login as StoredLogin, peer,
    platform, relays::MAX_CONNECTIONS,
};
use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// The environment; an empty variable is one that is not set.
pub struct Env<F>(pub F);

impl<F: Fn(&str) -> Option<OsString>> Env<F> {
    fn os(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> anyhow::Result<Option<String>> {
        let value = self.os(name).map(OsString::into_string).transpose();
        value.map_err(|_| anyhow::anyhow!("{name} is not valid UTF-8"))
    }

    /// The state folder that a flag or the environment names, or this system's.
    pub fn state_dir(&self, flag: Option<&Path>) -> anyhow::Result<PathBuf> {
        if let Some(path) = flag {
            return Ok(path.to_owned());
        }
        let named = self.os("RELAY_AGENT_STATE_DIR").map(PathBuf::from);
        named
            .or_else(|| platform::default_state_dir(|name| self.os(name)))
            .context("there is no home folder to keep the state in; name a folder with --state-dir")
    }

    /// Makes the agent that the flags and the environment describe.
    pub fn agent(&self, run: &Run) -> anyhow::Result<Agent> {
        let state_dir = self.state_dir(run.state_dir.as_deref())?;
        let login = StoredLogin::of(&state_dir);
        let named = match &run.relay {
            Some(url) => Some(url.clone()),
            None => match self.text("RELAY_URL")? {
                Some(url) => Some(url),
                None => self.text("VK_SHARED_RELAY_API_BASE")?,
            },
        };
        let relay = match named {
            Some(url) => url,
            None => login.relay()?.context(
                "which relay? Give --relay URL or set RELAY_URL, or sign in with `local-agent-client login URL`",
            )?,
        };
        let relay: RelayUrl = relay.parse().context("the relay's URL")?;
        let to = match &run.to {
            Some(to) => to.clone(),
            None => self.text("LOCAL_URL")?.context("which local server? Give --to URL or set LOCAL_URL")?,
        };
        let target: LocalTarget = to.parse().context("the local server's address")?;
        let mut builder = Agent::builder(relay, self.token(run, login)?, target)
            .connections(self.connections(run)?)
            .trust(self.trust(run)?)
            .require(self.require(run)?)
            .insecure_local(run.insecure_local)
            .preserve_host(run.preserve_host)
            .webrtc(self.webrtc(run)?)
            .state_dir(state_dir);
        for also in self.also_relays(run)? {
            builder = builder.also_relay(also);
        }
        if let ControlArg::At(address) = self.control(run)? {
            builder = builder.control(address);
        }
        if let Some(name) = self.name(run.name.as_ref())? {
            builder = builder.name(name);
        }
        if let Some(ca) = self.ca(run.ca.as_ref()) {
            builder = builder.ca(ca);
        }
        Ok(builder.build()?)
    }

    fn connections(&self, run: &Run) -> anyhow::Result<usize> {
        match (run.connections, self.text("RELAY_CONNECTIONS")?) {
            (Some(connections), _) => Ok(connections.into()),
            (None, Some(text)) => match text.parse() {
                Ok(connections) if (1..=MAX_CONNECTIONS).contains(&connections) => Ok(connections),
                _ => bail!("RELAY_CONNECTIONS is `{text}`; it can be 1 to {MAX_CONNECTIONS}"),
            },
            (None, None) => Ok(1),
        }
    }

    fn also_relays(&self, run: &Run) -> anyhow::Result<Vec<RelayUrl>> {
        let (named, what) = match (run.also_relays.as_slice(), self.text("RELAY_ALSO")?) {
            ([], Some(text)) => (text.split(',').map(str::to_owned).collect(), "RELAY_ALSO"),
            (named, _) => (named.to_vec(), "--also-relay"),
        };
        let named = named.iter().map(|url| url.trim()).filter(|url| !url.is_empty());
        named.map(|url| url.parse().context(what)).collect()
    }

    fn trust(&self, run: &Run) -> anyhow::Result<Trust> {
        let named = match run.trust {
            Some(trust) => Some(trust),
            None => match self.text("RELAY_TRUST")? {
                Some(text) => match TrustArg::from_str(&text, false) {
                    Ok(trust) => Some(trust),
                    Err(_) => bail!("RELAY_TRUST is `{text}`; it can be `relay` or `paired`"),
                },
                None => None,
            },
        };
        Ok(match named {
            Some(TrustArg::Paired) | None => Trust::Paired,
            Some(TrustArg::Relay) => Trust::Relay,
        })
    }

    fn require(&self, run: &Run) -> anyhow::Result<Require> {
        let named = match run.require {
            Some(require) => Some(require),
            None => match self.text("RELAY_REQUIRE")? {
                Some(text) => match RequireArg::from_str(&text, false) {
                    Ok(require) => Some(require),
                    Err(_) => bail!("RELAY_REQUIRE is `{text}`; it can be `nothing` or `sealed`"),
                },
                None => None,
            },
        };
        Ok(match named {
            Some(RequireArg::Nothing) | None => Require::Nothing,
            Some(RequireArg::Sealed) => Require::Sealed,
        })
    }

    fn control(&self, run: &Run) -> anyhow::Result<ControlArg> {
        let named = match run.control {
            Some(control) => Some(control),
            None => match self.text("RELAY_AGENT_CONTROL")? {
                Some(text) => match text.parse() {
                    Ok(control) => Some(control),
                    Err(error) => bail!("RELAY_AGENT_CONTROL is `{text}`; {error}"),
                },
                None => None,
            },
        };
        Ok(named.unwrap_or(ControlArg::At(SocketAddr::from(([127, 0, 0, 1], 0)))))
    }

    /// `None` when it is turned off.
    fn webrtc(&self, run: &Run) -> anyhow::Result<Option<peer::Settings>> {
        let off = match self.text("RELAY_AGENT_WEBRTC")?.as_deref() {
            None | Some("1") => false,
            Some("0") => true,
            Some(text) => bail!("RELAY_AGENT_WEBRTC is `{text}`; it can be `0` or `1`"),
        };
        if off || run.no_webrtc {
            return Ok(None);
        }
        let ports = match (run.webrtc_ports, self.text("RELAY_AGENT_WEBRTC_PORTS")?) {
            (Some(ports), _) => Some(ports),
            (None, Some(text)) => match text.parse() {
                Ok(ports) => Some(ports),
                Err(error) => bail!("RELAY_AGENT_WEBRTC_PORTS is `{text}`; {error}"),
            },
            (None, None) => None,
        };
        let addresses = match (run.webrtc_addresses.as_slice(), self.text("RELAY_AGENT_WEBRTC_ADDRESSES")?) {
            ([], Some(text)) => match text.split(',').map(|ip| ip.trim().parse()).collect() {
                Ok(addresses) => addresses,
                Err(_) => {
                    bail!("RELAY_AGENT_WEBRTC_ADDRESSES is `{text}`; it has to be IP addresses with commas")
                }
            },
            (named, _) => named.to_vec(),
        };
        Ok(Some(peer::Settings { ports, addresses, ..peer::Settings::default() }))
    }

    /// The file with further roots that a flag or the environment names.
    pub fn ca(&self, flag: Option<&PathBuf>) -> Option<PathBuf> {
        flag.cloned().or_else(|| self.os("RELAY_CA_FILE").map(PathBuf::from))
    }

    /// The name that a flag or the environment gives this machine.
    pub fn name(&self, flag: Option<&String>) -> anyhow::Result<Option<String>> {
        flag.map_or_else(|| self.text("RELAY_AGENT_NAME"), |name| Ok(Some(name.clone())))
    }

    fn token(&self, run: &Run, login: StoredLogin) -> anyhow::Result<TokenSource> {
        if let Some(path) = &run.token_file {
            return Ok(TokenSource::File(path.clone()));
        }
        match (self.text("RELAY_TOKEN")?, self.os("RELAY_TOKEN_FILE")) {
            (Some(_), Some(_)) => bail!("RELAY_TOKEN and RELAY_TOKEN_FILE are both set; which one is meant?"),
            (Some(token), None) => Ok(TokenSource::Fixed(Token::new(&token).context("RELAY_TOKEN")?)),
            (None, Some(path)) => Ok(TokenSource::File(path.into())),
            (None, None) if login.relay()?.is_some() => Ok(TokenSource::Login(login)),
            (None, None) => bail!(
                "there is no token: sign in with `local-agent-client login URL`, give --token-file FILE, or set RELAY_TOKEN_FILE or RELAY_TOKEN"
            ),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::Parser;

    fn agent(args: &[&str], env: &[(&str, &str)]) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let cli = Cli::try_parse_from(["local-agent-client", "run"].iter().chain(args))
            .map_err(|error| error.to_string())?;
        let Command::Run(run) = cli.command else { return Err("not run".into()) };
        let state = dir.path().to_str().unwrap().to_owned();
        let env = |name: &str| {
            let state = ("RELAY_AGENT_STATE_DIR", state.as_str());
            env.iter().chain([&state]).find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
        };
        let agent = Env(env).agent(&run).map_err(|error| format!("{error:#}"))?;
        let status = agent.status().borrow().clone();
        let require = status.require.map(|require| format!(" {require}")).unwrap_or_default();
        let connections = match status.connections.len() {
            1 => String::new(),
            connections => format!(" x{connections}"),
        };
        Ok(format!("{} {}{require}{connections}", status.relay, status.local))
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_win_over_the_environment_and_it_has_aliases() {
        let token = ("RELAY_TOKEN", "t");
        let local = ("LOCAL_URL", "http://127.0.0.1:2");
        for (args, env, expected) in [
            (
                vec!["--relay", "https://a.example", "--to", "http://127.0.0.1:1"],
                vec![("RELAY_URL", "https://b.example"), local, token],
                "https://a.example http://127.0.0.1:1",
            ),
            (
                vec![],
                vec![
                    ("RELAY_URL", "https://b.example"),
                    ("VK_SHARED_RELAY_API_BASE", "https://c.example"),
                    local,
                    token,
                ],
                "https://b.example http://127.0.0.1:2",
            ),
            (
                vec![],
                vec![("RELAY_URL", ""), ("VK_SHARED_RELAY_API_BASE", "https://c.example/"), local, token],
                "https://c.example http://127.0.0.1:2",
            ),
            (
                vec!["--require", "sealed"],
                vec![("RELAY_URL", "https://b.example"), ("RELAY_REQUIRE", "nothing"), local, token],
                "https://b.example http://127.0.0.1:2 sealed",
            ),
            (
                vec![],
                vec![("RELAY_URL", "https://b.example"), ("RELAY_REQUIRE", "sealed"), local, token],
                "https://b.example http://127.0.0.1:2 sealed",
            ),
            (
                vec!["--connections", "3", "--also-relay", "https://b2.example"],
                vec![
                    ("RELAY_URL", "https://b.example"),
                    ("RELAY_CONNECTIONS", "2"),
                    ("RELAY_ALSO", "not a url"),
                    local,
                    token,
                ],
                "https://b.example http://127.0.0.1:2 x3",
            ),
            (
                vec![],
                vec![
                    ("RELAY_URL", "https://b.example"),
                    ("RELAY_CONNECTIONS", "2"),
                    ("RELAY_ALSO", "https://b2.example, https://b3.example,"),
                    local,
                    token,
                ],
                "https://b.example http://127.0.0.1:2 x2",
            ),
            (
                vec!["--token-file", "/t"],
                vec![
                    ("RELAY_URL", "ws://127.0.0.1:1"),
                    ("LOCAL_URL", "unix:/s"),
                    token,
                    ("RELAY_TOKEN_FILE", "/u"),
                ],
                "http://127.0.0.1:1 unix:/s",
            ),
        ] {
            assert_eq!(agent(&args, &env).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let relay = ("RELAY_URL", "https://a.example");
        let local = ("LOCAL_URL", "http://127.0.0.1:2");
        let token = ("RELAY_TOKEN", "secret-token");
        for (env, says) in [
            (vec![local, token], "RELAY_URL"),
            (vec![relay, token], "LOCAL_URL"),
            (vec![relay, local], "RELAY_TOKEN_FILE"),
            (vec![relay, local, token, ("RELAY_TOKEN_FILE", "/t")], "both set"),
            (vec![relay, local, token, ("RELAY_TRUST", "nobody")], "RELAY_TRUST"),
            (vec![relay, local, token, ("RELAY_REQUIRE", "everything")], "RELAY_REQUIRE"),
            (vec![relay, local, token, ("RELAY_AGENT_CONTROL", "0.0.0.0:0")], "RELAY_AGENT_CONTROL"),
            (vec![relay, local, token, ("RELAY_AGENT_CONTROL", "on")], "loopback"),
            (vec![relay, local, token, ("RELAY_AGENT_WEBRTC", "off")], "RELAY_AGENT_WEBRTC"),
            (vec![relay, local, token, ("RELAY_AGENT_WEBRTC_PORTS", "9-8")], "40000-40100"),
            (vec![relay, local, token, ("RELAY_AGENT_WEBRTC_ADDRESSES", "10.0.0.1,eth0")], "IP addresses"),
            (vec![relay, local, token, ("RELAY_CONNECTIONS", "0")], "RELAY_CONNECTIONS"),
            (vec![relay, local, token, ("RELAY_CONNECTIONS", "9")], "1 to 8"),
            (vec![relay, local, token, ("RELAY_CONNECTIONS", "two")], "RELAY_CONNECTIONS"),
            (vec![relay, local, token, ("RELAY_ALSO", "https://b.example,relay")], "RELAY_ALSO"),
            (vec![relay, local, token, ("RELAY_ALSO", "http://b.example")], "not reached by https"),
            (vec![relay, local, token, ("RELAY_CA_FILE", "/does/not/exist")], "/does/not/exist"),
            (vec![relay, local, ("RELAY_TOKEN", "two words")], "RELAY_TOKEN"),
            (vec![("RELAY_URL", "relay"), local, token], "the relay's URL"),
        ] {
            let error = agent(&[], &env).unwrap_err();
            assert!(error.contains(says), "{says}: {error}");
            assert!(!error.contains("secret") && !error.contains("two words"), "{error}");
        }
        assert!(
            agent(&["--token", "x"], &[]).unwrap_err().contains("unexpected argument"),
            "no token on the command line"
        );
    }
}
