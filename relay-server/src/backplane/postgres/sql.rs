//! What is said to the database. Times are its own, so that relays whose clocks differ agree on what is over.

/// What is lost with the server's last moments is written again soon, so nobody waits for its disk.
pub(super) const SESSION_SETTINGS: &str = "set statement_timeout = '2s'; set idle_in_transaction_session_timeout = '5s'; \
     set synchronous_commit = off";

/// Which of the tables this user may use.
pub(super) const USABLE: &str = "select count(*) = 3 from pg_catalog.pg_class c \
     join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
     where n.nspname = 'relay' and c.relname in ('relays', 'workspace_relay_presences', 'relay_bus_frames') \
         and has_schema_privilege(n.oid, 'usage') \
         and has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert') \
         and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete') \
         and (c.relname <> 'workspace_relay_presences' or exists (select from pg_catalog.pg_attribute a \
             where a.attrelid = c.oid and a.attname = 'record' and not a.attisdropped))";

/// What is written of a daemon, and the time in ms.
pub(super) const LOOK_AT: &str = "select (extract(epoch from clock_timestamp()) * 1000)::bigint, \
     (select record from relay.workspace_relay_presences where workspace_id = $1 and runtime_target_id = $2 \
         and seen_at >= now() - interval '45 seconds' and octet_length(record) <= $3)";

/// Replaces what was found there; anything that would not have been found counts as nothing.
pub(super) const CLAIM: &str = "insert into relay.workspace_relay_presences as held \
         (workspace_id, runtime_target_id, machine_id, relay_id, relay_ws_base_url, connection_id, generation, since, \
             seen_at, record) \
     values ($1, $2, $3, $4, $5, $6, $7, clock_timestamp() - make_interval(secs => $8), now(), $9) \
     on conflict (workspace_id, runtime_target_id) do update set machine_id = excluded.machine_id, \
         relay_id = excluded.relay_id, relay_ws_base_url = excluded.relay_ws_base_url, \
         connection_id = excluded.connection_id, generation = excluded.generation, seen_at = now(), \
         since = excluded.since, record = excluded.record \
     where held.seen_at < now() - interval '45 seconds' or held.record is null \
         or octet_length(held.record) > $11 or held.record = $10";

pub(super) const RELEASE: &str = "delete from relay.workspace_relay_presences \
     where workspace_id = $1 and runtime_target_id = $2 and record = $3";

pub(super) const HOLDERS: &str = "select r.id, r.public_ws, r.internal, r.seal from relay.relays r \
     join relay.tunnels t on t.relay_id = r.id \
     where t.host_id = $1 and r.id <> $2 and t.seen_at >= now() - interval '45 seconds' \
         and r.seen_at >= now() - interval '45 seconds' \
     group by r.id, r.public_ws, r.internal, r.seal order by max(t.connected_at) desc limit $3";

pub(super) const OTHERS: &str = "select id, public_ws, internal, seal from relay.relays \
     where id <> $1 and seen_at >= now() - interval '45 seconds' order by id limit 256";

pub(super) const ANNOUNCE: &str = "insert into relay.relays (id, public_ws, internal, seal, seen_at) values ($1, $2, $3, $4, now()) \
     on conflict (id) do update set public_ws = excluded.public_ws, internal = excluded.internal, \
         seal = excluded.seal, seen_at = now()";

pub(super) const PUBLISH: &str = "with turn as materialized (select pg_advisory_xact_lock($10)), \
     added as (insert into relay.relay_bus_frames (workspace_id, runtime_target_id, machine_id, source_relay_id, \
             target_relay_id, direction, payload, issued_at_ms, signature) \
         select f.workspace_id, f.runtime_target_id, f.machine_id, f.source_relay_id, f.target_relay_id, \
             f.direction, f.payload, f.issued_at_ms, f.signature \
         from turn, unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], \
             $8::bigint[], $9::text[]) with ordinality as f (workspace_id, runtime_target_id, machine_id, \
             source_relay_id, target_relay_id, direction, payload, issued_at_ms, signature, place) \
         order by f.place) \
     select pg_notify(channel, '') from unnest($11::text[]) as w (channel)";

pub(super) const NEWEST: &str = "select coalesce(max(id), 0) from relay.relay_bus_frames";

/// A payload beyond the bound stays where it is.
pub(super) const FRAMES: &str = "select id, workspace_id, runtime_target_id, machine_id, source_relay_id, target_relay_id, \
         direction, case when octet_length(payload) <= $5 then payload end, issued_at_ms, signature \
     from relay.relay_bus_frames \
     where id > $1 and id <= $2 and created_at > now() - interval '15 seconds' and source_relay_id <> $3 \
         and (target_relay_id is null or target_relay_id = $3) order by id limit $4";

/// What is over, by table.
pub(super) const OVER: [&str; 3] = [
    "delete from relay.relay_bus_frames where created_at < now() - interval '60 seconds'",
    "delete from relay.workspace_relay_presences where seen_at < now() - interval '60 seconds'",
    "delete from relay.relays where seen_at < now() - interval '60 seconds'",
];
