//! The command line. Its flags are made from the table of settings, its sub-commands for users and
//! tokens from [`crate::identity`].

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, Subcommand};

use crate::config::settings::{Key, markdown};
use crate::config::sources::Sources;
use crate::config::{Config, ConfigError};
use crate::identity::IdentityCommand;
use crate::telemetry::metrics;

/// What to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Serve, which is also what happens without a sub-command.
    Serve,
    /// Print the settings, as the README's table or for people.
    Settings {
        /// As a table in Markdown.
        markdown: bool,
    },
    /// Print what is counted, in the same two ways.
    Metrics {
        /// As a table in Markdown.
        markdown: bool,
    },
    /// Users and tokens.
    Identity(IdentityCommand),
}

/// A parsed command line.
#[derive(Debug)]
pub struct Cli {
    /// What to do.
    pub action: Action,
    matches: ArgMatches,
}

fn as_table() -> Arg {
    Arg::new("markdown").long("markdown").help("As the table of the README").action(ArgAction::SetTrue)
}

fn command() -> Command {
    let settings = Key::ALL.iter().map(|key| {
        let setting = key.setting();
        let default = if setting.default.is_empty() {
            String::new()
        } else {
            format!(" [default: {}]", setting.default)
        };
        let secret = if setting.secret { "File that holds: " } else { "" };
        let env = setting
            .env
            .iter()
            .map(|name| if setting.secret { format!("{name}_FILE") } else { (*name).to_owned() });
        let env = env.collect::<Vec<_>>().join(", ");
        Arg::new(setting.flag())
            .long(setting.flag())
            .value_name(if setting.secret { "FILE" } else { "VALUE" })
            .help(format!("{secret}{}{default} [env: {env}]", setting.help))
            .help_heading("Settings")
            .global(true)
            .action(ArgAction::Set)
    });
    let command = Command::new("relay-server")
        .version(env!("CARGO_PKG_VERSION"))
        .args(settings)
        .subcommand(Command::new("serve").about("Serve; this is also what happens without a command"))
        .subcommand(Command::new("settings").about("List all settings").arg(as_table()))
        .subcommand(Command::new("metrics").about("List what `/metrics` tells").arg(as_table()));
    // Its own description would become the program's.
    IdentityCommand::augment_subcommands(command)
        .about("Reach the web app on your own machine through a relay that you run")
        .long_about(None)
}

impl Cli {
    /// Parses the command line, program name first.
    ///
    /// # Errors
    /// What clap says, `--help` and `--version` included.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let matches = command().try_get_matches_from(args)?;
        let action = match matches.subcommand() {
            None | Some(("serve", _)) => Action::Serve,
            Some(("settings", sub)) => Action::Settings { markdown: sub.get_flag("markdown") },
            Some(("metrics", sub)) => Action::Metrics { markdown: sub.get_flag("markdown") },
            Some(_) => Action::Identity(IdentityCommand::from_arg_matches(&matches)?),
        };
        Ok(Self { action, matches })
    }

    /// The configuration from these flags, the environment and the file.
    ///
    /// # Errors
    /// The first setting that is not as it should be.
    pub fn config(&self) -> Result<Config, ConfigError> {
        Config::load(&Sources { flag: &|name| self.flag(name), env: &|name| std::env::var_os(name) })
    }

    /// The value of a flag, wherever on the line it stood. The later one wins, as everywhere.
    fn flag(&self, name: &str) -> Option<String> {
        let mut found = None;
        let mut level = Some(&self.matches);
        while let Some(matches) = level {
            if let Ok(Some(value)) = matches.try_get_one::<String>(name) {
                found = Some(value.clone());
            }
            level = matches.subcommand().map(|(_, sub)| sub);
        }
        found
    }
}

/// The settings for people.
pub fn settings_text() -> String {
    let mut out = String::new();
    for key in Key::ALL {
        let setting = key.setting();
        out.push_str(&format!(
            "{}\n    {}\n    expects {}\n",
            setting.env.join(", "),
            setting.help,
            setting.kind.expects()
        ));
        if !setting.default.is_empty() {
            out.push_str(&format!("    default {}\n", setting.default));
        }
    }
    out
}

/// What `relay-server settings` prints.
pub fn print_settings(as_markdown: bool) -> String {
    if as_markdown { markdown() } else { settings_text() }
}

/// What `relay-server metrics` prints.
pub fn print_metrics(as_markdown: bool) -> String {
    if as_markdown {
        return metrics::markdown();
    }
    let text = |metric: metrics::Metric| {
        let labels =
            if metric.labels.is_empty() { String::new() } else { format!("    labels {}\n", metric.labels) };
        format!("{} ({})\n    {}\n{labels}", metric.name, metric.kind.as_str(), metric.help)
    };
    metrics::all().into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::parse(std::iter::once("relay-server").chain(args.iter().copied()).map(OsString::from))
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn flags_stand_before_or_after_the_command() {
        for args in [
            &["--listen-addr", "127.0.0.1:1"][..],
            &["--listen-addr", "127.0.0.1:1", "serve"],
            &["serve", "--listen-addr", "127.0.0.1:1"],
            &["serve", "--listen-addr=127.0.0.1:1"],
        ] {
            let cli = parse(args).unwrap();
            assert!(matches!(cli.action, Action::Serve), "{args:?}");
            assert_eq!(cli.flag("listen-addr").as_deref(), Some("127.0.0.1:1"), "{args:?}");
            assert_eq!(cli.flag("data-dir"), None);
        }
        let cli = parse(&["user", "add", "a@example.com", "--data-dir", "/x"]).unwrap();
        assert!(matches!(cli.action, Action::Identity(IdentityCommand::User(_))));
        assert_eq!(cli.flag("data-dir").as_deref(), Some("/x"));
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        for args in [&["--jwt-secret", "x"][..], &["--database-url", "x"], &["serv"], &["--nope"], &["token"]]
        {
            assert!(parse(args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn settings_are_listed() {
        let cli = parse(&["settings", "--markdown"]).unwrap();
        assert!(matches!(cli.action, Action::Settings { markdown: true }));
        assert!(print_settings(true).starts_with("| environment |"));
        assert!(print_settings(false).contains("RELAY_LISTEN_ADDR\n    Where to listen"));
    }

    #[test]
    fn metrics_are_listed() {
        let cli = parse(&["metrics", "--markdown"]).unwrap();
        assert!(matches!(cli.action, Action::Metrics { markdown: true }));
        assert!(print_metrics(true).starts_with("| metric |"));
        assert!(print_metrics(false).contains("relay_tunnel_opened_total (counter)\n    Tunnels that"));
    }
}
