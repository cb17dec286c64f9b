//! A scripted yamux session between a browser (client) and an agent (server), as tokio-yamux speaks it:
//! what either end does, and every frame that goes over the line for it, in order.

use super::hex;
use bytes::BytesMut;
use futures_util::Stream;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::codec::{Decoder, Encoder};
use tokio_yamux::frame::{Flag, Flags, Frame, FrameCodec, GoAwayCode, Type};
use tokio_yamux::session::{Session, SessionType};
use tokio_yamux::{Config, StreamHandle};

/// What yamux starts with.
const FIRST_WINDOW: u32 = 256 * 1024;
/// What the agent lets a browser send on one stream.
const AGENT_WINDOW: u32 = 512 * 1024;
/// Bytes of a frame at the most (PROTOCOL.md section 6.2).
const FRAME: usize = 32 * 1024;

/// One end's line: what it reads, and what it has written.
#[derive(Clone, Default)]
struct Wire {
    to_read: Arc<Mutex<VecDeque<u8>>>,
    written: Arc<Mutex<BytesMut>>,
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut bytes = self.to_read.lock().unwrap();
        if bytes.is_empty() {
            return Poll::Pending;
        }
        let count = buf.remaining().min(bytes.len());
        buf.put_slice(&bytes.drain(..count).collect::<Vec<_>>());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.written.lock().unwrap().extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct End {
    session: Session<Wire>,
    wire: Wire,
    streams: BTreeMap<u32, StreamHandle>,
    /// What it has sent and the other has not got.
    codec: FrameCodec,
    refuses: bool,
}

impl End {
    fn new(ty: SessionType, window: u32, streams: usize) -> Self {
        let config = Config {
            enable_keepalive: false,
            max_stream_count: streams,
            max_stream_window_size: window,
            ..Config::default()
        };
        let wire = Wire::default();
        Self {
            session: Session::new(wire.clone(), config, ty),
            wire,
            streams: BTreeMap::new(),
            codec: FrameCodec::default(),
            refuses: ty == SessionType::Client,
        }
    }

    /// Polls until nothing happens any more, and takes what was delivered out of the streams' channels.
    fn settle(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..64 {
            match Pin::new(&mut self.session).poll_next(&mut cx) {
                // A browser takes no streams.
                Poll::Ready(Some(Ok(stream))) if self.refuses => drop(stream),
                Poll::Ready(Some(Ok(stream))) => {
                    self.streams.insert(stream.id(), stream);
                }
                Poll::Ready(Some(Err(error))) => panic!("the session failed: {error}"),
                Poll::Ready(None) | Poll::Pending => {}
            }
            for stream in self.streams.values_mut() {
                let _ = stream.poll_peek(&mut cx, &mut ReadBuf::new(&mut []));
            }
        }
    }

    fn write(&mut self, id: u32, bytes: &[u8]) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        let stream = self.streams.get_mut(&id).unwrap();
        let mut taken = 0;
        while taken < bytes.len() {
            let piece = &bytes[taken..bytes.len().min(taken + FRAME)];
            match Pin::new(&mut *stream).poll_write(&mut cx, piece) {
                Poll::Ready(Ok(count)) => taken += count,
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => break,
            }
        }
        taken
    }

    fn read(&mut self, id: u32, count: usize) -> Vec<u8> {
        let mut cx = Context::from_waker(Waker::noop());
        let stream = self.streams.get_mut(&id).unwrap();
        let mut all = Vec::new();
        while all.len() < count {
            let mut room = vec![0; count - all.len()];
            let mut buf = ReadBuf::new(&mut room);
            match Pin::new(&mut *stream).poll_read(&mut cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => all.extend_from_slice(buf.filled()),
                _ => break,
            }
        }
        all
    }

    fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        self.codec.encode(frame, &mut bytes).unwrap();
        self.wire.written.lock().unwrap().extend_from_slice(&bytes);
    }
}

/// What one end does.
enum Does {
    Open,
    Write(u32, Vec<u8>),
    Read(u32, usize),
    Finish(u32),
    Reset(u32),
    Ping(u32),
    GoAway,
}

