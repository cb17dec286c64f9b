//! The last log lines, kept in memory for the operator.
//!
//! What is logged holds words of strangers: paths, names, what a peer said when it closed. So a line, its fields
//! and the number of lines are bounded, and what is beyond is cut. Warnings and errors are also kept apart, because
//! the access log of one busy minute would push them out.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::SystemTime;

use ::metrics::Counter;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::metrics::Metric;

/// Bytes of a line at most, its message and its fields together. A whole path fits.
const LINE_BYTES: usize = 4096;
/// Fields of a line at most: the access log has nine.
const LINE_FIELDS: usize = 32;
/// Warnings and errors that are kept apart.
const PROBLEMS: usize = 100;

const LINES: Metric = Metric::counter(
    "relay_log_lines_total",
    "level=error|warn|info|debug|trace",
    "Log lines that passed the filter",
);

/// What is counted of the log.
pub const METRICS: &[Metric] = &[LINES];

/// The levels, the gravest first, as they are counted.
const LEVELS: [(Level, &str); 5] = [
    (Level::ERROR, "error"),
    (Level::WARN, "warn"),
    (Level::INFO, "info"),
    (Level::DEBUG, "debug"),
    (Level::TRACE, "trace"),
];

/// One line.
#[derive(Debug, Serialize)]
pub struct Line {
    /// When, as RFC 3339.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    /// Which part of the relay.
    pub target: &'static str,
    /// What happened.
    pub message: String,
    /// With what.
    pub fields: serde_json::Map<String, Value>,
}

fn rfc3339<S: serde::Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    let text = OffsetDateTime::from(*at).format(&Rfc3339).map_err(serde::ser::Error::custom)?;
    to.serialize_str(&text)
}

/// How many lines there were of each level, since the start.
type Counts = BTreeMap<&'static str, u64>;

#[derive(Default)]
struct Kept {
    lines: VecDeque<Arc<Line>>,
    problems: VecDeque<Arc<Line>>,
    dropped: u64,
    levels: Counts,
    /// Targets are words of the program's text, so there are only so many.
    targets: BTreeMap<&'static str, Counts>,
}

/// The last lines.
pub struct Ring {
    limit: usize,
    kept: Mutex<Kept>,
    counters: [Counter; LEVELS.len()],
}

/// Lines as they are told, the newest last.
#[derive(Debug, Serialize)]
pub struct Lines {
    /// The lines.
    pub lines: Vec<Arc<Line>>,
    /// How many older ones are gone.
    pub dropped: u64,
}

/// The log in short.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Lines of each level since the start.
    pub levels: Counts,
    /// The same of each target.
    pub targets: BTreeMap<&'static str, Counts>,
    /// The latest warnings and errors, the newest last.
    pub problems: Vec<Arc<Line>>,
}

impl Ring {
    /// Keeps so many lines.
    pub fn new(limit: usize) -> Self {
        let counters = LEVELS.map(|(_, name)| LINES.count_of("level", name));
        Self { limit: limit.max(1), kept: Mutex::default(), counters }
    }

    fn keep(&self, line: Line) {
        let line = Arc::new(line);
        let mut gone = None;
        let mut kept = self.kept.lock();
        *kept.levels.entry(line.level).or_default() += 1;
        *kept.targets.entry(line.target).or_default().entry(line.level).or_default() += 1;
        if matches!(line.level, "error" | "warn") {
            if kept.problems.len() >= PROBLEMS {
                kept.problems.pop_front();
            }
            kept.problems.push_back(line.clone());
        }
        if kept.lines.len() >= self.limit {
            gone = kept.lines.pop_front();
            kept.dropped += 1;
        }
        kept.lines.push_back(line);
        drop(kept);
        // Outside of the lock.
        drop(gone);
    }

    /// The newest lines, at most so many of them.
    pub fn lines(&self, limit: usize) -> Lines {
        let kept = self.kept.lock();
        let skipped = kept.lines.len().saturating_sub(limit);
        Lines { lines: kept.lines.iter().skip(skipped).cloned().collect(), dropped: kept.dropped }
    }

    /// The log in short.
    pub fn summary(&self) -> Summary {
        let kept = self.kept.lock();
        Summary {
            levels: kept.levels.clone(),
            targets: kept.targets.clone(),
            problems: kept.problems.iter().cloned().collect(),
        }
    }
}

