#!/usr/bin/env bash
# Writes the relay's own list of settings between the markers of README.md, or with --check says
# whether it is there already. The program is the one source; this only copies.
set -euo pipefail
cd "$(dirname "$0")/../.."

table=$(mktemp)
wanted=$(mktemp)
trap 'rm -f "$table" "$wanted"' EXIT
cargo run --quiet -p relay-server -- settings --markdown >"$table"
[ -s "$table" ] || { echo "settings: relay-server printed no table" >&2; exit 1; }

awk -v table="$table" '
  /<!-- settings:begin -->/ { print; print ""; while ((getline line < table) > 0) print line; print ""; inside = 1; begun++ }
  /<!-- settings:end -->/ { inside = 0; ended++ }
  !inside && !/<!-- settings:begin -->/ { print }
  END { if (begun != 1 || ended != 1) exit 1 }
' README.md >"$wanted" || { echo "settings: README.md needs each settings marker once" >&2; exit 1; }

if [ "${1:-}" = --check ]; then
  diff -u README.md "$wanted" || { echo "settings: README.md is behind the program; run: make settings" >&2; exit 1; }
  echo "README.md lists the settings that the program has"
else
  cp "$wanted" README.md
fi
