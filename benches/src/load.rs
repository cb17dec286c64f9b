//! Small requests, and what is put beside them.

use crate::{
    client::{Connection, Target},
    stats::Latency,
};
use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// What to send.
#[derive(Debug)]
pub struct Plan {
    /// What to GET.
    pub target: Target,
    /// Keep-alive connections at once, one request on each at a time.
    pub connections: usize,
    /// Time before the measured part.
    pub warmup: Duration,
    /// The measured part.
    pub duration: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    /// Requests per second in the measured part.
    pub per_second: f64,
    /// Requests in the measured part.
    pub requests: u64,
    /// Requests of warm-up and measured part together: what used the CPU of the others.
    pub all_requests: u64,
    /// How long they took.
    pub latency: Latency,
}

/// What came of a bulk transfer.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Bulk {
    /// Million bytes per second.
    pub mb_per_s: f64,
}

/// Runs the plan. Any failed request fails it: a contestant that drops requests has no speed.
pub async fn run(plan: Plan) -> anyhow::Result<Measured> {
    let request: Arc<[u8]> = plan.target.head("GET", "accept: */*\r\n").into_bytes().into();
    // All are open before the clock starts.
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        connections.push(Connection::open(&plan.target).await?);
    }
    let measure_from = Instant::now() + plan.warmup;
    let until = measure_from + plan.duration;
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        let request = request.clone();
        tasks.spawn(async move {
            let mut nanos = Vec::new();
            let mut all = 0_u64;
            let mut began = Instant::now();
            while began < until {
                let length = connection
                    .exchange(&request)
                    .await
                    .with_context(|| format!("request {all} of a connection"))?;
                ensure!(length == crate::origin::SMALL as u64, "an answer of {length} bytes");
                let ended = Instant::now();
                all += 1;
                if began >= measure_from {
                    nanos.push(u64::try_from((ended - began).as_nanos()).unwrap_or(u64::MAX));
                }
                began = ended;
            }
            anyhow::Ok((nanos, all))
        });
    }
    let mut nanos = Vec::new();
    let mut all_requests = 0;
    while let Some(done) = tasks.join_next().await {
        let (one, all) = done??;
        nanos.extend(one);
        all_requests += all;
    }
    let requests = nanos.len() as u64;
    let per_second = requests as f64 / plan.duration.as_secs_f64();
    Ok(Measured { per_second, requests, all_requests, latency: Latency::of(nanos) })
}

/// Begins downloads and never reads beyond their heads. Ends only with the process.
pub async fn stall(base: &Target, readers: usize) -> anyhow::Result<()> {
    // More than every buffer on the way together holds.
    let target = base.below(&format!("/bytes/{}", 4_u64 << 30));
    let mut held = Vec::new();
    for _ in 0..readers {
        let mut connection = Connection::open(&target).await?;
        connection.send(target.head("GET", "").as_bytes()).await?;
        connection.head().await?;
        held.push(connection);
    }
    crate::print(&serde_json::json!({ "stalled": held.len() }))?;
    std::future::pending().await
}
