//! `pair`: shows a code, waits for its end, and tells it.

use super::{INTERRUPTED, block_on, say, span};
use crate::cli;
use local_agent_client::{
    control::{
        Client,
        api::{EndView, NewCode},
    },
    platform::Interrupts,
    qr,
    status::now,
    trust::Outcome,
};
use std::{
    io::{IsTerminal, stdout},
    path::Path,
    process::ExitCode,
};

pub fn run(dir: &Path, args: &cli::Pair) -> anyhow::Result<ExitCode> {
    block_on(async {
        let mut interrupts = Interrupts::listen()?;
        let begin = async {
            let client = Client::find(dir).await?;
            client.pair(args.life).await
        };
        let (code, waiting) = tokio::select! {
            begun = begin => begun?,
            () = interrupts.next() => return Ok(ExitCode::from(INTERRUPTED)),
        };
        show(&code, args)?;
        let ended = tokio::select! {
            ended = waiting.ended() => ended?,
            // The code ends with the connection.
            () = interrupts.next() => {
                let withdrawn = EndView { number: code.number, outcome: Outcome::Withdrawn };
                tell(&withdrawn, args.json)?;
                return Ok(ExitCode::from(INTERRUPTED));
            }
        };
        tell(&ended, args.json)?;
        let paired = matches!(ended.outcome, Outcome::Paired { .. });
        Ok(if paired { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

fn show(code: &NewCode, args: &cli::Pair) -> anyhow::Result<()> {
    if args.json {
        let NewCode { number, code, expires_at, link, .. } = code;
        let line = serde_json::json!({
            "event": "code", "number": number, "code": code, "expires_at": expires_at, "link": link,
        });
        return Ok(say(line)?);
    }
    let (first, last) = code.code.split_at_checked(3).unwrap_or((&code.code, ""));
    say(format_args!("Code: {first} {last}"))?;
    say(format_args!("Good for {} and one attempt.", span(code.expires_at - now())))?;
    say(format_args!("Open {} on the other device, and type it there.", code.link))?;
    if (args.qr || stdout().is_terminal())
        && let Some(blocks) = qr::blocks(&code.link)
    {
        say(format_args!("\n{blocks}\n"))?;
    }
    Ok(say("Waiting for the browser … (Ctrl-C voids the code)")?)
}

fn tell(ended: &EndView, json: bool) -> anyhow::Result<()> {
    if json {
        let mut line = serde_json::to_value(ended)?;
        if let Some(object) = line.as_object_mut() {
            object.insert("event".to_owned(), "ended".into());
        }
        return Ok(say(line)?);
    }
    match &ended.outcome {
        Outcome::Paired { name, fingerprint, .. } => {
            say(format_args!("Paired: {name}"))?;
            say(format_args!("Fingerprint: {fingerprint} (the browser shows the same)"))?
        }
        Outcome::FailedGuess => say(
            "A wrong code was tried, and this one is void: a digit was mistyped, or somebody guessed. Nobody was let in; run `pair` again.",
        )?,
        Outcome::Expired => say("The code expired unused. Run `pair` again for another one.")?,
        Outcome::Replaced => say("The code was replaced: another one was asked for.")?,
        Outcome::Withdrawn => say("The code is void.")?,
        Outcome::IssuerRevoked => say("The code is void: the browser that asked for it was revoked.")?,
        Outcome::NotAdded { reason } => {
            say(format_args!("The code was right, but the browser could not be paired: {reason}."))?
        }
    }
    Ok(())
}
