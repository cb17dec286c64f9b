//! `browsers`: through the running agent, so that a revocation is felt at once; on the file when none runs.

use super::{block_on, say, span};
use crate::cli::BrowsersAction;
use http::Method;
use local_agent_client::{
    control::{
        Client, ControlError,
        api::{BrowserList, BrowserView, Rename},
    },
    state::{StateDir, StateError},
    status::now,
    trust::Pairing,
};
use serde_json::json;
use std::{path::Path, process::ExitCode, sync::Arc};
use uuid::Uuid;

/// Who holds the list.
enum List {
    Agent(Client),
    File(Box<Pairing>),
}

impl List {
    async fn find(dir: &Path) -> anyhow::Result<Self> {
        match Client::find(dir).await {
            Ok(client) => Ok(Self::Agent(client)),
            Err(ControlError::NotRunning(_)) => match StateDir::open(dir) {
                Ok(state) => {
                    let pairing = Pairing::open(String::new(), Some(Arc::new(state)))?;
                    Ok(Self::File(Box::new(pairing)))
                }
                // One was started this moment.
                Err(StateError::InUse(_)) => Ok(Self::Agent(Client::find(dir).await?)),
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    async fn all(&self) -> anyhow::Result<BrowserList> {
        Ok(match self {
            Self::Agent(client) => client.ask(Method::GET, "/api/browsers", None::<&()>).await?,
            Self::File(pairing) => BrowserList { browsers: BrowserView::list(pairing) },
        })
    }

    async fn rename(&self, id: Uuid, name: &str) -> anyhow::Result<BrowserView> {
        let rename = Rename { name: name.to_owned() };
        Ok(match self {
            Self::Agent(client) => {
                client.ask(Method::PATCH, &format!("/api/browsers/{id}"), Some(&rename)).await?
            }
            Self::File(pairing) => BrowserView::new(pairing, &*pairing.browsers().rename(id, name)?),
        })
    }

    async fn revoke(&self, id: Uuid) -> anyhow::Result<()> {
        match self {
            Self::Agent(client) => {
                client.ask(Method::DELETE, &format!("/api/browsers/{id}"), None::<&()>).await?
            }
            Self::File(pairing) => {
                pairing.browsers().revoke(id)?;
            }
        }
        Ok(())
    }
}

pub fn run(dir: &Path, action: &BrowsersAction) -> anyhow::Result<ExitCode> {
    block_on(async {
        let list = match action {
            // Looking makes nothing: neither a folder nor keys.
            BrowsersAction::List { .. } if !dir.join("browsers.json").exists() => None,
            _ => Some(List::find(dir).await?),
        };
        match (action, list) {
            (BrowsersAction::List { json, .. }, list) => {
                let all = match list {
                    Some(list) => list.all().await?,
                    None => BrowserList { browsers: Vec::new() },
                };
                if *json { say(format_args!("{:#}", serde_json::to_value(&all)?))? } else { show(&all)? }
            }
            (BrowsersAction::Rename { id, name, json, .. }, Some(list)) => {
                let browser = list.rename(*id, name).await?;
                if *json {
                    say(format_args!("{:#}", serde_json::to_value(&browser)?))?;
                } else {
                    say(format_args!("{id} is called {} now", browser.name))?;
                }
            }
            (BrowsersAction::Revoke { id, json, .. }, Some(list)) => {
                list.revoke(*id).await?;
                if *json {
                    say(json!({ "id": id, "revoked": true }))?;
                } else {
                    say(format_args!("{id} is revoked: it has no access any more"))?;
                }
            }
            (_, None) => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn show(all: &BrowserList) -> anyhow::Result<()> {
    if all.browsers.is_empty() {
        return Ok(say("no browser is paired; `local-agent-client pair` pairs one")?);
    }
    for browser in &all.browsers {
        let told: Vec<_> = [&browser.browser, &browser.os, &browser.device]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect();
        let told = told.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        say(format_args!("{}  {}", browser.id, browser.name))?;
        if !told.is_empty() {
            say(format_args!("    {told}"))?;
        }
        say(format_args!("    fingerprint {}", browser.fingerprint))?;
        let ago = |at: i64| format!("{} ago", span(now() - at));
        say(format_args!("    paired {}, last used {}", ago(browser.created_at), ago(browser.last_used_at)))?;
    }
    Ok(())
}
