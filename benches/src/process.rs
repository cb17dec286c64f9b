//! Child processes, and what Linux tells about them under /proc.

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// Clock ticks per second in /proc/PID/stat: fixed in Linux's interface (USER_HZ).
const TICKS: f64 = 100.0;

/// A process of a contestant. Ended when it is dropped.
#[derive(Debug)]
pub struct Process {
    /// What it is called in the tables.
    pub name: &'static str,
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts it, its output in `log`.
    pub fn start(name: &'static str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let out = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let errors = out.try_clone()?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(errors).spawn();
        let child = child.with_context(|| format!("starting {name}"))?;
        let pid = child.id().context("it has no process id")?;
        Ok(Self { name, child, pid, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// CPU seconds that it and the workers it started have used.
    pub fn cpu_seconds(&self) -> f64 {
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let stats = all.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        stats
            .filter_map(|stat| Stat::parse(&stat))
            .filter(|s| s.pid == self.pid || s.parent == self.pid)
            .map(|s| s.cpu)
            .sum()
    }

    /// Fails when it has ended, with what it said.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("{} has ended: {status}; it said:\n{said}", self.name)
            }
            None => Ok(()),
        }
    }

    /// Asks it to end and waits.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        terminate(self.pid);
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Not a kill: a killed nginx would leave its workers behind.
        if let Ok(None) = self.child.try_wait() {
            terminate(self.pid);
        }
    }
}

/// SIGTERM, by the program that every Unix has: the workspace forbids the system call's `unsafe`.
fn terminate(pid: u32) {
    let _ =
        std::process::Command::new("kill").arg("-TERM").arg(pid.to_string()).stderr(Stdio::null()).status();
}

struct Stat {
    pid: u32,
    parent: u32,
    cpu: f64,
}

impl Stat {
    /// proc(5): pid (name) state ppid …, utime and stime are fields 14 and 15. The name may hold anything.
    fn parse(stat: &str) -> Option<Self> {
        let pid = stat.split(' ').next()?.parse().ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some(Self { pid, parent: fields.get(1)?.parse().ok()?, cpu: (number(11)? + number(12)?) / TICKS })
    }
}

/// CPU seconds that this process has used.
pub fn own_cpu_seconds() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    Stat::parse(&stat).map(|stat| stat.cpu).context("/proc/self/stat cannot be read")
}

/// Resident memory of a process in KiB.
pub fn rss_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} has ended"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Resident memory once it no longer moves: four samples in a row within half a percent, or the last
/// one after 20 s.
pub async fn settled_rss_kib(pid: u32) -> anyhow::Result<u64> {
    let until = Instant::now() + Duration::from_secs(20);
    let mut samples = Vec::new();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = rss_kib(pid)?;
        samples.push(now);
        let last = samples.iter().rev().take(4);
        let steady = samples.len() >= 4 && last.clone().all(|kib| kib.abs_diff(now) * 200 <= now);
        if steady || Instant::now() > until {
            return Ok(now);
        }
    }
}

/// This program again, with another subcommand; its lines of JSON are read one by one. Killed when dropped.
pub struct Part {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    what: String,
}

impl Part {
    /// Starts it.
    pub fn start<S: AsRef<str>>(args: &[S]) -> anyhow::Result<Self> {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let mut command = Command::new(std::env::current_exe()?);
        let mut child =
            command.args(&args).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let out = child.stdout.take().context("no output")?;
        Ok(Self { child, lines: BufReader::new(out).lines(), what: args.join(" ") })
    }

    /// Its next line.
    pub async fn next<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        match self.lines.next_line().await? {
            Some(line) => Ok(serde_json::from_str(&line)?),
            None => bail!("`benches {}` ended without an answer: {}", self.what, self.child.wait().await?),
        }
    }

    /// Ends it and waits, so that it uses nothing of what is measured next.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Runs a part that gives one answer.
pub async fn part<T: DeserializeOwned, S: AsRef<str>>(args: &[S]) -> anyhow::Result<T> {
    let mut part = Part::start(args)?;
    let answer = part.next().await?;
    part.child.wait().await?;
    Ok(answer)
}

/// What a short program prints; an error with its own words when it fails.
pub async fn output(command: &mut Command) -> anyhow::Result<String> {
    let done = command.stdin(Stdio::null()).output().await?;
    if !done.status.success() {
        bail!("{:?}: {}", command.as_std(), String::from_utf8_lossy(&done.stderr));
    }
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}

/// An address that was free a moment ago: for programs that cannot say which port they were given.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Asks again until there is an answer.
pub async fn until<T, F: Future<Output = anyhow::Result<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("waiting for {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_are_read_past_odd_names() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 5 6 7";
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.pid, stat.parent, stat.cpu), (42, 7, 3.0));
        assert!(Stat::parse("42 (a").is_none());
    }

    #[test]
    fn own_memory_is_known() {
        assert!(rss_kib(std::process::id()).unwrap() > 100);
    }
}
