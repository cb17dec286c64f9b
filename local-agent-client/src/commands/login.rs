//! `login` and `logout`.

use super::{INTERRUPTED, block_on, say, span};
use anyhow::Context;
use hyper_util::client::proxy::matcher::Matcher;
use local_agent_client::{
    RelayUrl,
    dial::{Route, tls},
    login::{Device, Login},
    platform::{self, Interrupts},
    qr,
    status::now,
};
use std::{
    io::{IsTerminal, Write, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

/// Characters of a name at the relay.
const MAX_NAME: usize = 200;

/// What it takes to reach a relay.
struct Way {
    relay: RelayUrl,
    tls: Arc<rustls::ClientConfig>,
    proxies: Matcher,
}

impl Way {
    fn new(relay: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        let relay: RelayUrl = relay.parse().context("the relay's URL")?;
        tls::install_provider();
        let tls = tls::for_relay(&relay, ca)?;
        Ok(Self { relay, tls: Arc::new(tls), proxies: Matcher::from_env() })
    }

    fn route(&self) -> Route<'_> {
        Route { relay: &self.relay, address: None, tls: &self.tls, proxies: &self.proxies }
    }
}

pub fn login(dir: &Path, url: &str, name: Option<String>, ca: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let way = Way::new(url, ca.as_deref())?;
    let name = name.or_else(platform::machine_name).unwrap_or_else(|| "unnamed".to_owned());
    anyhow::ensure!(
        !name.trim().is_empty() && name.chars().count() <= MAX_NAME && !name.chars().any(char::is_control),
        "the name must have 1 to {MAX_NAME} characters and no control characters"
    );
    platform::private_dir(dir).with_context(|| dir.display().to_string())?;
    if !way.relay.is_secure() && !way.relay.is_loopback() {
        writeln!(
            std::io::stderr(),
            "warning: the way to {} is not encrypted: anybody on it can read the token; use https",
            way.relay
        )?;
    }
    block_on(async {
        let mut interrupts = Interrupts::listen()?;
        let signing_in = async {
            let device = Device::begin(&way.route(), name.trim()).await?;
            show(&device)?;
            let grant = device.wait(&way.route(), async |pause| tokio::time::sleep(pause).await).await?;
            Login::of(dir).store(&way.relay, &grant, now())?;
            anyhow::Ok(())
        };
        tokio::select! {
            signed_in = signing_in => signed_in?,
            () = interrupts.next() => return Ok(ExitCode::from(INTERRUPTED)),
        }
        say(format_args!("Signed in at {}. `local-agent-client run` uses it from now on.", way.relay))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn show(device: &Device) -> anyhow::Result<()> {
    let link = device.verification_uri_complete.as_ref().unwrap_or(&device.verification_uri);
    say(format_args!("Open {link}"))?;
    say(format_args!("and approve the code {}", device.user_code))?;
    if device.verification_uri_complete.is_some() {
        say(format_args!("(or enter it at {})", device.verification_uri))?;
    }
    if stdout().is_terminal()
        && let Some(blocks) = qr::blocks(link)
    {
        say(format_args!("\n{blocks}\n"))?;
    }
    let left = i64::try_from(device.expires_in.as_secs()).unwrap_or(i64::MAX);
    Ok(say(format_args!("Waiting for the approval, for {} at the most …", span(left)))?)
}

pub fn logout(dir: &Path, ca: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let login = Login::of(dir);
    let relay = match login.relay() {
        Ok(Some(relay)) => relay,
        Ok(None) => {
            say("nobody was signed in")?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            // Damaged or not: whoever signs out wants it gone.
            login.forget()?;
            anyhow::bail!("{error}; it is removed, and the relay was not told");
        }
    };
    let told = Way::new(&relay, ca.as_deref())
        .and_then(|way| block_on(async { Ok(login.revoke(&way.route(), now()).await?) }));
    login.forget()?;
    match told {
        Ok(()) => say(format_args!("Signed out at {relay}"))?,
        Err(error) => say(format_args!(
            "The login is removed here. {relay} could not be told ({error:#}): end the session on its page."
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}
