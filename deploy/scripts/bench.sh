#!/usr/bin/env bash
# `make bench`: builds everything optimised, compares side by side, rewrites benches/RESULTS.md.
#
#   BENCH_ROUNDS (3), BENCH_SECONDS (5), BENCH_MIB (2048), BENCH_PROTECTED_MIB (512), BENCH_IDLE (1000,10000)
#   BENCH_BROWSER_MIB (128) of a download in Chromium, a quarter of it up
#   BENCH_OUT    where the tables go, benches/RESULTS.md unless given
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
tools=$target/tools

have() { command -v "$1" >/dev/null; }
fail() { printf 'bench: %s\n' "$*" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || fail "memory and CPU are read from Linux's /proc"
have cargo || fail "cargo is needed: https://rustup.rs"
have_postgres() { have postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; }
packages=$(
  have nginx || echo nginx
  have redis-server || echo redis-server
  have_postgres || echo postgresql
)
if [ -n "$packages" ]; then
  if [ "$(id -u)" = 0 ] && have apt-get; then
    # shellcheck disable=SC2086 # one word each
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages
  else
    fail "needed, by the names of Debian's packages: ${packages//$'\n'/ }"
  fi
fi
have npm || fail "Node.js 20.19 or newer with npm is needed: https://nodejs.org"
have "${CHROMIUM:-chromium}" || fail "Chromium is needed (Debian's package chromium), or its path in CHROMIUM"
rathole=$(command -v rathole || true)
if [ -z "$rathole" ]; then
  rathole=$tools/bin/rathole
  # Not --locked: its own lock file holds a version of `time` that current compilers refuse.
  [ -x "$rathole" ] ||
    cargo install rathole --no-default-features --features server,client,websocket --root "$tools"
fi

npm --prefix browser-pairing --no-audit --no-fund ci
npm --prefix browser-pairing run build
cargo build --release -p relay-server -p local-agent-client -p benches --bins

# One descriptor for each of ten thousand tunnels, on both sides.
ulimit -n "$(ulimit -Hn)"
if [ "$(ulimit -n)" != unlimited ] && [ "$(ulimit -n)" -lt 11000 ] && [ "$(id -u)" = 0 ] && have prlimit; then
  prlimit --pid $$ --nofile=65536:65536
fi

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD -- . ':!benches/RESULTS.md' 2>/dev/null || commit="$commit with changes"
notes=()
[ ! -f benches/NOTES.md ] || notes=(--notes benches/NOTES.md)

"$target/release/benches" compare \
  --relay "$target/release/relay-server" --agent "$target/release/local-agent-client" \
  --nginx "$(command -v nginx)" --rathole "$rathole" \
  --rounds "${BENCH_ROUNDS:-3}" --seconds "${BENCH_SECONDS:-5}" --mib "${BENCH_MIB:-2048}" \
  --protected-mib "${BENCH_PROTECTED_MIB:-512}" --idle "${BENCH_IDLE:-1000,10000}" --commit "$commit" --date "$(date -u +%F)" \
  "${notes[@]}" --out "${BENCH_OUT:-benches/RESULTS.md}"

# The same machine in the same minute: several relays, and the SDK in a real browser as the client.
{
  export SYSTEM_TESTS_BIN_DIR=$target/release
  for table in broker forwarded; do
    "$target/release/benches" "$table" --rounds "${BENCH_ROUNDS:-3}" --seconds "${BENCH_SECONDS:-5}"
  done
  echo
  BENCH_ROUNDS=${BENCH_ROUNDS:-3} BENCH_SECONDS=${BENCH_SECONDS:-5} npm --silent --prefix browser-pairing run bench
} >>"${BENCH_OUT:-benches/RESULTS.md}"
