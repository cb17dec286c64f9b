//! The process itself, under the names that dashboards know.

use std::time::{SystemTime, UNIX_EPOCH};

use ::metrics::Gauge;

use super::metrics::Metric;

const BUILD: Metric = Metric::gauge("relay_build_info", "version=…", "Always 1; the label tells the version");
const START: Metric =
    Metric::gauge("process_start_time_seconds", "", "When the relay started, in Unix seconds");
const MEMORY: Metric = Metric::gauge("process_resident_memory_bytes", "", "Memory in use (Linux)");
const FDS: Metric = Metric::gauge("process_open_fds", "", "Open file descriptors (Linux)");

/// What is told of the process.
pub const METRICS: &[Metric] = &[BUILD, START, MEMORY, FDS];

/// What is looked up when somebody asks.
pub struct Process {
    memory: Gauge,
    fds: Gauge,
}

impl Process {
    /// Tells what never changes.
    pub fn new() -> Self {
        ::metrics::gauge!(BUILD.name, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        START.level().set(now.as_secs_f64());
        Self { memory: MEMORY.level(), fds: FDS.level() }
    }

    /// Looks anew. What the system does not tell stays as it was.
    pub fn look(&self) {
        if let Some(kib) = std::fs::read_to_string("/proc/self/status").ok().and_then(|text| resident(&text))
        {
            self.memory.set(kib * 1024.0);
        }
        if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
            self.fds.set(fds.count() as f64);
        }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

/// KiB of resident memory (proc(5)).
fn resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(resident("Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t   1234 kB\n"), Some(1234.0));
        assert_eq!(resident("Name:\tVmRSS\n"), None);
    }
}
