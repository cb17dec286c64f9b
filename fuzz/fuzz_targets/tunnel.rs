//! A peer that sends anything: the driver ends, every stream ends with it, and nothing panics.
//!
//! The first byte chooses the role and form of our end and whether the rest goes in as bytes under the
//! WebSocket or as messages inside it. In the second way each message is preceded by a byte: the top
//! bit makes it a text message, the others are its length.
#![no_main]

use futures_util::{SinkExt, StreamExt};
use libfuzzer_sys::fuzz_target;
use relay_protocol::tunnel::{self, Form, Hello, MAX_MESSAGE, Options, Role, Stream};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role as Side, WebSocketConfig},
    },
};

/// On the paused clock: longer than any deadline of the tunnel, so whatever is left then is a hang.
const LONG: Duration = Duration::from_secs(3600);

thread_local! {
    static RUNTIME: Runtime =
        Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
}

fuzz_target!(|data: &[u8]| {
    if let [flags, rest @ ..] = data {
        RUNTIME.with(|runtime| runtime.block_on(run(*flags, rest)));
    }
});

async fn websocket(io: DuplexStream, side: Side) -> WebSocketStream<DuplexStream> {
    let config = WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, side, Some(config)).await
}

async fn run(flags: u8, data: &[u8]) {
    let (role, side, other) = match flags & 1 {
        0 => (Role::Agent, Side::Client, Side::Server),
        _ => (Role::Relay, Side::Server, Side::Client),
    };
    let form = match flags & 2 {
        0 => Form::Plain,
        _ => Form::V1(Hello::new("fuzz", "0", None)),
    };
    let (ours, theirs) = duplex(64 << 10);
    let (handle, mut incoming, driver) = tunnel::start(websocket(ours, side).await, Options::new(role, form));
    let driver = tokio::spawn(driver.run());
    let opener = handle.clone();
    let streams = tokio::spawn(async move {
        let mut users = JoinSet::new();
        if role == Role::Relay
            && let Ok(stream) = opener.open().await
        {
            users.spawn(use_it(stream));
        }
        while let Some(stream) = incoming.next().await {
            users.spawn(use_it(stream));
        }
        while users.join_next().await.is_some() {}
    });
    match flags & 4 {
        0 => send_messages(websocket(theirs, other).await, data).await,
        _ => send_bytes(theirs, data).await,
    }
    timeout(LONG, driver).await.expect("the driver ends").expect("the driver does not panic");
    assert!(handle.ended().is_some());
    timeout(LONG, streams).await.expect("every stream ends").expect("no stream panics");
}

async fn use_it(mut stream: Stream) {
    let _ = stream.write_all(&[b'x'; 100]).await;
    let _ = stream.flush().await;
    let mut piece = [0; 512];
    while let Ok(1..) = stream.read(&mut piece).await {}
}

async fn send_bytes(theirs: DuplexStream, data: &[u8]) {
    let (mut read, mut write) = tokio::io::split(theirs);
    let send = async {
        let _ = write.write_all(data).await;
        let _ = write.shutdown().await;
    };
    tokio::join!(send, async {
        let mut piece = [0; 4096];
        while let Ok(Ok(1..)) = timeout(LONG, read.read(&mut piece)).await {}
    });
}

async fn send_messages(theirs: WebSocketStream<DuplexStream>, mut data: &[u8]) {
    let (mut sink, mut stream) = theirs.split();
    let send = async {
        while let [head, rest @ ..] = data {
            let (message, rest) = rest.split_at(rest.len().min(usize::from(head & 0x7f)));
            data = rest;
            let message = match head & 0x80 {
                0 => Message::binary(message.to_vec()),
                _ => Message::text(String::from_utf8_lossy(message).into_owned()),
            };
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    };
    tokio::join!(send, async { while let Ok(Some(Ok(_))) = timeout(LONG, stream.next()).await {} });
}
