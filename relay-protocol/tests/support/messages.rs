//! A transport of plain messages, as a data channel is one: no pings of its own, small messages.
#![allow(dead_code, clippy::unwrap_used)]

use super::{End, run};
use bytes::Bytes;
use relay_protocol::tunnel::{
    self, Ended, Options, Role, Transport,
    transport::{Inbound, Outbound},
};
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// Messages that may wait on the way.
const ROOM: usize = 4;

pub struct Messages {
    pub sender: PollSender<Bytes>,
    pub receiver: mpsc::Receiver<Bytes>,
}

/// Both ends of a line.
pub fn line() -> (Messages, Messages) {
    let (a, from_a) = mpsc::channel(ROOM);
    let (b, from_b) = mpsc::channel(ROOM);
    (
        Messages { sender: PollSender::new(a), receiver: from_b },
        Messages { sender: PollSender::new(b), receiver: from_a },
    )
}

/// A browser and an agent over a line.
pub fn pair() -> (End, End) {
    pair_with(Options::data_channel(Role::Browser), Options::data_channel(Role::Peer))
}

pub fn pair_with(browser: Options, agent: Options) -> (End, End) {
    let (a, b) = line();
    (run(tunnel::start(a, browser)), run(tunnel::start(b, agent)))
}

impl Transport for Messages {
    const MESSAGE: usize = 65_536;
    const PINGS: bool = false;

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Inbound, Ended>> {
        Poll::Ready(match ready!(self.receiver.poll_recv(cx)) {
            Some(bytes) => {
                assert!(bytes.len() <= Self::MESSAGE, "a message of {} bytes", bytes.len());
                Ok(Inbound::Bytes(bytes))
            }
            None => Err(Ended::Closed { code: 1005, reason: String::new() }),
        })
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        self.sender.poll_reserve(cx).map_err(|_| Ended::Lost("the line is cut".to_owned()))
    }

    fn start_send(&mut self, message: Outbound) -> Result<(), Ended> {
        match message {
            Outbound::Bytes(bytes) => {
                self.sender.send_item(bytes).map_err(|_| Ended::Lost("the line is cut".to_owned()))
            }
            Outbound::Close { .. } => {
                self.sender.abort_send();
                self.sender.close();
                Ok(())
            }
            other => panic!("{other:?} on a data channel"),
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        Poll::Ready(Ok(()))
    }
}
