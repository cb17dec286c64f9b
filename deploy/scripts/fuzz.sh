#!/usr/bin/env bash
# `make fuzz`: every fuzz target for FUZZ_SECONDS (30) each, or those named in TARGETS. Findings stay
# in fuzz/artifacts, what was learnt in fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
seconds=${FUZZ_SECONDS:-30}

command -v c++ >/dev/null || { echo "fuzz: a C++ compiler is needed (Debian's package build-essential)" >&2; exit 1; }
if command -v cargo-fuzz >/dev/null; then
  fuzz=$(command -v cargo-fuzz)
else
  fuzz=$target/tools/bin/cargo-fuzz
  [ -x "$fuzz" ] || cargo install cargo-fuzz --root "$target/tools"
fi

# cargo-fuzz passes flags that a stable compiler takes only with this. No sanitizer: our code has no
# unsafe part; what is looked for are panics, hangs and memory.
export RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR=$target/fuzz
"$fuzz" build --sanitizer none

for name in ${TARGETS:-$("$fuzz" list)}; do
  printf '\n=== fuzz %s, %s s\n' "$name" "$seconds"
  corpus=fuzz/corpus/$name
  mkdir -p "$corpus"
  seeds=()
  [ ! -d "fuzz/seeds/$name" ] || seeds=("fuzz/seeds/$name")
  "$fuzz" run --sanitizer none "$name" "$corpus" "${seeds[@]}" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1
done
printf '\nfuzz: nothing found\n'
