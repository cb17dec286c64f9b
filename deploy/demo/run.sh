#!/usr/bin/env bash
# `make run`: a relay on SQLite with its portal, a user, an agent, and behind it the demo app, all on
# loopback. Prints a link that signs in and a pairing code; Ctrl-C ends all of it.
#
#   TRUST  `paired` (only signed requests of paired browsers reach the app) unless given; with `relay` whatever
#          the relay lets in does, and a link and curl lines that work are printed
#   PORT   the relay's port, 8082 unless it is taken, then one that the system chooses
#   FILES  the folder that the demo app shows, some samples unless given
#   STATE  where keys, database and logs are kept, data/demo unless given
set -euo pipefail
cd "$(dirname "$0")/../.."
umask 077

state=${STATE:-data/demo}
port=${PORT:-8082}
trust=${TRUST:-paired}
bin=${CARGO_TARGET_DIR:-target}/release
user=demo@localhost

# The demo is told everything by this script: nothing of the caller's environment may redirect it.
unset "${!RELAY_@}" "${!VK_@}" "${!VIBEKANBAN_@}" DATABASE_URL SERVER_DATABASE_URL LOCAL_URL HOST PORT
export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost

names=()
pids=()

say() { printf '%s\n' "$*"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }

# start NAME COMMAND…: in a process group of its own, so that Ctrl-C reaches only this script, which
# then ends the others in order.
start() {
  local name=$1
  shift
  set -m
  "$@" </dev/null >"$state/logs/$name.log" 2>&1 &
  set +m
  names+=("$name")
  pids+=("$!")
}

# Stops with the name and the last words of a program that has ended.
watch() {
  local i
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    printf 'demo: %s has ended; its last lines (%s):\n' "${names[i]}" "$state/logs/${names[i]}.log" >&2
    tail -n 20 "$state/logs/${names[i]}.log" >&2
    exit 1
  done
}

# until_true SECONDS WHAT COMMAND…: tries again until the command succeeds.
until_true() {
  local tries=$(($1 * 10)) what=$2
  shift 2
  until "$@"; do
    watch
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "gave up waiting for $what; the logs are in $state/logs"
    sleep 0.1
  done
}

any_alive() {
  local pid
  for pid in "${pids[@]}"; do
    kill -0 "$pid" 2>/dev/null && return 0
  done
  return 1
}

signal_all() {
  local i
  # The app first: its open streams end, and what carries them has nothing left to wait for.
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill "-$1" "${pids[i]}" 2>/dev/null || true
  done
}

# The first signal lets requests finish, the second ends at once, the third is not asked.
stop() {
  trap '' INT TERM HUP
  local signal i
  if [ "${#pids[@]}" -gt 0 ]; then
    for signal in TERM TERM KILL; do
      any_alive || break
      signal_all "$signal"
      for ((i = 0; i < 40; i++)); do
        any_alive || break
        sleep 0.1
      done
    done
    wait "${pids[@]}" 2>/dev/null || true
  fi
  [ -z "${pair:-}" ] || kill "$pair" 2>/dev/null || true
  rm -f "$state/pid" "$state/authorization"
}

command -v curl >/dev/null || fail "curl is needed"
command -v cargo >/dev/null || fail "cargo is needed: https://rustup.rs"
command -v npm >/dev/null || fail "Node.js 20.19 or newer with npm is needed: https://nodejs.org"
case $trust in paired | relay) ;; *) fail "TRUST is \`paired\` or \`relay\`" ;; esac
mkdir -p "$state/logs"
if [ -f "$state/pid" ] && kill -0 "$(cat "$state/pid")" 2>/dev/null; then
  fail "a demo is running already with the state in $state (process $(cat "$state/pid")); set STATE for another one"
fi
echo $$ >"$state/pid"
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

say "Building (the first time takes some minutes) …"
# The portal's pages first: the relay's binary takes them in.
npm --prefix browser-pairing ci --no-audit --no-fund --loglevel=error
npm --prefix browser-pairing run --silent build
# In one go: two would build most of the libraries twice, with different features.
cargo build --release -p relay-server -p local-agent-client --bins --example demo-app

files=${FILES:-$state/files}
if [ -z "${FILES:-}" ]; then
  mkdir -p "$files/pictures"
  printf 'Hello from the machine behind the tunnel.\n' >"$files/hello.txt"
  printf '{ "made_by": "deploy/demo/run.sh" }\n' >"$files/data.json"
  printf '%s\n' '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 40"><path d="M5 20h110" stroke="#0b62d6" stroke-width="6" stroke-linecap="round"/><circle cx="20" cy="20" r="12" fill="#0b62d6"/><circle cx="100" cy="20" r="12" fill="#0b62d6"/></svg>' >"$files/pictures/tunnel.svg"
fi

# Whether nobody listens there yet.
free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
if [ "$port" != 0 ] && ! free "$port"; then
  say "Port $port is taken; the relay gets another one."
  port=0
fi

export RELAY_DATA_DIR=$state/relay
# The app's pages open on the relay's address only where no portal and no cookie of it is.
[ "$trust" != relay ] || export RELAY_PORTAL=0
start relay env RELAY_LISTEN_ADDR="127.0.0.1:$port" "$bin/relay-server"
logged_address() {
  relay=$(grep -aom1 '127\.0\.0\.1:[1-9][0-9]*' "$state/logs/relay.log")
}
if [ "$port" = 0 ]; then
  until_true 20 "the relay's address in its log" logged_address
else
  relay=127.0.0.1:$port
fi
relay=http://$relay
get() { curl --noproxy '*' -fsS --max-time 5 "$@"; }
healthy() { get -o "$state/logs/health.json" "$relay/health" 2>/dev/null; }
until_true 20 "the relay" healthy

