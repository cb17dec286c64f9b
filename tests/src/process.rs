//! A child process: its log is read all the time, it is killed when the test ends, and when the test
//! fails the end of its log is printed.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Lines of log that are printed for a failed test.
const LOG_TAIL: usize = 60;

/// Names a folder with other binaries than those beside the tests: a release build, an older version.
const BIN_DIR: &str = "SYSTEM_TESTS_BIN_DIR";

/// The binary (or `examples/NAME`) beside the test executable, or in [`BIN_DIR`].
pub fn bin(name: &str) -> PathBuf {
    let folder = std::env::var_os(BIN_DIR).map(PathBuf::from).unwrap_or_else(|| {
        let test = std::env::current_exe().expect("the test executable has a path");
        // target/debug/deps/TEST
        let debug = test.parent().and_then(Path::parent);
        debug.expect("the test executable lies in target/debug/deps").to_owned()
    });
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{name} is not built: run `cargo build --workspace --bins --examples` before the system tests"
    );
    path
}

/// A command with nothing of the caller's environment but the search path: a proxy or a token that
/// the person who runs the tests has set must not change them.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null());
    for keep in ["PATH", "LD_LIBRARY_PATH", "TMPDIR"] {
        if let Some(value) = std::env::var_os(keep) {
            command.env(keep, value);
        }
    }
    command
}

/// What a command that ends by itself said.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a command to its end.
pub async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || {
        let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Output {
            status: out.status,
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    })
    .await
    .expect("the command's task ends")
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Process {
    /// Starts the command and reads both of its outputs into one log.
    pub fn start(name: &str, mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let log = Arc::new(Mutex::new(String::new()));
        if let Some(out) = child.stdout.take() {
            collect(out, Arc::clone(&log));
        }
        if let Some(err) = child.stderr.take() {
            collect(err, Arc::clone(&log));
        }
        Self { name: name.to_owned(), child, log }
    }

    /// Everything that it has printed so far.
    pub fn log(&self) -> String {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.log.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for a line of the log that `find` makes something of. Panics when the process ends first.
    pub async fn line<T>(&mut self, what: &str, within: Duration, find: impl Fn(&str) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            if let Some(found) = self.lock().lines().find_map(&find) {
                return found;
            }
            if let Some(status) = self.exited() {
                // Its last lines may still be on their way through the pipe.
                tokio::time::sleep(Duration::from_millis(200)).await;
                panic!("{} ended with {status} before: {what}\n{}", self.name, self.log());
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{}: not in its log: {what}\n{}",
                self.name,
                self.log()
            );
            tokio::time::sleep(crate::POLL).await;
        }
    }

    /// How it ended, when it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    pub async fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{} still runs after {within:?}\n{}",
                self.name,
                self.log()
            );
            tokio::time::sleep(crate::POLL).await;
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.nix_pid(), signal).unwrap_or_else(|e| panic!("{signal} to {}: {e}", self.name));
    }

    /// Kills it and waits until the system has taken everything back.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id is an i32"))
    }

    /// Resident memory in bytes, now.
    pub fn rss(&self) -> u64 {
        self.status_kib("VmRSS:") * 1024
    }

    /// The most resident memory in bytes since [`Process::reset_peak`].
    pub fn peak_rss(&self) -> u64 {
        self.status_kib("VmHWM:") * 1024
    }

    /// Forgets the peak of resident memory.
    pub fn reset_peak(&self) {
        // 5: "reset the peak resident set size" (proc(5)).
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").expect("clear_refs is writable");
    }

    fn status_kib(&self, key: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process runs");
        let line = status.lines().find_map(|l| l.strip_prefix(key)).expect("the kernel tells it");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    /// Open file descriptors.
    pub fn fds(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process runs").count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_TAIL);
            eprintln!("--- end of the log of {}", self.name);
            for line in lines.iter().skip(from) {
                eprintln!("    {line}");
            }
        }
    }
}

fn collect(from: impl Read + Send + 'static, log: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            log.lock().unwrap_or_else(|e| e.into_inner()).push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}
