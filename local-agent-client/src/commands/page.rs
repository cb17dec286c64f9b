//! `page`: a one-time link to the local page of the running agent. No browser is started with it: a program's
//! arguments are there for every user of the machine to read.

use super::{block_on, say};
use crate::cli;
use http::Method;
use local_agent_client::control::{Client, api::PageLink};
use std::{path::Path, process::ExitCode};

pub fn run(dir: &Path, args: &cli::Page) -> anyhow::Result<ExitCode> {
    let link: PageLink = block_on(async {
        let client = Client::find(dir).await?;
        Ok(client.ask(Method::POST, "/api/page", None::<&()>).await?)
    })?;
    if args.json {
        say(serde_json::to_value(&link)?)?;
    } else {
        say(&link.url)?;
    }
    Ok(ExitCode::SUCCESS)
}
