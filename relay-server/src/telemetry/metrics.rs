//! What is counted, and where it is written down.
//!
//! Each component keeps a `metrics.rs` of its own with a table of its [`Metric`]s and one struct of handles, made
//! once when the component is. Names follow Prometheus: `relay_<component>_<what>_<unit or total>`; what opens and
//! closes is counted in pairs, so that a leak shows. The README's table is made from [`all`].
//!
//! Handles do nothing unless [`recorder`] was called before they were made, which only the operator's interface
//! asks for: counting is then an atomic addition, and otherwise a branch.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, Label};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use relay_protocol::problem::Code;
use tokio_util::sync::CancellationToken;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Sorts into buckets; in seconds or bytes, as the name says.
    Histogram,
}

impl Kind {
    /// As the exposition format calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric, as people read of it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels with what they may be, such as `role=daemon|client`; empty without any.
    pub labels: &'static str,
    /// What it counts.
    pub help: &'static str,
}

impl Metric {
    /// A counter.
    pub const fn counter(name: &'static str, labels: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, labels, help }
    }

    /// A gauge.
    pub const fn gauge(name: &'static str, labels: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, labels, help }
    }

    /// A histogram.
    pub const fn histogram(name: &'static str, labels: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, labels, help }
    }

    /// Every combination of labels that the table names, each in the table's order, which is that of the handles.
    /// What holds a label that the table leaves open has none.
    fn series(&self) -> Vec<Vec<Label>> {
        let mut series = vec![Vec::new()];
        for (key, values) in self.labels.split_whitespace().filter_map(|label| label.split_once('=')) {
            if values == OPEN {
                return Vec::new();
            }
            let with = |value: &'static str| {
                let longer = |labels: &Vec<Label>| {
                    let more = std::iter::once(Label::from_static_parts(key, value));
                    labels.iter().cloned().chain(more).collect()
                };
                series.iter().map(longer).collect::<Vec<_>>()
            };
            series = values.split('|').flat_map(with).collect();
        }
        series
    }

    /// The counter without labels.
    pub fn count(&self) -> Counter {
        ::metrics::counter!(self.name)
    }

    /// The counter with this label.
    pub fn count_of(&self, label: &'static str, value: &'static str) -> Counter {
        ::metrics::counter!(self.name, label => value)
    }

    /// The gauge without labels.
    pub fn level(&self) -> Gauge {
        ::metrics::gauge!(self.name)
    }

    /// The histogram without labels.
    pub fn spread(&self) -> Histogram {
        ::metrics::histogram!(self.name)
    }
}

/// What opens and closes.
#[derive(Clone)]
pub struct Pair {
    opened: Counter,
    closed: Counter,
}

impl Pair {
    /// Counts in these two, neither with labels.
    pub fn new(opened: &Metric, closed: &Metric) -> Self {
        Self::with(opened.count(), closed.count())
    }

    /// Counts in these two.
    pub fn with(opened: Counter, closed: Counter) -> Self {
        Self { opened, closed }
    }

    /// Something has opened; it closes when this is dropped.
    pub fn open(&self) -> Opened {
        self.opened.increment(1);
        Opened(self.closed.clone())
    }
}

/// Something that is open.
#[must_use = "dropped, it counts as closed"]
pub struct Opened(Counter);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.increment(1);
    }
}

/// A counter for each code of a refusal, made when the code first comes up.
#[derive(Clone)]
pub struct ByCode {
    metric: Metric,
    counters: Arc<[OnceLock<Counter>]>,
}

impl ByCode {
    /// With the label `code`.
    pub fn new(metric: Metric) -> Self {
        Self { metric, counters: Code::ALL.iter().map(|_| OnceLock::new()).collect() }
    }

    /// Counts one.
    pub fn count(&self, code: Code) {
        let place = Code::ALL.iter().position(|known| *known == code);
        if let Some(counter) = place.and_then(|place| self.counters.get(place)) {
            counter.get_or_init(|| self.metric.count_of("code", code.as_str())).increment(1);
        }
    }
}

/// The tables of all components.
const TABLES: &[&[Metric]] = &[
    super::process::METRICS,
    super::logs::METRICS,
    crate::http::metrics::METRICS,
    crate::limits::metrics::METRICS,
    crate::auth::metrics::METRICS,
    crate::store::metrics::METRICS,
    crate::tunnel::metrics::METRICS,
    crate::proxy::metrics::METRICS,
    crate::frames::metrics::METRICS,
    crate::frames::metrics_ws::METRICS,
    crate::backplane::metrics::METRICS,
    crate::forward::metrics::METRICS,
    crate::admin::metrics::METRICS,
];

/// Every metric of every component.
pub fn all() -> Vec<Metric> {
    TABLES.concat()
}

