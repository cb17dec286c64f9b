//! Real Redis servers of the test's own (Debian's package `redis-server`): on loopback, without a disk, to be
//! killed, frozen and started again; over TLS; and a pair of them watched by a Sentinel.

use std::net::TcpListener;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::SOON;
use crate::process::{Output, Process, command, run};

/// How often another port is tried when somebody else took the one that was free.
const PORT_TRIES: usize = 5;
const HINT: &str = "the system tests need Redis' programs; on Debian: apt-get install redis-server";

/// A server. It ends with the test.
#[derive(Debug)]
pub struct Redis {
    /// Where it listens on 127.0.0.1; over TLS if it was started so.
    pub port: u16,
    args: Vec<String>,
    process: Process,
    tls: Option<Tls>,
    _dir: TempDir,
}

#[derive(Debug)]
struct Tls {
    ca: PathBuf,
}

impl Redis {
    /// Starts one.
    pub async fn start() -> Self {
        Self::launch(|_| Vec::new(), false).await
    }

    /// Starts one that follows another.
    pub async fn replica_of(master: &Redis) -> Self {
        let of = ["--replicaof".to_owned(), "127.0.0.1".to_owned(), master.port.to_string()];
        Self::launch(|_| of.to_vec(), false).await
    }

    /// Starts one that wants this password.
    pub async fn with_password(password: &str) -> Self {
        let asked = ["--requirepass".to_owned(), password.to_owned()];
        Self::launch(|_| asked.to_vec(), false).await
    }

    /// Starts one that speaks TLS alone, with a certificate for `localhost`.
    pub async fn over_tls() -> Self {
        let files = |dir: &TempDir| {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
            let path = |name: &str| dir.path().join(name).display().to_string();
            std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).expect("a file");
            std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).expect("a file");
            let options = ["--tls-cert-file", &path("cert.pem"), "--tls-key-file", &path("key.pem")];
            let others = ["--tls-ca-cert-file", &path("cert.pem"), "--tls-auth-clients", "no"];
            options.iter().chain(&others).map(|&text| text.to_owned()).collect()
        };
        Self::launch(files, true).await
    }

    async fn launch(more: impl Fn(&TempDir) -> Vec<String>, tls: bool) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let more = more(&dir);
        for _ in 0..PORT_TRIES {
            let port = free_port();
            let mut args = vec!["--bind".to_owned(), "127.0.0.1".to_owned(), "--dir".to_owned()];
            args.push(dir.path().display().to_string());
            let ports =
                if tls { ["0".to_owned(), port.to_string()] } else { [port.to_string(), "0".to_owned()] };
            let [plain, secure] = ports;
            args.extend(["--port".to_owned(), plain, "--tls-port".to_owned(), secure]);
            // Nothing on disk: whoever comes back has forgotten everything. Replicas follow at once.
            let quiet = ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"];
            args.extend(quiet.map(str::to_owned));
            args.extend(more.clone());
            if let Some(process) = run_server(&args).await {
                let tls = tls.then(|| Tls { ca: dir.path().join("cert.pem") });
                return Self { port, args, process, tls, _dir: dir };
            }
        }
        panic!("no port stayed free for Redis");
    }

    /// Its URL.
    pub fn url(&self) -> String {
        match &self.tls {
            Some(_) => format!("rediss://localhost:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// The file with the root of its certificate.
    pub fn ca(&self) -> Option<PathBuf> {
        self.tls.as_ref().map(|tls| tls.ca.clone())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// It comes back on the same port, without its memory.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = run_server(&self.args).await.expect("its port is still free");
    }

    /// It answers no more, and its connections stay open.
    pub fn freeze(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// It goes on.
    pub fn thaw(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    /// What `redis-cli` says to a command.
    pub async fn cli(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.try_cli(args).await;
        assert!(status.success(), "redis-cli {args:?}: {stderr}");
        stdout.trim().to_owned()
    }

    /// Publishes messages, each to its channel, one after the other over one connection: for those that no command
    /// line takes, and for many.
    pub async fn publish(&self, messages: &[(String, Vec<u8>)]) {
        let mut connection =
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.expect("Redis listens");
        let (reading, mut writing) = connection.split();
        let asking = async {
            for (channel, message) in messages {
                let mut command = format!(
                    "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n",
                    channel.len(),
                    message.len()
                )
                .into_bytes();
                command.extend_from_slice(message);
                command.extend_from_slice(b"\r\n");
                writing.write_all(&command).await.expect("Redis reads");
            }
        };
        let answered = async {
            let mut lines = BufReader::new(reading).lines();
            for _ in messages {
                let line = lines.next_line().await.expect("Redis answers").expect("an answer");
                assert!(line.starts_with(':'), "{line}");
            }
        };
        tokio::join!(asking, answered);
    }

    async fn try_cli(&self, args: &[&str]) -> Output {
        let mut cli = command("redis-cli");
        cli.args(["-h", "127.0.0.1", "-p"]).arg(self.port.to_string());
        if let Some(tls) = &self.tls {
            cli.args(["--tls", "--sni", "localhost", "--cacert"]).arg(&tls.ca);
        }
        cli.args(args);
        run(cli).await
    }
}

/// Watches a master and makes its replica the next one.
#[derive(Debug)]
pub struct Sentinel {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    _process: Process,
    _dir: TempDir,
}

impl Sentinel {
    /// Starts one that watches `master` under this name, and waits until it knows of a replica.
    pub async fn start(name: &str, master: &Redis) -> Self {
        for _ in 0..PORT_TRIES {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let port = free_port();
            let config = dir.path().join("sentinel.conf");
            let text = format!(
                "bind 127.0.0.1\nport {port}\ndir {}\nsentinel monitor {name} 127.0.0.1 {} 1\n\
                 sentinel down-after-milliseconds {name} 1000\nsentinel failover-timeout {name} 3000\n",
                dir.path().display(),
                master.port,
            );
            std::fs::write(&config, text).expect("a file");
            let mut server = command("redis-server");
            server.arg(&config).arg("--sentinel");
            let mut process = Process::start("redis-sentinel", server);
            let ready = |line: &str| {
                let taken = line.contains("Address already in use");
                (taken || line.contains("+slave slave")).then_some(!taken)
            };
            if process.line("it knows the replica", SOON, ready).await {
                return Self { port, _process: process, _dir: dir };
            }
        }
        panic!("no port stayed free for the Sentinel");
    }
}

/// `None`: the port was taken meanwhile.
async fn run_server(args: &[String]) -> Option<Process> {
    let mut server = command("redis-server");
    server.args(args);
    let mut process = Process::start("redis-server", server);
    let ready = |line: &str| {
        let taken = line.contains("Address already in use");
        (taken || line.contains("Ready to accept connections")).then_some(!taken)
    };
    process.line(HINT, SOON, ready).await.then_some(process)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}
