//! The tables of RESULTS.md, and the verdicts on the targets of the design.

use crate::{
    compare::{MANY, Results, Row},
    protected::{self, Protection},
    stats::{Latency, median},
};
use std::fmt::Write as _;

/// Where and when.
#[derive(Debug)]
pub struct About {
    /// Cores, processor, memory, kernel.
    pub machine: String,
    /// The commit that was built.
    pub commit: String,
    /// The day.
    pub date: String,
}

impl About {
    /// This machine.
    pub fn here(commit: String, date: String) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map_or("unknown", |(_, value)| value.trim()).to_owned()
        };
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let (processors, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let gib = field(&memory, "MemTotal")
            .split(' ')
            .next()
            .and_then(|kib| kib.parse::<f64>().ok())
            .unwrap_or(0.0)
            / 1_048_576.0;
        let machine = format!(
            "{cores} cores of {}, {gib:.0} GiB, Linux {}",
            field(&processors, "model name"),
            read("/proc/sys/kernel/osrelease").trim()
        );
        Self { machine, commit, date }
    }
}

/// The whole file.
pub fn markdown(results: &Results, about: &About, notes: Option<&str>) -> String {
    let mut out = format!(
        "# Results\n\nWritten by `make bench`; do not edit. {}, commit {}, on {}.\n\n\
         Client, origin and contestants share the machine and speak over loopback, without TLS. Every figure is the\n\
         median of interleaved rounds; a connection sends its next request when the last one is answered, so that latency and\n\
         rate are two views of one thing. Compare within a table, not with another machine.\n",
        about.machine, about.commit, about.date
    );
    out.push_str(&targets(results));
    out.push_str(&small(&results.rows));
    out.push_str(&bulk(&results.rows));
    out.push_str(&beside(&results.rows));
    out.push_str(&cpu(&results.rows));
    out.push_str(&protection(&results.protected));
    out.push_str(&relay(results));
    if let Some(notes) = notes {
        let _ = write!(out, "\n{}", notes.trim_start());
    }
    out
}

/// How a figure stands to its target.
struct Verdict {
    what: &'static str,
    target: String,
    measured: f64,
    unit: &'static str,
    bound: f64,
    /// Whether more is better.
    at_least: bool,
}

impl Verdict {
    fn line(&self) -> String {
        let met = if self.at_least { self.measured >= self.bound } else { self.measured <= self.bound };
        let off = (self.measured / self.bound - 1.0).abs() * 100.0;
        let verdict = if met { "met".to_owned() } else { format!("**missed** by {off:.0} %") };
        format!("| {} | {} | {} {} | {verdict} |\n", self.what, self.target, figure(self.measured), self.unit)
    }
}