# A user that exists already is what we want.
"$bin/relay-server" user add "$user" >"$state/logs/user.log" 2>&1 ||
  "$bin/relay-server" user list 2>/dev/null | grep -qF "$user" ||
  fail "the user could not be added: $(tail -n 3 "$state/logs/user.log")"
"$bin/relay-server" token create --user "$user" --name demo --expires 1d >"$state/token"
printf 'Authorization: Bearer %s\n' "$(cat "$state/token")" >"$state/authorization"

start demo-app "$bin/examples/demo-app" --listen 127.0.0.1:0 --root "$files"
app_address() { app=$(sed -n 's/^listening \(http:.*\)$/\1/p' "$state/logs/demo-app.log") && [ -n "$app" ]; }
until_true 10 "the demo app" app_address

start agent "$bin/local-agent-client" run --relay "$relay" --to "$app" --token-file "$state/token" \
  --name demo --trust "$trust" --state-dir "$state/agent"
# The one object of the list that is ours and online.
online_host() {
  host=$(get -H "@$state/authorization" "$relay/v1/relay/hosts" | tr '{' '\n' | grep '"name":"demo"' | grep '"status":"online"' |
    sed -n 's/.*"id":"\([0-9a-f-]\{36\}\)".*/\1/p' | head -n 1) && [ -n "$host" ]
}
until_true 20 "the agent to be online" online_host

# ---- for paired browsers only ------------------------------------------------------------------

# A link that signs in, once.
sign_in_link() {
  "$bin/relay-server" login "$user" --url "$relay" 2>>"$state/logs/user.log" | grep -oE 'https?://[^ ]+#/link/[^ ]+' | head -n 1
}

# Shows a code and leaves `pair` waiting for the browser.
pair=
show_code() {
  [ -z "$pair" ] || ! kill -0 "$pair" 2>/dev/null || { kill -INT "$pair" && wait "$pair"; } 2>/dev/null || true
  : >"$state/logs/pair.log"
  set -m
  "$bin/local-agent-client" pair --state-dir "$state/agent" </dev/null >"$state/logs/pair.log" 2>&1 &
  set +m
  pair=$!
  code=
  until_true 10 "a pairing code" pairing_code
}
pairing_code() {
  code=$(grep -oE '[0-9]{3} [0-9]{3}' "$state/logs/pair.log" | head -n 1) && [ -n "$code" ] && return 0
  # No code: the command says why, such as too many within an hour.
  kill -0 "$pair" 2>/dev/null || fail "no pairing code: $(tail -n 3 "$state/logs/pair.log")"
  return 1
}

# Tells once how `pair` ended.
pair_outcome() {
  [ -n "$pair" ] && ! kill -0 "$pair" 2>/dev/null || return 0
  pair=
  say "" "$(tail -n +2 "$state/logs/pair.log" | grep -v '^$' | tail -n 2)"
  [ ! -t 0 ] || say "Enter gives a new link and a new code."
}

invite() {
  local link
  link=$(sign_in_link) || fail "no link to sign in: $(tail -n 3 "$state/logs/user.log")"
  show_code
  cat <<TEXT

The demo app ($app) can be reached through the relay ($relay) by
signed requests of paired browsers, and by nobody else. In a browser on this machine:

  1. sign in (the link is good once, for 15 minutes):

     $link

  2. choose the host "demo", "Pair", and type this code (one guess, 5 minutes):

     $code

  3. send requests to the app: /headers shows what arrives there, /events?n=5 is an event stream,
     /upload takes a POST, /ws is a WebSocket that echoes.

Who is paired, and how to cut them off:

  $bin/local-agent-client browsers list --state-dir $state/agent
  $bin/local-agent-client browsers revoke ID --state-dir $state/agent

Logs: $state/logs. With TRUST=relay the app is open to whoever the relay lets in. Ctrl-C ends all of it.
TEXT
}

if [ "$trust" = paired ]; then
  invite
  while :; do
    watch
    pair_outcome
    if [ -t 0 ]; then
      if read -r -t 1; then invite; fi
    else
      sleep 0.5
    fi
  done
fi

# ---- for whoever the relay lets in -------------------------------------------------------------

session=$(get -X POST -H "@$state/authorization" "$relay/v1/relay/create/$host" |
  sed -n 's/.*"session_id":"\([0-9a-f-]\{36\}\)".*/\1/p')
[ -n "$session" ] || fail "the relay made no session"
link=$relay/v1/relay/h/$host/s/$session
until_true 10 "the first page through the tunnel" get -o /dev/null "$link/"

cat <<TEXT

The demo app ($app) is reachable through the relay ($relay).
Open it in a browser on this machine. Whoever has the link is let in, until the demo ends or a day is over:

  $link/

Or try it from another terminal:

  # the page, the folder, and what arrives at the app
  curl $link/
  curl $link/files/
  curl $link/headers
  # an event a second, each as it happens
  curl -N '$link/events?n=5'
  # an upload, answered with its size and SHA-256; then a gibibyte up, as it is made, and one down
  curl --data-binary @Cargo.lock $link/upload
  head -c 1073741824 /dev/zero | curl -X POST -T - $link/upload
  curl -o /dev/null $link/bytes/1073741824
  # a WebSocket: 101, and the connection stays open; the page has the echo to type into
  curl -i -N --http1.1 --max-time 2 -H 'Connection: Upgrade' -H 'Upgrade: websocket' \\
    -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: c2lkZWNhciByZWxheSAxMg==' $link/ws

The agent here runs with --trust relay: it forwards what the relay let in. Logs: $state/logs
Ctrl-C ends all of it.
TEXT

while :; do
  watch
  sleep 0.5
done
