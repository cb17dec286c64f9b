//! A TURN server: coturn (Debian's package `coturn`), on loopback, with a port of its own and the shared
//! secret of `use-auth-secret`. Its client `turnutils_uclient` plays the browser.

use std::{net::UdpSocket, path::PathBuf};

use tempfile::TempDir;

use crate::{
    SOON,
    process::{Output, Process, command, run},
};

/// A running server.
#[derive(Debug)]
pub struct Turn {
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// The process.
    pub process: Process,
    _dir: TempDir,
}

/// Debian keeps daemons outside of a plain user's path.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed: Debian's package coturn has it"))
}

impl Turn {
    /// Starts one with this secret and waits until it listens.
    pub async fn start(secret: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // coturn cannot be given port 0: the system chooses one, and coturn takes it a moment later.
        let port = {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            socket.local_addr().expect("an address").port()
        };
        let config = dir.path().join("turnserver.conf");
        let text = format!(
            "listening-ip=127.0.0.1\nrelay-ip=127.0.0.1\nlistening-port={port}\nrealm=relay.test\n\
             use-auth-secret\nstatic-auth-secret={secret}\nallow-loopback-peers\nno-tls\nno-dtls\nno-cli\n\
             fingerprint\nverbose\nlog-file=stdout\nno-stdout-log=false\nsimple-log\n\
             userdb={dir}/turndb\npidfile={dir}/pid\n",
            dir = dir.path().display(),
        );
        std::fs::write(&config, text).expect("a file");
        let mut command = command(program("turnserver"));
        command.current_dir(dir.path()).arg("-c").arg(&config);
        let mut process = Process::start("turnserver", command);
        process
            .line("it listens", SOON, |line| {
                (line.contains("UDP listener opened") && line.contains(&port.to_string())).then_some(())
            })
            .await;
        Self { port, process, _dir: dir }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("turn:127.0.0.1:{}?transport=udp", self.port)
    }

    /// Allocates twice with this login and sends packets from one relayed address to the other.
    pub async fn try_login(&self, username: &str, credential: &str) -> Output {
        let mut client = command(program("turnutils_uclient"));
        // Client to client, five packets, one millisecond between them, no RTCP twin.
        client.args(["-v", "-y", "-c", "-n", "5", "-z", "1", "-p", &self.port.to_string()]);
        client.args(["-u", username, "-w", credential, "127.0.0.1"]);
        run(client).await
    }
}