struct Script {
    browser: End,
    agent: End,
    steps: Vec<Value>,
}

const BROWSER: bool = true;
const AGENT: bool = false;

impl Script {
    fn new(streams: usize) -> Self {
        Self {
            browser: End::new(SessionType::Client, FIRST_WINDOW, 1000),
            agent: End::new(SessionType::Server, AGENT_WINDOW, streams),
            steps: Vec::new(),
        }
    }

    fn step(&mut self, what: &str, by: bool, does: Does) {
        let end = if by == BROWSER { &mut self.browser } else { &mut self.agent };
        let mut cx = Context::from_waker(Waker::noop());
        let does = match does {
            Does::Open => {
                let stream = end.session.open_stream().unwrap();
                let id = stream.id();
                end.streams.insert(id, stream);
                json!({ "open": id })
            }
            Does::Write(id, bytes) => {
                let taken = end.write(id, &bytes);
                json!({ "write": id, "payload": payload(&bytes), "taken": taken })
            }
            Does::Read(id, count) => {
                let read = end.read(id, count);
                json!({ "read": id, "up_to": count, "payload": payload(&read) })
            }
            Does::Finish(id) => {
                let stream = end.streams.get_mut(&id).unwrap();
                assert!(Pin::new(stream).poll_shutdown(&mut cx).is_ready());
                json!({ "finish": id })
            }
            Does::Reset(id) => {
                drop(end.streams.remove(&id).unwrap());
                json!({ "reset": id })
            }
            Does::Ping(number) => {
                end.send(Frame::new_ping(Flags::from(Flag::Syn), number));
                json!({ "ping": number })
            }
            Does::GoAway => {
                end.session.shutdown(&mut cx).unwrap();
                json!({ "go_away": GoAwayCode::Normal as u32 })
            }
        };
        let frames = self.exchange();
        let by = if by == BROWSER { "browser" } else { "agent" };
        self.steps.push(json!({ "what": what, "by": by, "does": does, "frames": frames }));
    }

    /// Carries everything to and fro until nobody says anything any more.
    fn exchange(&mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            self.browser.settle();
            self.agent.settle();
            let before = frames.len();
            carry("browser", &mut self.browser, &mut self.agent, &mut frames);
            self.agent.settle();
            carry("agent", &mut self.agent, &mut self.browser, &mut frames);
            if frames.len() == before {
                return frames;
            }
        }
    }
}

fn carry(from: &str, sender: &mut End, receiver: &mut End, frames: &mut Vec<Value>) {
    let mut bytes = sender.wire.written.lock().unwrap().split();
    receiver.wire.to_read.lock().unwrap().extend(bytes.iter());
    loop {
        let header = bytes.get(..12).map(hex);
        let Some(frame) = FrameCodec::default().max_frame_size(AGENT_WINDOW).decode(&mut bytes).unwrap()
        else {
            break;
        };
        frames.push(described(from, &header.unwrap(), frame));
    }
    assert!(bytes.is_empty(), "a frame was cut");
}

fn described(from: &str, header: &str, frame: Frame) -> Value {
    let ty = match frame.ty() {
        Type::Data => "data",
        Type::WindowUpdate => "window_update",
        Type::Ping => "ping",
        Type::GoAway => "go_away",
    };
    let flags: Vec<&str> = [(Flag::Syn, "syn"), (Flag::Ack, "ack"), (Flag::Fin, "fin"), (Flag::Rst, "rst")]
        .into_iter()
        .filter(|(flag, _)| frame.flags().contains(*flag))
        .map(|(_, name)| name)
        .collect();
    let mut value = json!({
        "from": from,
        "header_hex": header,
        "type": ty,
        "flags": flags,
        "stream_id": frame.stream_id(),
        "length": frame.length(),
    });
    if let (_, Some(body)) = frame.into_parts() {
        value["payload"] = payload(&body);
    }
    value
}

/// A payload in hex, or, when it is long, the one byte that it consists of and how often.
fn payload(bytes: &[u8]) -> Value {
    match bytes {
        [first, ..] if bytes.len() > 64 => {
            assert!(bytes.iter().all(|byte| byte == first));
            json!({ "fill_hex": hex([*first]), "count": bytes.len() })
        }
        _ => json!({ "hex": hex(bytes) }),
    }
}

