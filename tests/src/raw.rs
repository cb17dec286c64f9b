//! HTTP/1.1 by hand, for both ends: exact bytes out, exact bytes in, nothing tidied up.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// A head is never longer than this here.
const MAX_HEAD: usize = 1 << 20;

/// Start line and headers as they came, without the empty line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The bytes up to the empty line.
    pub bytes: Vec<u8>,
}

impl Head {
    /// As text, bytes that are no UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The first line.
    pub fn start_line(&self) -> String {
        self.text().split("\r\n").next().unwrap_or_default().to_owned()
    }

    /// The request target's bytes.
    pub fn target(&self) -> Vec<u8> {
        let line = self.bytes.split(|b| *b == b'\r').next().unwrap_or_default();
        line.split(|b| *b == b' ').nth(1).unwrap_or_default().to_vec()
    }

    /// The status of a response.
    pub fn status(&self) -> u16 {
        self.start_line().split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default()
    }

    /// Every value of a header.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.text()
            .split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim().to_owned())
            .collect()
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<String> {
        self.all(name).into_iter().next()
    }

    fn chunked(&self) -> bool {
        self.all("transfer-encoding").iter().any(|v| v.to_ascii_lowercase().contains("chunked"))
    }

    fn length(&self) -> Option<usize> {
        self.header("content-length").and_then(|v| v.parse().ok())
    }
}

/// A body, and whether it ended as its framing said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawBody {
    /// The bytes that came, chunks joined.
    pub bytes: Vec<u8>,
    /// Whether all of them came.
    pub complete: bool,
    /// The trailer section's lines.
    pub trailers: Vec<String>,
}

/// A connection at either end, with what was read too far.
#[derive(Debug)]
pub struct RawConn<T = TcpStream> {
    /// The connection itself.
    pub io: T,
    buffer: Vec<u8>,
}

impl RawConn {
    /// Connects to a server.
    pub async fn connect(addr: SocketAddr) -> Self {
        let tcp = TcpStream::connect(addr).await.expect("the server accepts");
        tcp.set_nodelay(true).expect("nodelay");
        Self::new(tcp)
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        // A linger of zero turns the close into a RST, which is the test's point.
        #[allow(deprecated)]
        self.io.set_linger(Some(std::time::Duration::ZERO)).ok();
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> RawConn<T> {
    /// Takes a connection.
    pub fn new(io: T) -> Self {
        Self { io, buffer: Vec::new() }
    }

    /// Sends bytes as they are. An error means that the peer has gone.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.io.write_all(bytes.as_ref()).await?;
        self.io.flush().await
    }

    async fn fill(&mut self) -> bool {
        matches!(self.io.read_buf(&mut self.buffer).await, Ok(n) if n > 0)
    }

    /// The next head, or `None` when the peer ends before one is whole.
    pub async fn head(&mut self) -> Option<Head> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                let mut bytes = std::mem::replace(&mut self.buffer, rest);
                bytes.truncate(end);
                return Some(Head { bytes });
            }
            assert!(self.buffer.len() < MAX_HEAD, "a head without an end");
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Up to `len` bytes; fewer when the peer ends first.
    pub async fn take(&mut self, len: usize) -> Vec<u8> {
        while self.buffer.len() < len {
            if !self.fill().await {
                break;
            }
        }
        let rest = self.buffer.split_off(len.min(self.buffer.len()));
        std::mem::replace(&mut self.buffer, rest)
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let rest = self.buffer.split_off(end + 2);
                let line = std::mem::replace(&mut self.buffer, rest);
                return Some(String::from_utf8_lossy(line.get(..end).unwrap_or_default()).into_owned());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Everything until the peer ends.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// The body of a request with this head.
    pub async fn request_body(&mut self, head: &Head) -> RawBody {
        if head.chunked() {
            return self.chunked().await;
        }
        let len = head.length().unwrap_or(0);
        let bytes = self.take(len).await;
        RawBody { complete: bytes.len() == len, bytes, trailers: Vec::new() }
    }

    /// The body of a response with this head to a request that was no HEAD.
    pub async fn response_body(&mut self, head: &Head) -> RawBody {
        if head.chunked() || head.length().is_some() || matches!(head.status(), 100..=199 | 204 | 304) {
            return self.request_body(head).await;
        }
        RawBody { bytes: self.rest().await, complete: true, trailers: Vec::new() }
    }

    /// One chunk with its size line, or `None` when it breaks off. Empty for the last one.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line().await?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no chunk size: {line:?}"));
        if size == 0 {
            return Some(Vec::new());
        }
        let mut bytes = self.take(size + 2).await;
        if bytes.len() < size + 2 {
            return None;
        }
        bytes.truncate(size);
        Some(bytes)
    }

    async fn chunked(&mut self) -> RawBody {
        let mut body = RawBody { bytes: Vec::new(), complete: false, trailers: Vec::new() };
        loop {
            match self.chunk().await {
                None => return body,
                Some(chunk) if chunk.is_empty() => break,
                Some(chunk) => body.bytes.extend(chunk),
            }
        }
        while let Some(line) = self.line().await {
            if line.is_empty() {
                body.complete = true;
                break;
            }
            body.trailers.push(line);
        }
        body
    }

    /// Whether the peer has ended the connection, by now or within the time.
    pub async fn ends(&mut self, within: std::time::Duration) -> bool {
        tokio::time::timeout(within, async { while self.fill().await {} }).await.is_ok()
    }
}

/// Sends these bytes on a connection of their own and reads one response. `None` when there is none.
pub async fn exchange(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Option<(Head, RawBody)> {
    let mut conn = RawConn::connect(addr).await;
    // The server may refuse before it has read all; its answer still counts.
    conn.write(bytes).await.ok();
    let head = conn.head().await?;
    let body = conn.response_body(&head).await;
    Some((head, body))
}
