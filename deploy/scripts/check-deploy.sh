#!/usr/bin/env bash
# Checks the deployment files: Kubernetes, Compose, Prometheus, Grafana, systemd, launchd. Each against the schema or
# the program that judges it for good, and against what the relay itself says of its settings and metrics. Takes the
# names of checks, or runs all of them.
#
# What it needs of npm and PyPI goes into target/tools, as deploy/checks/package-lock.json and requirements.txt say.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/tools"
DEPLOY_TOOLS=$(cd "$target/tools" && pwd)
export DEPLOY_TOOLS
RELAY_SERVER=$(cd "$target" && pwd)/debug/relay-server
export RELAY_SERVER PYTHONDONTWRITEBYTECODE=1
[ -x "$RELAY_SERVER" ] || { echo "check-deploy: no $RELAY_SERVER: run cargo build --workspace first" >&2; exit 1; }

# fetched WHAT FILE COMMAND…: runs the command unless it has run for the very same file.
fetched() {
  local stamp=$DEPLOY_TOOLS/$1.of file=$2
  shift 2
  cmp -s "$file" "$stamp" && return
  "$@"
  cp "$file" "$stamp"
}
python_tools() {
  python3 -m venv --clear "$DEPLOY_TOOLS/python"
  "$DEPLOY_TOOLS/python/bin/pip" install --quiet --disable-pip-version-check --requirement deploy/checks/requirements.txt
}
npm_tools() {
  cp deploy/checks/package.json deploy/checks/package-lock.json "$DEPLOY_TOOLS"
  # The validators of Traefik's objects ask for a newer Node.js than they need; nothing of the packages is run on install.
  npm ci --prefix "$DEPLOY_TOOLS" --ignore-scripts --no-audit --no-fund --loglevel=error
}
# Only the program: Debian's package would start a server of its own.
promtool_alone() {
  local folder=$DEPLOY_TOOLS/prometheus
  rm -rf "$folder" && mkdir "$folder"
  (cd "$folder" && { apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }; })
  dpkg-deb --extract "$folder"/prometheus_*.deb "$folder"
  rm "$folder"/prometheus_*.deb "$folder/usr/bin/prometheus"
}
export PATH=$PATH:$DEPLOY_TOOLS/prometheus/usr/bin
command -v promtool >/dev/null || promtool_alone || { echo "check-deploy: no promtool: install Prometheus" >&2; exit 1; }
command -v systemd-analyze >/dev/null || { echo "check-deploy: no systemd-analyze: install systemd" >&2; exit 1; }
fetched python deploy/checks/requirements.txt python_tools
fetched npm deploy/checks/package-lock.json npm_tools

checks=("$@")
[ $# -gt 0 ] || checks=(kubernetes compose observability units)
failed=0
for check in "${checks[@]}"; do
  "$DEPLOY_TOOLS/python/bin/python" "deploy/checks/$check.py" || failed=1
done
exit "$failed"