/// The README's table.
pub fn markdown() -> String {
    let mut out = String::from("| metric | kind | labels | what it counts |\n| --- | --- | --- | --- |\n");
    for Metric { name, kind, labels, help } in all() {
        let labels = match labels {
            "" => String::new(),
            // A bar would end the cell.
            some => format!("`{}`", some.replace('|', "\\|")),
        };
        out.push_str(&format!("| `{name}` | {} | {labels} | {help} |\n", kind.as_str()));
    }
    out
}

/// A label's values that the table does not name one by one.
const OPEN: &str = "…";

/// Upper bounds of what is measured in seconds: from a query on the same machine to the longest wait for an answer.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
/// Upper bounds of what is measured in bytes: from a heartbeat to the largest frame.
const BYTES: &[f64] = &[64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 16_777_216.0];

/// Installs what the handles that are made from now on write to.
///
/// # Errors
/// When this process has a recorder already.
pub fn recorder() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), BYTES)?
        .install_recorder()?;
    for Metric { name, kind, help, .. } in all() {
        match kind {
            Kind::Counter => ::metrics::describe_counter!(name, help),
            Kind::Gauge => ::metrics::describe_gauge!(name, help),
            Kind::Histogram => ::metrics::describe_histogram!(name, help),
        }
    }
    begin_at_zero();
    Ok(handle)
}

/// Shows what can be counted before it was for the first time: the growth of a series that appears with its first
/// event misses that event. Gauges are left out, because zero says something; they appear with what they measure.
fn begin_at_zero() {
    for metric in all() {
        for labels in metric.series() {
            match metric.kind {
                Kind::Counter => ::metrics::counter!(metric.name, labels).increment(0),
                Kind::Histogram => drop(::metrics::histogram!(metric.name, labels)),
                Kind::Gauge => {}
            }
        }
    }
}

/// How often what histograms gathered is sorted into their buckets. Until then each value is kept as it is: at
/// twenty thousand requests a second, less than a MiB.
const UPKEEP: Duration = Duration::from_secs(5);

/// Keeps house for the recorder until `stop`.
pub async fn upkeep(shown: Option<super::Shown>, stop: CancellationToken) {
    let Some(shown) = shown else { return };
    let mut tick = tokio::time::interval(UPKEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        shown.metrics.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_as_prometheus_wants_them() {
        let mut names = HashSet::new();
        for metric in all() {
            let Metric { name, kind, labels, help } = metric;
            assert!(names.insert(name), "{name} twice");
            // `process_*` are the names that every Prometheus client library gives these.
            assert!(name.starts_with("relay_") || name.starts_with("process_"), "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            assert!(!name.contains("__") && !name.ends_with('_'), "{name}");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            for end in ["_bucket", "_count", "_sum"] {
                assert!(!name.ends_with(end), "{name} ends like a part of a histogram");
            }
            if kind == Kind::Histogram {
                assert!(name.ends_with("_seconds") || name.ends_with("_bytes"), "{name} has no buckets");
            }
            for label in labels.split_whitespace() {
                let (key, values) = label.split_once('=').unwrap_or_default();
                assert!(
                    !values.is_empty()
                        && !values.contains([',', '='])
                        && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                    "{name}: {label}"
                );
                assert!(!["le", "quantile"].contains(&key), "{name}: {label}");
            }
            assert!(
                help.ends_with(|c: char| c.is_alphanumeric() || c == ')') && !help.contains('|'),
                "{name}: {help}"
            );
        }
    }

    #[test]
    fn what_opens_has_a_partner_that_closes() {
        let names: HashSet<_> = all().iter().map(|metric| metric.name).collect();
        for (opens, closes) in [("_opened_", "_closed_"), ("_begun_", "_ended_")] {
            for name in &names {
                for (this, other) in [(opens, closes), (closes, opens)] {
                    let partner = name.replace(this, other);
                    assert!(names.contains(partner.as_str()), "{name} without {partner}");
                }
            }
        }
    }

    #[test]
    fn the_table_has_a_row_for_every_metric() {
        let table = markdown();
        assert_eq!(table.lines().count(), all().len() + 2);
        for line in table.lines() {
            assert_eq!(line.replace("\\|", "").matches('|').count(), 5, "{line}");
        }
    }

    #[test]
    fn series_are_all_that_the_table_names() {
        let series = |labels| {
            let told = |labels: Vec<Label>| {
                let told = |label: &Label| format!("{}={}", label.key(), label.value());
                labels.iter().map(told).collect::<Vec<_>>().join(" ")
            };
            Metric::counter("x", labels, "").series().into_iter().map(told).collect::<Vec<_>>()
        };
        assert_eq!(series(""), [""]);
        assert_eq!(series("a=b|c d=e|f"), ["a=b d=e", "a=c d=e", "a=b d=f", "a=c d=f"]);
        assert!(series("code=…").is_empty());
        let most = all().iter().map(|metric| metric.series().len()).max();
        assert!(most.is_some_and(|most| most <= 64), "too many of one metric");
    }

    #[test]
    fn bounds_rise() {
        for bounds in [SECONDS, BYTES] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
    }
}
