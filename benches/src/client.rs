//! A lean HTTP/1.1 client, the same for every contestant.
//!
//! It does little on purpose: on a machine of two cores the client's own work is taken from what is
//! measured. It understands what the origin sends (a fixed Content-Length) and refuses the rest, so
//! that a contestant that answers something else shows as an error and not as speed.

use anyhow::{Context as _, bail, ensure};
use std::time::Instant;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A response head at the most: what an honest server sends is a tenth of it.
const MAX_HEAD: usize = 16 << 10;

/// Bytes that are read or written at a time in bulk.
const PIECE: usize = 256 << 10;

/// Where to, taken from `http://host:port/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `host:port`.
    pub authority: String,
    /// The path with its query, from the first slash.
    pub path: String,
}

impl Target {
    /// Reads a URL. A missing path is `/`.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let rest =
            url.strip_prefix("http://").with_context(|| format!("{url} does not begin with http://"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        ensure!(!authority.is_empty(), "{url} names no host");
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { authority: authority.to_owned(), path: path.to_owned() })
    }

    /// The same server with `suffix` below this path.
    pub fn below(&self, suffix: &str) -> Self {
        let path = format!("{}{suffix}", self.path.trim_end_matches('/'));
        Self { authority: self.authority.clone(), path }
    }

    /// The head of a request without a body, or with one that the caller sends.
    pub fn head(&self, method: &str, headers: &str) -> String {
        format!("{method} {} HTTP/1.1\r\nhost: {}\r\n{headers}\r\n", self.path, self.authority)
    }
}

/// A keep-alive connection.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    /// What was read and not yet used.
    buffer: Vec<u8>,
}

/// The head of a response, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// The body's length.
    pub length: u64,
}

impl Connection {
    /// Connects.
    pub async fn open(target: &Target) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(&target.authority)
            .await
            .with_context(|| format!("connecting to {}", target.authority))?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, buffer: Vec::with_capacity(MAX_HEAD) })
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.socket.write_all(bytes).await?)
    }

    /// Reads a response's head; the body's first bytes stay in the buffer.
    pub async fn head(&mut self) -> anyhow::Result<Head> {
        loop {
            if let Some((head, used)) = parse_head(&self.buffer)? {
                self.buffer.drain(..used);
                return Ok(head);
            }
            ensure!(self.buffer.len() < MAX_HEAD, "the response's head does not end");
            ensure!(
                self.socket.read_buf(&mut self.buffer).await? > 0,
                "the connection ended before the response"
            );
        }
    }

    /// Reads a small body whole.
    pub async fn body(&mut self, length: u64) -> anyhow::Result<Vec<u8>> {
        let length = usize::try_from(length)?;
        while self.buffer.len() < length {
            ensure!(
                self.socket.read_buf(&mut self.buffer).await? > 0,
                "the connection ended inside the body"
            );
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    /// Reads a large body and forgets it.
    pub async fn discard(&mut self, length: u64) -> anyhow::Result<()> {
        let mut left =
            length.checked_sub(self.buffer.len() as u64).context("more came than the response announced")?;
        self.buffer.clear();
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let read = self.socket.read(&mut piece).await?;
            ensure!(read > 0, "the connection ended {left} bytes early");
            left = left.checked_sub(read as u64).context("more came than the response announced")?;
        }
        Ok(())
    }

    /// One small request whole: what load measures. Returns the body's length.
    pub async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<u64> {
        self.send(request).await?;
        let head = self.head().await?;
        ensure!(head.status == 200, "status {}", head.status);
        let length = usize::try_from(head.length)?;
        while self.buffer.len() < length {
            ensure!(
                self.socket.read_buf(&mut self.buffer).await? > 0,
                "the connection ended inside the body"
            );
        }
        self.buffer.drain(..length);
        Ok(head.length)
    }
}

/// The head at the front of `bytes` and how long it is, or `None` while it is incomplete.
fn parse_head(bytes: &[u8]) -> anyhow::Result<Option<(Head, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(bytes.get(..end).unwrap_or_default())
        .context("the response's head is not text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let status = status.context("the response has no status")?;
    let mut length = None;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse().context("the content length is no number")?);
        }
    }
    let Some(length) = length else { bail!("status {status} without a content length") };
    Ok(Some((Head { status, length }, end + 4)))
}

/// A request of its own connection, answered whole: for setting things up.
pub async fn call(target: &Target, method: &str, headers: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut connection = Connection::open(target).await?;
    connection.send(target.head(method, headers).as_bytes()).await?;
    let head = connection.head().await?;
    Ok((head.status, connection.body(head.length).await?))
}

/// Seconds that a download of this size takes, from the request to the last byte.
pub async fn download(base: &Target, bytes: u64) -> anyhow::Result<f64> {
    let target = base.below(&format!("/bytes/{bytes}"));
    let mut connection = Connection::open(&target).await?;
    let began = Instant::now();
    connection.send(target.head("GET", "").as_bytes()).await?;
    let head = connection.head().await?;
    ensure!(head == Head { status: 200, length: bytes }, "{head:?} where {bytes} bytes were asked for");
    connection.discard(head.length).await?;
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds that an upload of this size takes, from the request to the answer, which says how much arrived.
pub async fn upload(base: &Target, bytes: u64) -> anyhow::Result<f64> {
    let target = base.below("/upload");
    let mut connection = Connection::open(&target).await?;
    let piece = vec![b'u'; PIECE];
    let began = Instant::now();
    connection.send(target.head("POST", &format!("content-length: {bytes}\r\n")).as_bytes()).await?;
    let mut left = bytes;
    while left > 0 {
        let take = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        connection.send(piece.get(..take).unwrap_or_default()).await?;
        left -= take as u64;
    }
    let head = connection.head().await?;
    let answer = connection.body(head.length).await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(
        head.status == 200 && answer == bytes.to_string().as_bytes(),
        "status {}, {} arrived",
        head.status,
        String::from_utf8_lossy(&answer)
    );
    Ok(seconds)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn urls_split_into_authority_and_path() {
        let target = Target::parse("http://127.0.0.1:80/a/b?c").unwrap();
        assert_eq!((target.authority.as_str(), target.path.as_str()), ("127.0.0.1:80", "/a/b?c"));
        assert_eq!(Target::parse("http://h").unwrap().path, "/");
        assert_eq!(Target::parse("http://h/a/").unwrap().below("/small").path, "/a/small");
        assert_eq!(Target::parse("http://h").unwrap().below("/small").path, "/small");
        assert!(Target::parse("https://h/").is_err());
        assert!(Target::parse("http:///a").is_err());
    }

    #[test]
    fn heads_are_read_when_they_are_whole() {
        let whole = b"HTTP/1.1 200 OK\r\nA: b\r\nContent-LENGTH: 7\r\n\r\nrest";
        assert_eq!(parse_head(whole).unwrap(), Some((Head { status: 200, length: 7 }, whole.len() - 4)));
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n").unwrap(), None);
        assert!(parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(parse_head(b"nonsense\r\n\r\n").is_err());
    }
}
