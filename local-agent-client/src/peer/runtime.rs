//! What the engine gets of tokio: its tasks belong to their peer, its sockets have room, and a name that
//! does not resolve holds nobody up.

use parking_lot::Mutex;
use socket2::SockRef;
use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};
use tokio::task::{AbortHandle, JoinHandle as Task};
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, Runtime, TokioRuntime,
};

/// Bytes that the system holds for a socket. Its default of some 200 kB overflows when a browser sends at
/// full speed and this task has to wait for its turn; the system may allow less.
const SOCKET_BUFFER: usize = 2 << 20;
/// How long the name of a STUN or TURN server may take: the engine's loop waits for it, and candidates are
/// gathered for 2 s in all.
const RESOLVE: Duration = Duration::from_millis(800);

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The tasks of one engine. They end with this.
#[derive(Debug, Default)]
pub struct Tasks(Mutex<Vec<AbortHandle>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.lock().drain(..).for_each(|task| task.abort());
    }
}

/// The runtime of one peer's engine.
#[derive(Debug)]
pub struct PeerRuntime {
    /// Not owned: the engine's tasks hold the runtime.
    tasks: std::sync::Weak<Tasks>,
}

impl PeerRuntime {
    /// A runtime, and what its tasks end with.
    pub fn start() -> (Arc<dyn Runtime>, Arc<Tasks>) {
        let tasks = Arc::new(Tasks::default());
        (Arc::new(Self { tasks: Arc::downgrade(&tasks) }), tasks)
    }
}

#[derive(Debug)]
struct Handle(Task<()>);

impl JoinHandle for Handle {
    /// Nothing to do: tokio's tasks go on without their handle.
    fn detach(&self) {}

    fn abort(&self) {
        self.0.abort();
    }

    fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Runtime for PeerRuntime {
    fn spawn(&self, future: Boxed<'static, ()>) -> Box<dyn JoinHandle> {
        let task = tokio::spawn(future);
        match self.tasks.upgrade() {
            Some(tasks) => {
                let mut tasks = tasks.0.lock();
                tasks.retain(|task| !task.is_finished());
                tasks.push(task.abort_handle());
            }
            None => task.abort(),
        }
        Box::new(Handle(task))
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        // What the system does not allow is done without.
        let _ = SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER);
        let _ = SockRef::from(&socket).set_send_buffer_size(SOCKET_BUFFER);
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn wrap_tcp_listener(&self, listener: std::net::TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        TokioRuntime.wrap_tcp_listener(listener)
    }

    /// Peers speak UDP alone: nothing that a browser says makes the agent open a connection.
    fn connect_tcp<'a>(&'a self, _: SocketAddr) -> Boxed<'a, io::Result<Arc<dyn AsyncTcpStream>>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }

    fn resolve_host<'a>(&'a self, host: &'a str) -> Boxed<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            match tokio::time::timeout(RESOLVE, tokio::net::lookup_host(host)).await {
                Ok(found) => found.map(Iterator::collect),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }

    fn sleep(&self, duration: Duration) -> Boxed<'static, ()> {
        TokioRuntime.sleep(duration)
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        TokioRuntime.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        TokioRuntime.block_on(future);
    }

    fn name(&self) -> &'static str {
        "tokio"
    }
}
