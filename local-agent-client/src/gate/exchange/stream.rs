//! Exchanges over a byte stream of their own, such as a stream of a peer's channel (PROTOCOL.md section 6.2).
//!
//! What may not be answered is dropped without a byte, which resets the stream: the browser brings the very same
//! bytes over the relay then, where a refusal is signed.

use super::{Answered, Way, begin::Begun, host_of, reader::Bytestream, upload::Rest};
use crate::{
    forward::{Active, BodyError, Connection, ResponseBody},
    gate::{
        Gate, drain,
        records::Records,
        websocket::{bridge::Bridge, carrier, messages_follow},
    },
};
use bytes::BytesMut;
use futures_util::TryStreamExt;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use relay_protocol::headers::{X_FORWARDED_HOST, X_FORWARDED_PREFIX, X_FORWARDED_PROTO};
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf},
    sync::{Notify, oneshot},
};
use tokio_util::codec::{BytesCodec, FramedRead};
use uuid::Uuid;

/// Read from a stream in one piece: a frame of ours.
const READ_BUFFER: usize = 32 * 1024;
/// How long the browser may take to end its direction once the answer is out; nobody reads it any more.
const LINGER: Duration = Duration::from_secs(10);

impl Gate {
    /// Serves a stream that carries one exchange of `browser`, whose path it came by, to its end. `gone` completes when
    /// the other end has given the stream up, which reading alone does not tell while a local server does not take its
    /// upload. Nothing is answered that the session of another browser asks for, and nothing before the first
    /// record has opened: the stream is dropped without a shutdown then.
    pub async fn exchange_stream<S>(&self, stream: S, gone: impl Future<Output = ()>, browser: Uuid)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        tokio::select! {
            biased;
            () = gone => tracing::debug!("a peer gave a stream up"),
            () = self.serve_stream(stream, browser) => {}
        }
    }

    async fn serve_stream<S>(&self, stream: S, browser: Uuid)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        let pieces = FramedRead::with_capacity(read, BytesCodec::new(), READ_BUFFER);
        let frames = pieces.map_ok(|piece: BytesMut| Frame::data(piece.freeze())).map_err(BodyError::from);
        let source: Bytestream = StreamBody::new(frames).boxed_unsync();
        let begun = match self.begin(source, Some(browser), Ok(())).await {
            Ok(begun) => begun,
            Err(unopened) => {
                self.forwarder.stats().gate.refused(unopened.refusal.code());
                return;
            }
        };
        let connection = Connection::default();
        let active = Active::new(self.forwarder.stats(), &connection.load);
        let outer = self.outer_of_a_stream();
        if begun.head.as_ref().is_ok_and(|head| head.websocket) {
            let Begun { in_use, browser, head, rest: mut reader, protection, .. } = begun;
            let counted = (active, self.forwarder.stats().websocket());
            let head = head.and_then(|head| messages_follow(head, || reader.accepted()));
            let beginning = self.open_inside(head, &browser, &outer, &in_use).await;
            let bridge = Bridge { protect: protection, stats: self.forwarder.stats().clone(), in_use };
            bridge.run(carrier::Bytes { reader, write }, beginning).await;
            drop(counted);
            return;
        }
        let (rest, over) = (oneshot::channel(), Notify::new());
        let answering = async {
            let way = Way { outer: &outer, connection: &connection };
            let Answered { records, rest: given_back, .. } = self.answer(begun, way, active).await;
            // Whoever waits for it is below.
            let _ = rest.0.send(given_back);
            finish(records, write, &over).await;
        };
        tokio::select! {
            () = answering => {}
            () = watch(rest.1, &over) => tracing::debug!("a browser broke an exchange off"),
        }
    }

    /// What the relay would say of a request that comes through it.
    fn outer_of_a_stream(&self) -> HeaderMap {
        let mut outer = HeaderMap::new();
        if let Some(relay) = self.relay_url() {
            let host = host_of(&relay);
            let prefix = self.pairing.host().get().map(|id| format!("/v1/relay/h/{id}"));
            for (name, value) in [
                (X_FORWARDED_PROTO, Some(relay.scheme().to_owned())),
                (X_FORWARDED_HOST, Some(host.to_owned())),
                (X_FORWARDED_PREFIX, prefix),
            ] {
                if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                    outer.insert(name, value);
                }
            }
        }
        outer
    }
}

/// Writes the answer, waits for the end of the request, and ends the stream.
async fn finish<S>(mut records: Records<ResponseBody>, mut write: WriteHalf<S>, over: &Notify)
where
    S: AsyncRead + AsyncWrite,
{
    let written = async {
        while let Some(frame) = std::future::poll_fn(|cx| records.poll_record(cx)).await {
            let Ok(mut piece) = frame.into_data() else { continue };
            write.write_all_buf(&mut piece).await?;
            write.flush().await?;
        }
        Ok::<(), std::io::Error>(())
    };
    if let Err(error) = written.await {
        tracing::debug!(%error, "an answer could not be written to its end");
        return;
    }
    drop(records);
    // Who goes on sending meanwhile is cut off by the shutdown.
    let _ = tokio::time::timeout(LINGER, over.notified()).await;
    // Who is gone has the answer, or does not want it.
    let _ = write.shutdown().await;
}

/// Takes in what nobody reads of the request any more. Completes when the browser breaks it off, or sends more
/// than belongs to it.
async fn watch(rest: oneshot::Receiver<oneshot::Receiver<Rest>>, over: &Notify) {
    let rest = async { rest.await.ok()?.await.ok() };
    let mut reader = match rest.await {
        Some(Rest { reader, sound: true }) => reader,
        // Something was wrong with it, which the answer says.
        unsound => {
            drain(unsound.map(|rest| rest.reader.into_source())).await;
            over.notify_one();
            return std::future::pending().await;
        }
    };
    while !reader.has_ended() {
        if reader.next().await.is_err() {
            return;
        }
    }
    over.notify_one();
    // The end of the bytes, or what may not come: both end it.
    let _ = reader.next().await;
}
