"""Checks what watches the relay: alert rules with their tests, and the dashboard.

promtool judges the language; here each metric, label and value is compared with the relay's own table, so that no
rule waits for something that never comes.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

import readme

RULES = readme.ROOT / "deploy/prometheus/rules.yml"
TESTS = readme.ROOT / "deploy/prometheus/tests.yml"
CONFIG = readme.ROOT / "deploy/prometheus/prometheus.yml"
DASHBOARD = readme.ROOT / "deploy/grafana/dashboard.json"
# What Prometheus itself puts on every series, and of its own.
OF_PROMETHEUS = {"up": ("gauge", {})}
EVERYWHERE = {"instance", "job", "le"}
WORDS = {"and", "or", "unless", "on", "by", "without", "ignoring", "bool", "group_left", "group_right", "offset"}
# What the shipped thresholds are of a setting's default.
NEAR = 0.8


def promtool(*args):
    out = subprocess.run(["promtool", *args], capture_output=True, text=True)
    if out.returncode:
        yield f"promtool {' '.join(map(str, args))}: {out.stdout}{out.stderr}"


def selectors(expr):
    """The metrics of an expression, each with its matchers, and whether a function of counters is around it."""
    expr = strip(expr)
    for found in re.finditer(r"(\w+\()?\s*\b([a-z_]\w*)\b(?:\{([^}]*)\})?", expr):
        around, name, matchers = found.groups()
        if name in WORDS or expr[found.end(2) :].lstrip().startswith("("):
            continue
        yield name, re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers or ""), around


def strip(expr):
    """Without the lists of labels after `by` and the like, whose names are no metrics, and the durations."""
    expr = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", "", expr)
    return re.sub(r"\[[^]]*\]", "", expr)


def codes():
    """The codes of the relay's own answers, which README.md lists."""
    text = (readme.ROOT / "README.md").read_text()
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| \d{3}", text, re.M)
    return {code for row in rows for code in re.findall(r"`(\w+)`", row)}


def unknown(expr):
    """What the expression names and the relay does not have."""
    known = readme.metrics() | OF_PROMETHEUS
    labels = set(EVERYWHERE)
    names = 0
    for name, matchers, around in selectors(expr):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if known.get(base, ("",))[0] == "histogram":
            name = base
        if name not in known:
            yield f"there is no metric {name}"
            continue
        names += 1
        kind, of_metric = known[name]
        labels |= set(of_metric)
        if kind == "gauge" and around in ("rate(", "increase("):
            yield f"{name} is a gauge and has no rate"
        for label, operator, text in matchers:
            if label in EVERYWHERE:
                continue
            if label not in of_metric:
                yield f"{name} has no label {label}"
                continue
            possible = codes() if of_metric[label] is None else set(of_metric[label])
            for value in text.split("|"):
                if value not in possible:
                    yield f"{name} never has {label}={value}"
    if not names:
        yield "it has no metric"
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expr):
        for label in re.findall(r"\w+", group):
            if label not in labels:
                yield f"no metric in it has a label {label}"


def rules():
    fired = {
        alert
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for case in test["promql_expr_test"]
        for sample in case["exp_samples"]
        for alert in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    # With everything well there is nothing, not even what waits: each metric of the rules is in that test.
    well = yaml.safe_load(TESTS.read_text())["tests"][0]
    quiet = {re.match(r"\w+", series["series"])[0] for series in well["input_series"]}
    defaults = readme.settings()
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            name, expr = rule["alert"], rule["expr"]
            for what in unknown(expr):
                yield f"{name}: {what}"
            if name not in fired:
                yield f"{name}: no test lets it fire"
            for metric, _, _ in selectors(expr):
                if metric not in quiet:
                    yield f"{name}: {metric} is not in the test of a relay that is well"
            if rule["labels"]["severity"] not in ("page", "ticket"):
                yield f"{name}: severity {rule['labels']['severity']}"
            if not {"summary", "action"} <= set(rule["annotations"]):
                yield f"{name}: it does not say what is wrong and what to do"
            setting = rule["annotations"].get("setting")
            if setting and int(expr.split()[-1]) != int(int(defaults[setting]) * NEAR):
                yield f"{name}: {expr.split()[-1]} is not four fifths of {defaults[setting]}, the default of {setting}"


def expressions(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def parsed(named):
    """Whether promtool reads the expressions, with Grafana's variables filled in."""
    rules = [
        {"record": f"panel:{number}", "expr": expr.replace("$__rate_interval", "5m").replace("$instance", ".*")}
        for number, (_, expr) in enumerate(named)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panels.yml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
        yield from promtool("check", "rules", path)


def dashboard(board):
    if board["schemaVersion"] < 39 or not board["uid"] or board["title"] != "Sidecar Relay":
        yield "it is no dashboard of Grafana 11 with a name and an id"
    variables = {variable["name"] for variable in board["templating"]["list"]}
    ids, taken = set(), set()
    for panel in board["panels"]:
        title, place = panel["title"], panel["gridPos"]
        if panel["id"] in ids:
            yield f"{title}: its id is another panel's, too"
        ids.add(panel["id"])
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        if cells & taken or max(x for x, _ in cells) > 23:
            yield f"{title}: it lies on another panel, or beyond the edge"
        taken |= cells
        if panel["type"] == "row":
            continue
        if not panel.get("description") or not panel.get("targets"):
            yield f"{title}: it does not say what it shows"
        for part in [panel, *panel["targets"]]:
            if part["datasource"]["uid"] != "${datasource}":
                yield f"{title}: its data source is somebody's own"
    named = list(expressions(board))
    for title, expr in named:
        for what in unknown(expr):
            yield f"{title}: {what}"
        for variable in re.findall(r"\$(\w+)", expr):
            if variable not in variables | {"__rate_interval"}:
                yield f"{title}: there is no variable {variable}"
    yield from parsed(named)


# Expressions in which something has to be found.
BROKEN = {
    "no metric relay_tunnels": "relay_tunnels > 0",
    "is a gauge": "rate(relay_tunnel_open[5m])",
    "has no label": 'relay_tunnel_closed_total{why="lost"}',
    "never has": 'relay_tunnel_closed_total{reason=~"lost|bored"}',
    "never has code": 'relay_proxy_refused_total{code="nonsense"}',
    "has a label": "sum by (reason) (relay_tunnel_open)",
    "it has no metric": "vector(1) > 2",
}


def main():
    board = json.loads(DASHBOARD.read_text())
    found = [
        *promtool("check", "rules", RULES),
        *promtool("check", "config", "--syntax-only", CONFIG),
        *promtool("test", "rules", TESTS),
        *(f"rules: {what}" for what in rules()),
        *(f"dashboard: {what}" for what in dashboard(board)),
    ]
    for what, expr in BROKEN.items():
        if not any(what in complaint for complaint in unknown(expr)):
            found.append(f"the check does not find: {expr}")
    if not list(parsed([("", "sum(up")])):
        found.append("the check does not find what is no PromQL")
    for complaint in found:
        print(f"observability: {complaint}", file=sys.stderr)
    if found:
        raise SystemExit(1)
    count = len(list(expressions(board)))
    print(f"observability: rules fire and stay quiet as they shall, {count} expressions of the dashboard are sound")


if __name__ == "__main__":
    main()
