"""Starts the real relay with the settings of a deployment: they have to be what it takes.

Where the database is elsewhere, as it is for all but the standalone relay, the start ends at the database, and that
is as far as its settings have to bring it. Bad settings end it before, with an exit code of their own.
"""

import base64
import os
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import readme

PROGRAM = os.environ["RELAY_SERVER"]
# The relay's exit code for settings that it does not take.
BAD_SETTINGS = 2
# How long a start, or an end, may take on a busy machine.
SOON = 60
# What stands in for secrets: good for each of them.
SECRET = base64.b64encode(bytes(range(48))).decode()
NOBODY = "127.0.0.1:9"


@dataclass
class Outcome:
    """What a relay with these settings does."""

    complaints: list = field(default_factory=list)
    answered: set = field(default_factory=set)


def value(name, given, folder):
    """A setting as it can be used here: folders and secrets in a folder of the test, any port of loopback."""
    if name == "RELAY_LISTEN_ADDR":
        return "127.0.0.1:0"
    if name == "RELAY_DATA_DIR":
        return str(folder / "data")
    if name.endswith("_FILE"):
        path = folder / name
        path.write_text(value(name.removesuffix("_FILE"), None, folder))
        return str(path)
    if name in ("SERVER_DATABASE_URL", "DATABASE_URL") and given is None:
        return f"postgresql://relay:x@{NOBODY}/relay"
    if name == "RELAY_BACKPLANE_URL" and given is None:
        return f"redis://{NOBODY}"
    # What Kubernetes would put in.
    return SECRET if given is None else re.sub(r"\$\(\w+\)", "relay-0", given)


def started(settings, paths):
    """Starts it, asks for `paths`, and ends it."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        known = readme.settings()
        env = {name: value(name, given, folder) for name, given in settings.items() if name in known}
        env |= {"RELAY_DATABASE_TIMEOUT": "100ms", "RELAY_LOG_FORMAT": "json", "PATH": os.environ["PATH"]}
        alone = not {"SERVER_DATABASE_URL", "SERVER_DATABASE_URL_FILE", "DATABASE_URL"} & set(env)
        log = folder / "log"
        with log.open("wb") as out:
            process = subprocess.Popen([PROGRAM], env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder)
        try:
            address = listening(process, log)
            for path in paths if address else ():
                try:
                    with urllib.request.urlopen(f"http://{address}{path}", timeout=SOON) as reply:
                        outcome.answered.add(path) if reply.status == 200 else None
                except urllib.error.HTTPError:
                    pass
        finally:
            process.terminate()
            try:
                code = process.wait(SOON)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        said = log.read_text(errors="replace").strip()
        if alone and (address is None or code):
            outcome.complaints.append(f"the relay does not start with these settings: {said[-400:]}")
        if not alone and (code == BAD_SETTINGS or "opening the database" not in said):
            outcome.complaints.append(f"the relay does not take these settings: {said[-400:]}")
    return outcome


def listening(process, log):
    """Where it listens, or None when it ends instead."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        found = re.search(r"addr=(127\.0\.0\.1:\d+)", log.read_text(errors="replace"))
        if found:
            return found[1]
        if process.poll() is not None:
            return None
        time.sleep(0.05)
    return None
