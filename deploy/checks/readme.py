"""What the relay knows, from the tables of README.md, which the program itself writes."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def table(name):
    """The rows of one of the tables, each a list of its cells."""
    text = (ROOT / "README.md").read_text()
    inside = re.search(rf"<!-- {name}:begin -->(.*?)<!-- {name}:end -->", text, re.S)
    if not inside:
        raise SystemExit(f"README.md has no table of {name}")
    rows = [line for line in inside[1].splitlines() if line.startswith("|")]
    # A bar inside a cell is written `\|`.
    cells = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    return cells[2:]


def settings():
    """The environment variables that the relay reads, and their defaults."""
    found = {}
    for cell, _, default, *_ in table("settings"):
        names = [name for name in re.findall(r"`([A-Z][A-Z0-9_]*)`", cell)]
        if "each also with" in cell:
            names += [f"{name}_FILE" for name in names]
        found.update(dict.fromkeys(names, default.strip("`")))
    return found


def metrics():
    """The relay's metrics: for each its kind, and its labels with their values, or None where they are open."""
    found = {}
    for name, kind, labels, *_ in table("metrics"):
        pairs = (pair.split("=", 1) for pair in labels.strip("`").split())
        values = {label: None if text == "…" else text.split("|") for label, text in pairs}
        found[name.strip("`")] = (kind, values)
    return found


def seconds(duration):
    """A duration of the relay's settings in seconds."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)", duration).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
