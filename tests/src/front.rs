//! What stands in front of a relay and says to agents which relay it is and where others are, whatever the relay
//! says itself.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// The end of a head.
const END: &[u8] = b"\r\n\r\n";

/// A running front. What came through it ends with it.
#[derive(Debug)]
pub struct Front {
    /// Where it listens.
    pub addr: SocketAddr,
    others: Arc<Mutex<String>>,
    connects: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Front {
    /// Stands in front of `relay`, which it calls `id`.
    pub async fn start(relay: SocketAddr, id: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let others = Arc::new(Mutex::new(String::new()));
        let connects = Arc::new(Mutex::new(0));
        let (offered, counted) = (Arc::clone(&others), Arc::clone(&connects));
        let task = tokio::spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((agent, _)) = listener.accept().await {
                *counted.lock().expect("not poisoned") += 1;
                let others = offered.lock().expect("not poisoned").clone();
                links.spawn(pass(agent, relay, id, others));
            }
        });
        Self { addr, others, connects, task }
    }

    /// Offers these from now on.
    pub fn offer(&self, others: &[&str]) {
        *self.others.lock().expect("not poisoned") = others.join(", ");
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Connections that came so far.
    pub fn connects(&self) -> usize {
        *self.connects.lock().expect("not poisoned")
    }
}

async fn pass(mut agent: TcpStream, relay: SocketAddr, id: &str, others: String) {
    let Ok(mut relay) = TcpStream::connect(relay).await else { return };
    agent.set_nodelay(true).ok();
    relay.set_nodelay(true).ok();
    let (mut from_agent, mut to_agent) = agent.split();
    let (mut from_relay, mut to_relay) = relay.split();
    let up = async {
        copy(&mut from_agent, &mut to_relay).await.ok();
        to_relay.shutdown().await.ok();
    };
    let down = async {
        let mut head = Vec::new();
        while !head.ends_with(END) {
            match from_relay.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).expect("a head in ASCII");
        let kept = head.lines().filter(|line| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            !line.is_empty() && name != "x-relay-id" && name != "x-relay-others"
        });
        let mut head: String = kept.map(|line| format!("{line}\r\n")).collect();
        head += &format!("x-relay-id: {id}\r\n");
        if !others.is_empty() {
            head += &format!("x-relay-others: {others}\r\n");
        }
        head += "\r\n";
        if to_agent.write_all(head.as_bytes()).await.is_ok() {
            copy(&mut from_relay, &mut to_agent).await.ok();
        }
        to_agent.shutdown().await.ok();
    };
    tokio::join!(up, down);
}
