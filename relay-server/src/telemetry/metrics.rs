//! What is counted, and where it is written down.
//!
//! Each component keeps a `metrics.rs` of its own with a table of its [`Metric`]s and one struct of handles, made
//! once when the component is. Names follow Prometheus: `relay_<component>_<what>_<unit or total>`; what opens and
//! closes is counted in pairs, so that a leak shows. The README's table is made from [`all`].

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

/// Every metric of every component.
pub fn all() -> Vec<Metric> {
    Vec::new()
}
