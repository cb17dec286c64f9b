//! A link between two programs that is slow, or that goes silent without closing.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::Instant,
};

/// Bytes that move at once.
const SLICE: usize = 16 * 1024;

/// Kernel buffers of a throttled link: with the default ones megabytes would pass before the rate is felt.
const SOCKET_BUFFER: u32 = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Frozen,
}

#[derive(Debug)]
struct Link {
    state: watch::Sender<State>,
    task: AbortHandle,
}

/// Bytes per second in each direction; `None` is as fast as it goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rate {
    /// From the one that connected to the target.
    pub up: Option<u64>,
    /// From the target to the one that connected.
    pub down: Option<u64>,
}

/// The forwarder.
#[derive(Debug)]
pub struct Throttle {
    /// Where to connect instead of the target.
    pub addr: SocketAddr,
    links: Arc<Mutex<Vec<Link>>>,
    blocked: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

impl Throttle {
    /// Forwards every connection to the target at this rate.
    pub async fn start(target: SocketAddr, rate: Rate) -> Self {
        let listener = if rate.up.is_some() {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_recv_buffer_size(SOCKET_BUFFER).expect("a buffer size");
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
            socket.listen(128).expect("it listens")
        } else {
            TcpListener::bind("127.0.0.1:0").await.expect("a port")
        };
        let addr = listener.local_addr().expect("an address");
        let links = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&links);
        let blocked = Arc::new(AtomicBool::new(false));
        let refuse = Arc::clone(&blocked);
        let task = tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                if refuse.load(Ordering::SeqCst) {
                    continue;
                }
                let (state, watch) = watch::channel(State::Open);
                let task = tokio::spawn(forward(from, target, rate, watch)).abort_handle();
                all.lock().expect("not poisoned").push(Link { state, task });
            }
        });
        Self { addr, links, blocked, task }
    }

    /// Its URL, for an agent.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> usize {
        self.links.lock().expect("not poisoned").len()
    }

    /// Moves nothing more on the connections that exist, and closes none: what either end does stays
    /// unknown to the other. New connections pass.
    pub fn freeze(&self) {
        for link in self.links.lock().expect("not poisoned").iter() {
            link.state.send_replace(State::Frozen);
        }
    }

    /// Moves on where [`Throttle::freeze`] stopped.
    pub fn thaw(&self) {
        for link in self.links.lock().expect("not poisoned").iter() {
            link.state.send_replace(State::Open);
        }
    }

    /// Closes the connections that are frozen: the late end of the old socket.
    pub fn cut_frozen(&self) {
        for link in self.links.lock().expect("not poisoned").iter() {
            if *link.state.borrow() == State::Frozen {
                link.task.abort();
            }
        }
    }

    /// Closes every connection and lets no new one pass, or lets them pass again.
    pub fn block(&self, block: bool) {
        self.blocked.store(block, Ordering::SeqCst);
        if block {
            self.cut();
        }
    }

    /// Closes every connection.
    pub fn cut(&self) {
        for link in self.links.lock().expect("not poisoned").iter() {
            link.task.abort();
        }
    }
}

async fn forward(from: TcpStream, target: SocketAddr, rate: Rate, state: watch::Receiver<State>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    if rate.down.is_some() {
        socket.set_recv_buffer_size(SOCKET_BUFFER).expect("a buffer size");
    }
    let Ok(to) = socket.connect(target).await else { return };
    from.set_nodelay(true).ok();
    to.set_nodelay(true).ok();
    let (from_read, from_write) = from.into_split();
    let (to_read, to_write) = to.into_split();
    tokio::join!(
        copy(from_read, to_write, rate.up, state.clone()),
        copy(to_read, from_write, rate.down, state)
    );
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    rate: Option<u64>,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; SLICE];
    let mut next = Instant::now();
    loop {
        let read = from.read(&mut buffer).await;
        // A frozen link passes on neither bytes nor their end.
        if state.wait_for(|s| *s == State::Open).await.is_err() {
            return;
        }
        let n = match read {
            Ok(n) if n > 0 => n,
            _ => break,
        };
        if let Some(rate) = rate {
            tokio::time::sleep_until(next).await;
            next = next.max(Instant::now()) + Duration::from_secs_f64(n as f64 / rate as f64);
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            break;
        }
    }
    to.shutdown().await.ok();
}
