//! The two answers that last: events for the page, and one code's life for `pair`.

use super::{
    access::Who,
    api::{EndView, NewCode},
    routes::{Body, Server},
};
use crate::{status::now, trust::Pairing};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::{convert::Infallible, sync::Arc, time::Duration};

/// A page that has nothing new to hear hears this often that the agent is there.
const ALIVE: Duration = Duration::from_secs(10);
/// Events come at most this often: requests count, and a page need not count along.
const CALM: Duration = Duration::from_millis(250);

fn body(stream: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    use futures_util::StreamExt;
    BodyExt::boxed_unsync(StreamBody::new(stream.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)))))
}

/// The whole state as an event at each change (WHATWG HTML section 9.2), for as long as `who` may stay.
pub(super) fn events(server: Arc<Server>, who: Who) -> Body {
    let (view, browsers, status) =
        (server.pairing.view(), server.pairing.browsers().changes(), server.status.clone());
    body(stream::unfold((server, who, view, browsers, status, true), |state| async move {
        let (server, who, mut view, mut browsers, mut status, first) = state;
        let mut alive = false;
        if !first {
            tokio::select! {
                changed = view.changed() => changed.ok()?,
                changed = browsers.changed() => changed.ok()?,
                changed = status.changed() => changed.ok()?,
                () = tokio::time::sleep(ALIVE) => alive = true,
            }
            if !alive {
                tokio::time::sleep(CALM).await;
            }
            if !server.access.lock().is_good(&who, now()) {
                return None;
            }
        }
        let text = if alive {
            ":\n\n".to_owned()
        } else {
            view.mark_unchanged();
            browsers.mark_unchanged();
            status.mark_unchanged();
            format!("data: {}\n\n", serde_json::to_string(&server.state()).ok()?)
        };
        Some((Bytes::from(text), (server, who, view, browsers, status, false)))
    }))
}

/// Withdraws a code that nobody waits for any more.
struct Waited {
    pairing: Arc<Pairing>,
    number: u64,
}

impl Drop for Waited {
    fn drop(&mut self) {
        self.pairing.withdraw(self.number);
    }
}

/// The code as one line of JSON, then how it ended as another. When the caller leaves, the code is withdrawn.
pub(super) fn pair(server: &Server, code: NewCode) -> Body {
    let waited = Waited { pairing: server.pairing.clone(), number: code.number };
    let view = server.pairing.view();
    let line = |value: serde_json::Result<String>| value.ok().map(|text| Bytes::from(text + "\n"));
    body(stream::unfold((Some(code), Some((waited, view))), move |(code, rest)| async move {
        if let Some(code) = code {
            return Some((line(serde_json::to_string(&code))?, (None, rest)));
        }
        let (waited, mut view) = rest?;
        let number = waited.number;
        let ended = {
            let view = view.wait_for(|view| view.outcome(number).is_some()).await.ok()?;
            view.outcome(number).cloned()?
        };
        Some((line(serde_json::to_string(&EndView { number, outcome: ended }))?, (None, None)))
    }))
}