/// What writes into the ring.
pub(super) struct Keep(pub(super) Arc<Ring>);

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let place = LEVELS.iter().position(|(level, _)| level == metadata.level()).unwrap_or_default();
        let level = LEVELS.get(place).map_or("error", |(_, name)| name);
        if let Some(counter) = self.0.counters.get(place) {
            counter.increment(1);
        }
        let mut reader = Reader::default();
        event.record(&mut reader);
        let Reader { message, fields, .. } = reader;
        let target = metadata.target();
        self.0.keep(Line { at: SystemTime::now(), level, target, message, fields });
    }
}

/// Reads an event's fields within the bounds.
#[derive(Default)]
struct Reader {
    used: usize,
    message: String,
    fields: serde_json::Map<String, Value>,
}

impl Reader {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        if self.fields.len() < LINE_FIELDS && self.used + name.len() <= LINE_BYTES {
            self.used += name.len();
            self.fields.insert(name.to_owned(), value);
        }
    }

    fn text(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let mut text = Bounded { text: String::new(), left: LINE_BYTES.saturating_sub(self.used) };
        // What does not fit is cut; the writer itself never fails.
        let _ = text.write_fmt(value);
        self.used += text.text.len();
        if field.name() == "message" {
            self.message = text.text;
        } else {
            self.put(field, Value::String(text.text));
        }
    }
}

impl Visit for Reader {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format_args!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, format_args!("{value}"));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// Takes so many bytes and drops the rest, so that a value of any length costs no more memory than this.
struct Bounded {
    text: String,
    left: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let mut end = piece.len().min(self.left);
        while !piece.is_char_boundary(end) {
            end -= 1;
        }
        self.text.push_str(piece.get(..end).unwrap_or_default());
        // Once something was cut, nothing that follows may close the gap.
        self.left = if end < piece.len() { 0 } else { self.left - end };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    fn logged(limit: usize, log: impl FnOnce()) -> Arc<Ring> {
        let ring = Arc::new(Ring::new(limit));
        let subscriber = tracing_subscriber::registry()
            .with(Keep(ring.clone()))
            .with(tracing_subscriber::EnvFilter::new("info"));
        tracing::subscriber::with_default(subscriber, log);
        ring
    }

    #[test]
    fn lines_are_kept_as_they_were_said() {
        let ring = logged(10, || {
            tracing::info!(target: "relay::access", status = 200_u16, ok = true, path = %"/x", gone = None::<u64>, "served");
            tracing::debug!("filtered");
            tracing::error!(ms = 1.5, "broken {}", 7);
        });
        let json = serde_json::to_value(ring.lines(100)).unwrap();
        assert_eq!(json["dropped"], 0);
        let lines = json["lines"].as_array().unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["level"], &lines[0]["target"]), (&"info".into(), &"relay::access".into()));
        assert_eq!(lines[0]["fields"], serde_json::json!({"status": 200, "ok": true, "path": "/x"}));
        assert_eq!((&lines[1]["message"], &lines[1]["fields"]["ms"]), (&"broken 7".into(), &1.5.into()));
        assert!(OffsetDateTime::parse(lines[0]["at"].as_str().unwrap(), &Rfc3339).is_ok());
    }

    #[test]
    fn the_oldest_go_and_problems_stay() {
        let ring = logged(3, || {
            tracing::warn!("careful");
            for n in 0..1000 {
                tracing::info!(n, "noise");
            }
        });
        let kept = ring.lines(usize::MAX);
        let numbers: Vec<_> = kept.lines.iter().map(|line| line.fields["n"].as_u64().unwrap()).collect();
        assert_eq!((numbers, kept.dropped), (vec![997, 998, 999], 998));
        assert_eq!(ring.lines(1).lines[0].fields["n"], 999);
        assert!(ring.lines(0).lines.is_empty());
        let summary = ring.summary();
        assert_eq!((summary.levels["info"], summary.levels["warn"]), (1000, 1));
        assert_eq!(summary.targets[module_path!()]["info"], 1000);
        assert_eq!(summary.problems.iter().map(|l| l.message.as_str()).collect::<Vec<_>>(), ["careful"]);
        let ring = logged(3, || (0..1000).for_each(|n| tracing::error!(n, "again")));
        assert_eq!(ring.summary().problems.len(), PROBLEMS);
    }

    #[test]
    fn a_line_is_cut_where_it_is_too_long() {
        let long = "ä".repeat(100_000);
        let ring = logged(3, || {
            tracing::info!(long = %long, ?long, after = 1, "{long}");
        });
        let line = &ring.lines(1).lines[0];
        let length = line.message.len()
            + line.fields.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum::<usize>();
        assert!(length <= LINE_BYTES, "{length}");
        assert!(long.starts_with(&line.message) && line.message.len() > LINE_BYTES / 2);
    }
}