pub fn yamux() -> Value {
    // A session that says GoAway sets a timer.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    json!({
        "about": "yamux version 0: the browser is the client, the agent the server. A payload is `hex`, or `count` times the byte `fill_hex`.",
        "browser_window": FIRST_WINDOW,
        "agent_window": AGENT_WINDOW,
        "frame_max": FRAME,
        "session": session(),
        "crowded": crowded(),
        "refused": refused(),
    })
}

fn session() -> Value {
    let mut s = Script::new(256);
    s.step("a stream is opened, and acknowledged with a larger window", BROWSER, Does::Open);
    s.step("the request", BROWSER, Does::Write(1, b"prelude and records".to_vec()));
    s.step("is read", AGENT, Does::Read(1, 100));
    s.step("the answer", AGENT, Does::Write(1, b"records of the agent".to_vec()));
    s.step("is read", BROWSER, Does::Read(1, 100));
    s.step("the agent has ended", AGENT, Does::Finish(1));
    s.step("and so has the browser", BROWSER, Does::Finish(1));
    s.step("the browser pings", BROWSER, Does::Ping(1));
    s.step("the agent pings", AGENT, Does::Ping(0xffff_fffe));

    s.step("a second stream", BROWSER, Does::Open);
    s.step("an upload stops at the agent's window", BROWSER, Does::Write(3, vec![b'u'; 600 * 1024]));
    s.step("less than half a window is read: nothing is said", AGENT, Does::Read(3, 100 * 1024));
    s.step("more than half: an update", AGENT, Does::Read(3, 300 * 1024));
    s.step("the rest of the upload", BROWSER, Does::Write(3, vec![b'u'; 88 * 1024]));
    s.step("a download stops at the browser's window", AGENT, Does::Write(3, vec![b'd'; 300 * 1024]));
    s.step("it is read", BROWSER, Does::Read(3, 256 * 1024));
    s.step("the rest of the download", AGENT, Does::Write(3, vec![b'd'; 44 * 1024]));
    s.step("the browser breaks off", BROWSER, Does::Reset(3));

    s.step("a third stream", BROWSER, Does::Open);
    s.step("with a request that may not be answered", BROWSER, Does::Write(5, b"foreign".to_vec()));
    s.step("the agent breaks off without a byte", AGENT, Does::Reset(5));

    s.step("what the agent opens is reset", AGENT, Does::Open);

    s.step("two streams at once", BROWSER, Does::Open);
    s.step("the other", BROWSER, Does::Open);
    s.step("a frame of the largest size", BROWSER, Does::Write(7, vec![b'a'; FRAME]));
    s.step("a small one on the other", BROWSER, Does::Write(9, b"b".to_vec()));
    s.step("answered first", AGENT, Does::Write(9, b"B".to_vec()));
    s.step("and then", AGENT, Does::Write(7, vec![b'A'; FRAME]));
    s.step("the browser ends the session", BROWSER, Does::GoAway);
    Value::from(s.steps)
}

/// An agent that takes two streams.
fn crowded() -> Value {
    let mut s = Script::new(2);
    s.step("the first", BROWSER, Does::Open);
    s.step("the second", BROWSER, Does::Open);
    s.step("the third is reset", BROWSER, Does::Open);
    Value::from(s.steps)
}

/// Headers that end the session, as the codec reads them.
fn refused() -> Value {
    let cases = [
        ("another version", "010000000000000100000000"),
        ("an unknown type", "000400000000000100000000"),
        ("a frame larger than the window", "000000000000000100080001"),
    ];
    let cases = cases.map(|(what, header)| {
        let bytes: Vec<u8> = (0..header.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&header[at..at + 2], 16).unwrap())
            .collect();
        let mut bytes = BytesMut::from(&bytes[..]);
        let decoded = FrameCodec::default().max_frame_size(AGENT_WINDOW).decode(&mut bytes);
        assert!(decoded.is_err(), "{what}");
        json!({ "what": what, "header_hex": header })
    });
    json!(cases)
}
