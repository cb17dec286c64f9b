//! Reads what `/metrics` says, as strictly as Prometheus' text format (version 0.0.4) is written down: every sample
//! belongs to a family that was announced with its type before it, no series stands twice, histograms add up.

use std::collections::{BTreeMap, HashSet};

use crate::relay::Relay;

/// The labels of a series, in the order of their names.
pub type Labels = BTreeMap<String, String>;

/// Samples of one name.
#[derive(Debug, Clone)]
pub struct Family {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// What the help line says.
    pub help: String,
    /// The samples: the suffix of the name (`_bucket`, `_sum`, `_count` or nothing), labels, value.
    pub samples: Vec<(String, Labels, f64)>,
}

/// A row of the README's table.
#[derive(Debug, Clone)]
pub struct Row {
    /// The metric's name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// Labels, each with its values.
    pub labels: BTreeMap<String, Vec<String>>,
}

/// The table as the program prints it for the README.
pub async fn table(relay: &Relay) -> Vec<Row> {
    let out = relay.cli(&["metrics", "--markdown"]).await;
    assert!(out.status.success(), "{out:?}");
    let row = |line: &str| {
        let line = line.replace("\\|", "\u{1}");
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect();
        let [_, name, kind, labels, help, _] = cells.as_slice() else { panic!("{line}") };
        assert!(!help.is_empty(), "{line}");
        let values = |label: &str| {
            let (key, values) = label.split_once('=').unwrap_or_else(|| panic!("{line}"));
            (key.to_owned(), values.split('\u{1}').map(ToOwned::to_owned).collect())
        };
        let labels = labels.split_whitespace().map(values).collect();
        Row { name: name.clone(), kind: kind.clone(), labels }
    };
    let rows: Vec<_> = out.stdout.lines().skip(2).map(row).collect();
    assert!(rows.len() > 30, "{}", out.stdout);
    rows
}

/// How the beginning and the end of a thing are called, where each has a counter of its own.
const PAIRS: [(&str, &str); 3] =
    [("_opened_", "_closed_"), ("_begun_", "_ended_"), ("_attached_", "_detached_")];

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Exposition(pub BTreeMap<String, Family>);

impl Exposition {
    /// Reads an answer, and tells the line that is not as it has to be.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.ends_with('\n') {
            return Err("the last line does not end".to_owned());
        }
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let (mut helped, mut current) = (None::<(String, String)>, String::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            let bad = |what: &str| format!("{what}: {line:?}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or_else(|| bad("no help"))?;
                helped = Some((name.to_owned(), help.to_owned()));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or_else(|| bad("no type"))?;
                if !["counter", "gauge", "histogram"].contains(&kind) || !is_name(name, ':') {
                    return Err(bad("no such type or name"));
                }
                let (helped_name, help) = helped.take().ok_or_else(|| bad("no help before it"))?;
                if helped_name != name {
                    return Err(bad("the help before it is another's"));
                }
                let family = Family { kind: kind.to_owned(), help, samples: Vec::new() };
                if families.insert(name.to_owned(), family).is_some() {
                    return Err(bad("announced twice"));
                }
                name.clone_into(&mut current);
            } else if line.starts_with('#') {
                return Err(bad("no such comment"));
            } else {
                let (name, labels, value) = sample(line).ok_or_else(|| bad("no sample"))?;
                let family = families.get_mut(&current).ok_or_else(|| bad("nothing announced"))?;
                let suffix = name.strip_prefix(current.as_str()).ok_or_else(|| bad("another's sample"))?;
                let allowed: &[&str] =
                    if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                if !allowed.contains(&suffix) {
                    return Err(bad("another's sample"));
                }
                if family.kind != "gauge" && !(value.is_finite() && value >= 0.0) {
                    return Err(bad("not a count"));
                }
                family.samples.push((suffix.to_owned(), labels, value));
            }
        }
        for (name, family) in &families {
            family.check().map_err(|what| format!("{name}: {what}"))?;
        }
        Ok(Self(families))
    }

    /// The sum of a name's samples with this label, or of all of them. Of a histogram, the number of values.
    pub fn sum(&self, name: &str, label: Option<(&str, &str)>) -> f64 {
        let Some(family) = self.0.get(name) else { return 0.0 };
        let wanted = if family.kind == "histogram" { "_count" } else { "" };
        let has =
            |labels: &Labels| label.is_none_or(|(key, value)| labels.get(key).is_some_and(|v| v == value));
        family.samples.iter().filter(|(s, l, _)| s == wanted && has(l)).map(|(_, _, value)| value).sum()
    }

    /// What opened and did not close: the name, the value of its label if it has one, how many.
    pub fn open(&self) -> Vec<(String, String, f64)> {
        let mut open = Vec::new();
        for (name, family) in &self.0 {
            let pair = PAIRS.iter().find(|(opens, _)| name.contains(opens));
            let Some(partner) = pair.map(|(opens, closes)| name.replace(opens, closes)) else { continue };
            assert!(self.0.contains_key(&partner), "{name} has no partner");
            for (_, labels, _) in &family.samples {
                assert!(labels.len() <= 1, "{name}: {labels:?}");
                let label = labels.iter().next().map(|(key, value)| (key.as_str(), value.as_str()));
                let left = self.sum(name, label) - self.sum(&partner, label);
                if left != 0.0 {
                    open.push((name.clone(), label.map_or("", |(_, value)| value).to_owned(), left));
                }
            }
        }
        open
    }
}

