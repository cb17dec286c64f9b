#!/usr/bin/env bash
# Writes the relay's own lists of settings and of metrics between their markers of README.md, or with
# --check says whether they are there already. The program is the one source; this only copies.
set -euo pipefail
cd "$(dirname "$0")/../.."

table=$(mktemp)
wanted=$(mktemp)
next=$(mktemp)
trap 'rm -f "$table" "$wanted" "$next"' EXIT
cp README.md "$wanted"

# As `make test` builds: a single package, or no tests, would have other features, and build much anew.
cargo build --quiet --workspace --all-targets
program=${CARGO_TARGET_DIR:-target}/debug/relay-server
for list in settings metrics; do
  "$program" "$list" --markdown >"$table"
  [ -s "$table" ] || { echo "settings: relay-server printed no table of $list" >&2; exit 1; }
  awk -v table="$table" -v begin="<!-- $list:begin -->" -v end="<!-- $list:end -->" '
    index($0, begin) { print; print ""; while ((getline line < table) > 0) print line; print ""; inside = 1; begun++ }
    index($0, end) { inside = 0; ended++ }
    !inside && !index($0, begin) { print }
    END { if (begun != 1 || ended != 1) exit 1 }
  ' "$wanted" >"$next" || { echo "settings: README.md needs each marker of $list once" >&2; exit 1; }
  cp "$next" "$wanted"
done

if [ "${1:-}" = --check ]; then
  diff -u README.md "$wanted" || { echo "settings: README.md is behind the program; run: make settings" >&2; exit 1; }
  echo "README.md lists the settings and metrics that the program has"
else
  cp "$wanted" README.md
fi
