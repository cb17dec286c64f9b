//! What both programs tell the service manager, on a real socket: ready, stopping, alive.

use std::{io::ErrorKind, os::unix::net::UnixDatagram, sync::Mutex, time::Duration};

use http::StatusCode;
use nix::sys::signal::Signal;
use system_tests::{
    Agent, AgentOptions, LocalServer, Relay, RelayOptions, SOON, client, eventually, fetch, fleet,
    local::app, relay, stack::EMAIL,
};

/// Short, so that several signs of life come soon.
const WATCHDOG: Duration = Duration::from_millis(100);

/// Stands in for systemd: keeps the lines of all messages, in their order.
struct Manager {
    socket: UnixDatagram,
    /// What `NOTIFY_SOCKET` says of it.
    name: String,
    lines: Mutex<Vec<String>>,
}

impl Manager {
    fn start(dir: &std::path::Path) -> Self {
        let path = dir.join("notify").to_str().expect("a path in UTF-8").to_owned();
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_nonblocking(true).expect("it does not block");
        Self { socket, name: path, lines: Mutex::default() }
    }

    /// What has come so far.
    fn lines(&self) -> Vec<String> {
        let mut lines = self.lines.lock().expect("nobody has panicked");
        let mut message = [0; 4096];
        loop {
            match self.socket.recv(&mut message) {
                Ok(len) => {
                    let text = std::str::from_utf8(&message[..len]).expect("UTF-8");
                    lines.extend(text.lines().map(str::to_owned));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return lines.clone(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|l| *l == line).count()
    }

    async fn told(&self, what: &str, times: usize) {
        eventually(what, SOON, || async { self.count(what) >= times }).await;
    }

    /// How often it was told that the program lives, after it was told this.
    fn alive_after(&self, what: &str) -> usize {
        self.lines().iter().skip_while(|line| *line != what).filter(|line| *line == "WATCHDOG=1").count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_tells_that_it_serves_lives_and_drains() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let manager = Manager::start(dir.path());
    let listen = fleet::address();
    let options = RelayOptions::default()
        .portal()
        .env("NOTIFY_SOCKET", &manager.name)
        .env("WATCHDOG_USEC", WATCHDOG.as_micros());
    let mut process = relay::spawn(&options, dir.path(), listen);
    manager.told("READY=1", 1).await;
    // No second try: who waits for this message connects at once.
    assert_eq!(fetch(listen, client::get("/health")).await.status, StatusCode::OK);
    manager.told("WATCHDOG=1", 3).await;
    assert_eq!(manager.count("STOPPING=1"), 0);

    // An open request keeps the drain from its end: the relay lives on meanwhile.
    let mut open = system_tests::raw::RawConn::connect(listen).await;
    open.write("POST /v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
        .await
        .expect("it is sent");
    process.signal(Signal::SIGTERM);
    manager.told("STOPPING=1", 1).await;
    eventually("it lives on", SOON, || async { manager.alive_after("STOPPING=1") >= 2 }).await;
    drop(open);
    assert!(process.wait(SOON).await.success(), "{}", process.log());
    assert_eq!((manager.count("READY=1"), manager.count("STOPPING=1")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_relay_gives_no_sign_of_life_until_it_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let manager = Manager::start(dir.path());
    let options = RelayOptions::default()
        .env("NOTIFY_SOCKET", &manager.name)
        .env("WATCHDOG_USEC", WATCHDOG.as_micros());
    let process = relay::spawn(&options, dir.path(), fleet::address());
    manager.told("WATCHDOG=1", 1).await;
    process.signal(Signal::SIGSTOP);
    // What it had begun to send has come once its state says that it does nothing any more.
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).expect("it is there");
        stat.rsplit(") ").next().expect("a state").starts_with('T')
    };
    eventually("it is stopped", SOON, || async { state() }).await;
    let before = manager.count("WATCHDOG=1");
    tokio::time::sleep(WATCHDOG * 5).await;
    assert_eq!(manager.count("WATCHDOG=1"), before);
    process.signal(Signal::SIGCONT);
    manager.told("WATCHDOG=1", before + 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signs_of_life_that_another_process_owes_are_not_given() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let manager = Manager::start(dir.path());
    let options = RelayOptions::default()
        .env("NOTIFY_SOCKET", &manager.name)
        .env("WATCHDOG_USEC", WATCHDOG.as_micros())
        .env("WATCHDOG_PID", 1);
    let mut process = relay::spawn(&options, dir.path(), fleet::address());
    manager.told("READY=1", 1).await;
    process.signal(Signal::SIGTERM);
    assert!(process.wait(SOON).await.success(), "{}", process.log());
    assert_eq!(manager.lines(), ["READY=1", "STOPPING=1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_service_manager_is_gone_serves_on_and_says_so_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let listen = fleet::address();
    let options = RelayOptions::default()
        .env("NOTIFY_SOCKET", dir.path().join("nobody").display())
        .env("WATCHDOG_USEC", WATCHDOG.as_micros());
    let mut process = relay::spawn(&options, dir.path(), listen);
    let said = |line: &str| line.contains("cannot be told: Alive").then_some(());
    process.line("that nobody listens", SOON, said).await;
    process
        .line("the same of its readiness", SOON, |line| line.contains("cannot be told: Ready").then_some(()))
        .await;
    assert_eq!(fetch(listen, client::get("/health")).await.status, StatusCode::OK);
    tokio::time::sleep(WATCHDOG * 3).await;
    process.signal(Signal::SIGTERM);
    assert!(process.wait(SOON).await.success(), "{}", process.log());
    assert_eq!(process.log().lines().filter_map(said).count(), 1, "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_cannot_start_is_never_ready() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let manager = Manager::start(dir.path());
    // Without a key of the bus relays cannot meet each other.
    let options =
        RelayOptions::default().env("NOTIFY_SOCKET", &manager.name).env("RELAY_BACKPLANE_MODE", "server");
    let mut process = relay::spawn(&options, dir.path(), fleet::address());
    assert!(!process.wait(SOON).await.success());
    assert_eq!(manager.count("READY=1"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_ready_once_it_is_connected() {
    let local = LocalServer::router(app()).await;
    let mut relay =
        Relay::start(RelayOptions { listen: Some(fleet::address()), ..RelayOptions::default() }).await;
    let token = relay.user_with_token(EMAIL).await;
    relay.process.kill();

    let dir = tempfile::tempdir().expect("a temporary directory");
    let manager = Manager::start(dir.path());
    let options = AgentOptions::new(&relay.url(), &local.url(), &token, "told")
        .env("NOTIFY_SOCKET", &manager.name)
        .env("WATCHDOG_USEC", &WATCHDOG.as_micros().to_string());
    let mut agent = Agent::spawn(options);
    manager.told(&format!("STATUS=connecting to {}", relay.url()), 1).await;
    eventually("it says why it is not connected", SOON, || async {
        manager.lines().iter().any(|line| line.starts_with("STATUS=not connected: "))
    })
    .await;
    manager.told("WATCHDOG=1", 2).await;
    assert_eq!(manager.count("READY=1"), 0);

    relay.restart().await;
    manager.told("READY=1", 1).await;
    agent.connected().await;
    let connected = format!("STATUS=connected to {}", relay.url());
    manager.told(&connected, 1).await;
    eventually("it lives on", SOON, || async { manager.alive_after(&connected) >= 2 }).await;

    // A lost connection is told, and readiness not a second time.
    relay.restart().await;
    manager.told(&connected, 2).await;
    agent.signal(Signal::SIGTERM);
    assert!(agent.process.wait(SOON).await.success(), "{}", agent.process.log());
    assert_eq!((manager.count("READY=1"), manager.count("STOPPING=1")), (1, 1));
}