/// Three significant digits, as far as a person wants them.
fn figure(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// What signing and sealing may cost.
fn protection_targets(rounds: &[protected::Round]) -> Vec<Verdict> {
    let of = |protection: Protection, figure: fn(&protected::Figures) -> f64| {
        let at = Protection::ALL.iter().position(|p| *p == protection).unwrap_or_default();
        median(rounds.iter().filter_map(|round| round.get(at)).map(figure))
    };
    if rounds.is_empty() {
        return Vec::new();
    }
    let p50 = |protection| of(protection, |f| f.one.measured.latency.p50);
    let cpu = |protection| of(protection, |f| f.many.cpu.iter().map(|(_, seconds)| seconds).sum());
    let verdict = |what, target, measured, unit, bound| Verdict {
        what,
        target,
        measured,
        unit,
        bound,
        at_least: false,
    };
    vec![
        verdict(
            "signed request over unsigned, p50, both ends together",
            "under 0.2 ms".into(),
            p50(Protection::Signed) - p50(Protection::Unsigned),
            "ms",
            0.2,
        ),
        verdict(
            "CPU of 100,000 sealed small requests, all ends together",
            format!("less than signed: {} s", figure(cpu(Protection::Signed))),
            cpu(Protection::Sealed),
            "s",
            cpu(Protection::Signed),
        ),
    ]
}

fn targets(results: &Results) -> String {
    let row = |name: &str| results.rows.iter().find(|row| row.name == name);
    let (Some(direct), Some(ours)) = (row("direct"), row("ours")) else { return String::new() };
    let at_least = |what, target: String, measured, unit, bound| Verdict {
        what,
        target,
        measured,
        unit,
        bound,
        at_least: true,
    };
    let at_most = |what, target: String, measured, unit, bound| Verdict {
        what,
        target,
        measured,
        unit,
        bound,
        at_least: false,
    };
    let mut all = Vec::new();
    if let Some(rathole) = row("rathole") {
        let theirs = rathole.median(|r| r.many.per_second);
        let own = ours.median(|r| r.many.per_second);
        all.push(at_least(
            "small requests, 64 connections",
            format!("rathole in this run: {} req/s", figure(theirs)),
            own,
            "req/s",
            theirs,
        ));
    }
    let p50 = ours.median(|r| r.one.latency.p50) - direct.median(|r| r.one.latency.p50);
    all.push(at_most("1 connection, p50 over direct", "under 0.1 ms".into(), p50, "ms", 0.1));
    all.push(at_most(
        "1 connection, p99",
        "under 1 ms".into(),
        ours.median(|r| r.one.latency.p99),
        "ms",
        1.0,
    ));
    all.push(at_most(
        "1 connection, p99.9: no 40 ms stall",
        "under 40 ms".into(),
        ours.median(|r| r.one.latency.p999),
        "ms",
        40.0,
    ));
    for (what, rate) in [("bulk down", Round::Down), ("bulk up", Round::Up)] {
        let (own, bare) = (rate.of(ours), rate.of(direct));
        all.push(at_least(what, "1,500 MB/s".into(), own, "MB/s", 1500.0));
        all.push(at_least(
            what,
            format!("a third of direct: {} MB/s", figure(bare / 3.0)),
            own,
            "MB/s",
            bare / 3.0,
        ));
        if let Some(theirs) = row("rathole").map(|r| rate.of(r)) {
            all.push(at_least(
                what,
                format!("twice rathole: {} MB/s", figure(theirs * 2.0)),
                own,
                "MB/s",
                theirs * 2.0,
            ));
        }
    }
    all.extend(protection_targets(&results.protected));
    let alone = ours.median(|r| r.one.latency.p99);
    let stalled = ours.median(|r| r.beside_stalled.latency.p99);
    all.push(at_most(
        "p99 beside a stalled reader",
        format!("twice that alone: {} ms", figure(alone * 2.0)),
        stalled,
        "ms",
        alone * 2.0,
    ));
    if let Some((count, kib)) = results.idle.with.last() {
        all.push(at_most(
            "one idle tunnel, relay's memory",
            "under 40 KiB".into(),
            per_tunnel(results, *count, *kib),
            "KiB",
            40.0,
        ));
        if *count >= 10_000 {
            all.push(at_most(
                "10,000 idle tunnels",
                "under 400 MiB".into(),
                *kib as f64 / 1024.0,
                "MiB",
                400.0,
            ));
        }
    }
    all.push(at_most(
        "relay start to serving, fresh SQLite",
        "under 100 ms".into(),
        results.start_ms.0,
        "ms",
        100.0,
    ));
    let mut out = String::from(
        "\n## Targets of the design\n\n| what | target | measured | |\n| --- | --- | --- | --- |\n",
    );
    for verdict in all {
        out.push_str(&verdict.line());
    }
    out.push_str("\nThe container image has a target too; it does not exist yet.\n");
    out
}

/// The two directions.
#[derive(Clone, Copy)]
enum Round {
    Down,
    Up,
}

impl Round {
    fn of(self, row: &Row) -> f64 {
        row.median(|round| match self {
            Self::Down => round.down,
            Self::Up => round.up,
        })
    }
}

/// `value` and how it stands to that of the first row.
fn with_ratio(value: f64, direct: f64) -> String {
    format!("{} | {:.2}", figure(value), if direct > 0.0 { value / direct } else { 0.0 })
}

fn small(rows: &[Row]) -> String {
    let mut out = String::new();
    for (title, many) in [("1 connection".to_owned(), false), (format!("{MANY} connections"), true)] {
        let _ = write!(
            out,
            "\n## GET of 1 KiB, {title}\n\n| | req/s | of direct | p50 ms | p99 ms | p99.9 ms | longest ms |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        );
        let pick = |round: &crate::compare::Round| if many { round.many.clone() } else { round.one.clone() };
        let direct = rows.first().map_or(0.0, |row| row.median(|r| pick(r).per_second));
        for row in rows {
            let latency =
                |f: fn(crate::stats::Latency) -> f64| format!("{:.3}", row.median(|r| f(pick(r).latency)));
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} |",
                row.name,
                with_ratio(row.median(|r| pick(r).per_second), direct),
                latency(|l| l.p50),
                latency(|l| l.p99),
                latency(|l| l.p999),
                latency(|l| l.max)
            );
        }
    }
    out
}

