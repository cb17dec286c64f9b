"""Checks the service files: systemd's as systemd itself judges them, launchd's by what the agent knows.
"""

import os
import plistlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import readme
import relay

SYSTEMD = readme.ROOT / "deploy/systemd"
PLIST = readme.ROOT / "deploy/launchd/local-agent-client.plist"
UNITS = ["relay-server", "local-agent-client"]
PROGRAMS = Path(os.environ["RELAY_SERVER"]).parent
# Exposure that systemd-analyze may find, of 10; in tenths, as it takes it.
EXPOSURE = 15
# What closing takes at most after the drain, in seconds.
CLOSING = 10
# How long the agent lets requests under way finish, in seconds.
AGENT_DRAIN = 30


def agent_settings():
    """The environment variables of the agent, from its table in README.md."""
    text = (readme.ROOT / "README.md").read_text()
    part = text.split("## The agent", 1)[1].split("\n## ", 1)[0]
    rows = [row.split("|")[2] for row in part.splitlines() if row.startswith("| `--")]
    return {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)", row)}


def lines(text, key):
    """All values of a key, in their order."""
    return re.findall(rf"^{key}=(.*)$", text, re.M)


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|min)", text).groups()
    return int(number) * {"s": 1, "min": 60}[unit]


def judged(name, text):
    """What systemd-analyze says of the unit, with the program where it is built."""
    program = lines(text, "ExecStart")[0].split()[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.service"
        path.write_text(text.replace(program, str(PROGRAMS / Path(program).name)))
        out = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True)
        # An unknown key is a warning there, and worth a complaint here.
        said = [line for line in (out.stdout + out.stderr).splitlines() if f"{name}.service" in line]
        if out.returncode or said:
            yield "systemd-analyze verify: " + "; ".join(said or [out.stderr])
        args = ["security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE}", path]
        out = subprocess.run(["systemd-analyze", *args], capture_output=True, text=True)
        if out.returncode:
            yield f"systemd-analyze security: {(out.stdout + out.stderr).strip().splitlines()[-1]}"


def unit(name, text):
    settings = readme.settings() if name == "relay-server" else agent_settings()
    for line in lines(text, "Environment"):
        if line.split("=")[0] not in settings:
            yield f"there is no setting {line.split('=')[0]}"
    program, command = lines(text, "ExecStart")[0].split()
    known = subprocess.run([PROGRAMS / Path(program).name, command, "--help"], capture_output=True)
    if known.returncode:
        yield f"{program} has no command {command}"
    if lines(text, "Type") != ["notify"] or not lines(text, "WatchdogSec"):
        yield "systemd is not told when it is ready, or that it lives"
    drain = AGENT_DRAIN
    if name == "relay-server":
        drain = readme.seconds(settings["RELAY_DRAIN_TIMEOUT"])
        if lines(text, "RestartPreventExitStatus") != [str(relay.BAD_SETTINGS)]:
            yield "bad settings are tried again and again"
        if int(lines(text, "LimitNOFILE")[0]) < 2 * int(settings["RELAY_MAX_TCP_CONNECTIONS"]):
            yield "it may open fewer files than two for each connection"
    if seconds(lines(text, "TimeoutStopSec")[0]) < drain + CLOSING:
        yield f"it is killed before its drain of {drain} s is over"
    if lines(text, "DynamicUser") != ["yes"] or lines(text, "StateDirectoryMode") != ["0700"]:
        yield "its user or its folder are not its own"
    yield from judged(name, text)


def plist(content):
    if content["ProgramArguments"][1:] != ["run"]:
        yield "it does not run the agent"
    for name in content["EnvironmentVariables"]:
        if name not in agent_settings():
            yield f"there is no setting {name}"
        if "TOKEN" in name:
            yield "a token is in a file that everybody reads"
    if content["ExitTimeOut"] < AGENT_DRAIN + CLOSING:
        yield f"it is killed before its drain of {AGENT_DRAIN} s is over"
    if content["KeepAlive"] != {"SuccessfulExit": False} or not content["RunAtLoad"]:
        yield "it is not kept running"


# What replaces what in the relay's unit, and what has to be found then.
BROKEN = [
    ("Restart=on-failure", "Restart=on-failures", "verify"),
    ("ProtectHome=yes", "ProtectHomes=yes", "verify"),
    ("SystemCallFilter=", "#SystemCallFilter=", "security"),
    ("RELAY_DATA_DIR", "RELAY_DATA", "no setting"),
    ("server serve", "server server", "no command"),
    ("TimeoutStopSec=45s", "TimeoutStopSec=30s", "is killed"),
    ("Type=notify", "Type=exec", "is not told"),
    ("LimitNOFILE=40000", "LimitNOFILE=1024", "fewer files"),
]


def main():
    found = []
    for name in UNITS:
        text = (SYSTEMD / f"{name}.service").read_text()
        found += [f"{name}.service: {what}" for what in unit(name, text)]
    sound = (SYSTEMD / "relay-server.service").read_text()
    for old, new, what in BROKEN:
        if old not in sound or not any(what in complaint for complaint in unit("relay-server", sound.replace(old, new))):
            found.append(f"the check does not find {new}")
    found += [f"{PLIST.name}: {what}" for what in plist(plistlib.loads(PLIST.read_bytes()))]
    for complaint in found:
        print(f"units: {complaint}", file=sys.stderr)
    if found:
        raise SystemExit(1)
    print(f"units: {len(UNITS)} services of systemd and one of launchd are sound, {len(BROKEN)} broken ones are found")


if __name__ == "__main__":
    main()