impl Family {
    fn check(&self) -> Result<(), String> {
        let mut seen = HashSet::new();
        for (suffix, labels, _) in &self.samples {
            if !seen.insert((suffix, labels)) {
                return Err(format!("{suffix}{labels:?} twice"));
            }
        }
        if self.samples.is_empty() {
            return Err("announced, and no sample".to_owned());
        }
        if self.kind != "histogram" {
            return Ok(());
        }
        let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for (suffix, labels, value) in &self.samples {
            if suffix == "_bucket" {
                let mut labels = labels.clone();
                let bound = labels.remove("le").and_then(|le| number(&le)).ok_or("a bucket without bound")?;
                series.entry(labels).or_default().push((bound, *value));
            }
        }
        for (labels, buckets) in &series {
            if !buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) {
                return Err(format!("{labels:?}: buckets do not rise: {buckets:?}"));
            }
            let one = |wanted: &str| {
                self.samples.iter().find(|(s, l, _)| s == wanted && l == labels).map(|(_, _, value)| *value)
            };
            let last = buckets.last().filter(|(bound, _)| *bound == f64::INFINITY).map(|(_, count)| *count);
            if last.is_none() || last != one("_count") || one("_sum").is_none() {
                return Err(format!("{labels:?}: the last bucket is not the count, or no sum"));
            }
        }
        let parts = self.samples.iter().filter(|(suffix, ..)| suffix == "_count").count();
        if parts == series.len() { Ok(()) } else { Err("counts without buckets".to_owned()) }
    }
}

fn is_name(name: &str, also: char) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == also;
    !name.is_empty() && name.chars().all(fine) && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        // Rust's own words for these are not the format's.
        text if text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.') => text.parse().ok(),
        _ => None,
    }
}

/// `name{key="value",…} value`, without a time.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, list) = match series.split_once('{') {
        None => (series, ""),
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
    };
    let mut labels = Labels::new();
    let mut rest = list;
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    _ => return None,
                }),
                (_, c) => value.push(c),
            }
        };
        if !is_name(key, '_') || labels.insert(key.to_owned(), value).is_some() {
            return None;
        }
        let after = after.get(end + 1..)?;
        rest = if after.is_empty() { after } else { after.strip_prefix(',').filter(|r| !r.is_empty())? };
    }
    (is_name(name, ':')).then_some((name, labels, number(value)?))
}

#[cfg(test)]
mod tests {
    use super::Exposition;

    const GOOD: &str = "# HELP a_total What a is\n# TYPE a_total counter\na_total{x=\"1\",y=\"a \\\"b\\\"\"} 3\na_total 0\n\n\
        # HELP s Seconds\n# TYPE s histogram\ns_bucket{le=\"0.5\"} 1\ns_bucket{le=\"+Inf\"} 2\ns_sum 1.5\ns_count 2\n";

    #[test]
    fn what_is_well_formed_is_read() {
        let read = Exposition::parse(GOOD).unwrap();
        assert_eq!((read.sum("a_total", None), read.sum("a_total", Some(("x", "1")))), (3.0, 3.0));
        assert_eq!((read.sum("s", None), read.sum("none", None)), (2.0, 0.0));
    }

    #[test]
    fn what_is_not_is_refused() {
        for (from, to) in [
            ("# TYPE a_total counter\n", ""),
            ("# HELP a_total What a is\n", ""),
            ("counter", "count"),
            ("a_total 0", "b_total 0"),
            ("a_total 0", "a_total{x=\"1\",y=\"a \\\"b\\\"\"} 4"),
            ("a_total 0", "a_total -1"),
            ("a_total 0", "a_total inf"),
            ("a_total 0", "a_total{x=1} 0"),
            ("a_total 0", "a_total{x=\"1\",} 0"),
            ("a_total 0", "a_total{x=\"1\" 0"),
            ("a_total 0", "a-total 0"),
            ("le=\"+Inf\"} 2", "le=\"+Inf\"} 3"),
            ("le=\"0.5\"} 1", "le=\"0.5\"} 3"),
            ("s_sum 1.5\n", ""),
            ("s_count 2\n", "s_count 2"),
            ("# HELP s Seconds\n# TYPE s ", "# HELP a_total x\n# TYPE a_total "),
        ] {
            assert!(
                GOOD.contains(from) && Exposition::parse(&GOOD.replace(from, to)).is_err(),
                "{from:?} → {to:?}"
            );
        }
    }
}