fn bulk(rows: &[Row]) -> String {
    let mut out = String::from(
        "\n## Bulk, one stream\n\n| | down MB/s | of direct | up MB/s | of direct |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    let direct = |rate: Round| rows.first().map_or(0.0, |row| rate.of(row));
    for row in rows {
        let cell = |rate: Round| with_ratio(rate.of(row), direct(rate));
        let _ = writeln!(out, "| {} | {} | {} |", row.name, cell(Round::Down), cell(Round::Up));
    }
    out
}

fn beside(rows: &[Row]) -> String {
    let mut out = String::from(
        "\n## Small requests on one connection, with company\n\nOn the same tunnel, at the same time: a download at full speed, and a download that nobody reads.\n\n\
         | | p50 / p99 ms alone | beside bulk | beside a stalled reader |\n| --- | ---: | ---: | ---: |\n",
    );
    for row in rows {
        let cell = |pick: fn(&crate::compare::Round) -> &crate::load::Measured| {
            format!("{:.3} / {:.3}", row.median(|r| pick(r).latency.p50), row.median(|r| pick(r).latency.p99))
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            row.name,
            cell(|r| &r.one),
            cell(|r| &r.beside_bulk),
            cell(|r| &r.beside_stalled)
        );
    }
    out
}

fn cpu(rows: &[Row]) -> String {
    let mut out = format!(
        "\n## CPU seconds per 100,000 small requests, {MANY} connections\n\n| process | s |\n| --- | ---: |\n"
    );
    for row in rows {
        let names = row.rounds.first().map(|round| round.cpu.as_slice()).unwrap_or_default();
        for (at, (name, _)) in names.iter().enumerate() {
            let seconds = row.median(|round| round.cpu.get(at).map_or(0.0, |(_, seconds)| *seconds));
            let _ = writeln!(out, "| {name} | {seconds:.2} |");
        }
    }
    out
}

/// One table for each thing that is measured, a column for each protection.
fn protection(rounds: &[protected::Round]) -> String {
    if rounds.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "\n## Unsigned, signed and sealed, through our relay and agent\n\n\
         The client is a paired browser in Rust that signs or seals each request and opens each record, on the same machine; its work\n\
         is in the figures. A small answer is three records (head, data, end). First byte: of a body of 4 MiB, on a connection that is\n\
         open. Up: requests of 16 MiB, each of which a signed browser has to read twice.\n\n",
    );
    let columns = || Protection::ALL.iter().enumerate();
    let titles = columns().map(|(_, p)| format!(" {} |", p.name())).collect::<String>();
    let rule = "| --- |".to_owned() + &" ---: |".repeat(Protection::ALL.len());
    let of = |at: usize, figure: &dyn Fn(&protected::Figures) -> f64| {
        median(rounds.iter().filter_map(|round| round.get(at)).map(figure))
    };
    type Pick = fn(&protected::Figures) -> &protected::Figure;
    let lines: [(String, Pick); 4] = [
        ("GET of 1 KiB, 1 connection".into(), |f| &f.one),
        (format!("GET of 1 KiB, {MANY} connections"), |f| &f.many),
        ("first byte".into(), |f| &f.first_byte),
        ("WebSocket, echo of 64 bytes".into(), |f| &f.socket),
    ];
    let _ = writeln!(out, "| per second |{titles}\n{rule}");
    for (name, pick) in &lines {
        let cells =
            columns().map(|(at, _)| format!(" {} |", figure(of(at, &|f| pick(f).measured.per_second))));
        let _ = writeln!(out, "| {name} |{}", cells.collect::<String>());
    }
    let _ = writeln!(out, "\n| p50 / p99 ms |{titles}\n{rule}");
    for (name, pick) in &lines {
        let cells = columns().map(|(at, _)| {
            let latency = |of_one: fn(&Latency) -> f64| of(at, &|f| of_one(&pick(f).measured.latency));
            format!(" {:.3} / {:.3} |", latency(|l| l.p50), latency(|l| l.p99))
        });
        let _ = writeln!(out, "| {name} |{}", cells.collect::<String>());
    }
    let bulk: [(&str, Pick); 2] = [("down", |f| &f.down), ("up", |f| &f.up)];
    let _ = writeln!(out, "\n| large bodies, MB/s |{titles}\n{rule}");
    for (name, pick) in bulk {
        let cells =
            columns().map(|(at, _)| format!(" {} |", figure(of(at, &|f| pick(f).measured.per_second))));
        let _ = writeln!(out, "| {name} |{}", cells.collect::<String>());
    }
    let many: Pick = |f| &f.many;
    for (title, scale, pick) in [
        ("CPU seconds per 100,000 of the small requests", 1.0, many),
        // Seconds per GiB are that many 1024ths of a second per MiB.
        ("CPU ms per MiB down", 1000.0 / 1024.0, bulk[0].1),
        ("CPU ms per MiB up", 1000.0 / 1024.0, bulk[1].1),
    ] {
        let _ = writeln!(out, "\n| {title} |{titles}\n{rule}");
        let names = rounds.first().and_then(|round| round.first()).map(|f| pick(f).cpu.as_slice());
        for (number, (name, _)) in names.unwrap_or_default().iter().enumerate() {
            let cells = columns().map(|(at, _)| {
                let used = of(at, &|f| pick(f).cpu.get(number).map_or(0.0, |(_, seconds)| *seconds));
                format!(" {} |", figure(used * scale))
            });
            let _ = writeln!(out, "| {name} |{}", cells.collect::<String>());
        }
    }
    out
}

