//! What is counted of the database.

use std::time::Instant;

use ::metrics::{Counter, Histogram};

use super::db::{Arg, Db, Record, Step};
use super::error::StoreError;
use crate::telemetry::metrics::Metric;

const STATEMENTS: Metric = Metric::counter(
    "relay_store_statements_total",
    "result=ok|unavailable|conflict|not_ready|corrupt",
    "Statements and transactions, by how they ended",
);
const TOOK: Metric = Metric::histogram(
    "relay_store_statement_seconds",
    "",
    "How long they took, with the wait for a connection",
);

/// What is counted here.
pub const METRICS: &[Metric] = &[STATEMENTS, TOOK];

/// The handles.
pub(super) struct Metrics {
    ok: Counter,
    unavailable: Counter,
    conflict: Counter,
    not_ready: Counter,
    corrupt: Counter,
    took: Histogram,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let of = |result| STATEMENTS.count_of("result", result);
        Self {
            ok: of("ok"),
            unavailable: of("unavailable"),
            conflict: of("conflict"),
            not_ready: of("not_ready"),
            corrupt: of("corrupt"),
            took: TOOK.spread(),
        }
    }

    async fn measure<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let began = Instant::now();
        let result = work.await;
        self.took.record(began.elapsed());
        match &result {
            Ok(_) => &self.ok,
            Err(StoreError::Unavailable(_)) => &self.unavailable,
            Err(StoreError::Conflict(_)) => &self.conflict,
            Err(StoreError::NotReady(_)) => &self.not_ready,
            Err(StoreError::Corrupt(_)) => &self.corrupt,
        }
        .increment(1);
        result
    }
}

/// The database, where everything that is asked is counted.
#[derive(Clone, Copy)]
pub(super) struct Counted<'a> {
    pub(super) db: &'a Db,
    pub(super) metrics: &'a Metrics,
}

impl Counted<'_> {
    /// As [`Db::fetch`].
    pub(super) async fn fetch<T: Record>(
        &self,
        template: &'static str,
        args: &[Arg<'_>],
    ) -> Result<Vec<T>, StoreError> {
        self.metrics.measure(self.db.fetch(template, args)).await
    }

    /// As [`Db::execute`].
    pub(super) async fn execute(&self, template: &'static str, args: &[Arg<'_>]) -> Result<u64, StoreError> {
        self.metrics.measure(self.db.execute(template, args)).await
    }

    /// As [`Db::transaction`].
    pub(super) async fn transaction(&self, steps: &[Step<'_>]) -> Result<Vec<u64>, StoreError> {
        self.metrics.measure(self.db.transaction(steps)).await
    }
}