fn per_tunnel(results: &Results, count: usize, kib: u64) -> f64 {
    kib.saturating_sub(results.idle.before_kib) as f64 / count.max(1) as f64
}

fn relay(results: &Results) -> String {
    let idle = &results.idle;
    let mib = |kib: u64| kib as f64 / 1024.0;
    let mut out = format!(
        "\n## The relay's memory with idle tunnels\n\n| tunnels | resident MiB | KiB for each |\n| ---: | ---: | ---: |\n| 0 | {:.1} | |\n",
        mib(idle.before_kib)
    );
    for (count, kib) in &idle.with {
        let _ = writeln!(out, "| {count} | {:.1} | {:.1} |", mib(*kib), per_tunnel(results, *count, *kib));
    }
    let _ = writeln!(out, "| all left | {:.1} | |", mib(idle.after_kib));
    let (fresh, again) = results.start_ms;
    let _ = write!(
        out,
        "\n## The relay's start to its first answer\n\n| | ms |\n| --- | ---: |\n| no database yet | {fresh:.0} |\n| an existing one | {again:.0} |\n"
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_say_by_how_much() {
        let verdict = |measured, bound, at_least| {
            Verdict { what: "w", target: "t".into(), measured, unit: "u", bound, at_least }.line()
        };
        assert_eq!(verdict(200.0, 100.0, true), "| w | t | 200 u | met |\n");
        assert_eq!(verdict(80.0, 100.0, true), "| w | t | 80.0 u | **missed** by 20 % |\n");
        assert_eq!(verdict(0.5, 1.0, false), "| w | t | 0.500 u | met |\n");
        assert_eq!(verdict(1.5, 1.0, false), "| w | t | 1.50 u | **missed** by 50 % |\n");
    }
}
