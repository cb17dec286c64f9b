-- What several relays know of each other (PROTOCOL.md, several relays).

-- The relays, with their addresses, each sealed by its own.
create table relay.relays (
    id text primary key,
    public_ws text not null,
    internal text not null,
    seal text not null,
    seen_at timestamptz not null
);

-- Which relay holds which daemon. An absent runtime target is the empty text.
create table relay.workspace_relay_presences (
    workspace_id text not null,
    runtime_target_id text not null,
    machine_id text,
    relay_id text not null,
    relay_ws_base_url text,
    connection_id uuid not null,
    generation bigint not null,
    since timestamptz not null,
    seen_at timestamptz not null,
    primary key (workspace_id, runtime_target_id)
);
create index workspace_relay_presences_by_seen_at on relay.workspace_relay_presences (seen_at);

-- Frames on their way from one relay to another, or to all. They are removed after a minute.
create table relay.relay_bus_frames (
    id bigint generated always as identity primary key,
    workspace_id text not null,
    runtime_target_id text,
    machine_id text,
    source_relay_id text not null,
    target_relay_id text,
    direction text not null,
    payload text not null,
    issued_at_ms bigint not null,
    signature text not null,
    created_at timestamptz not null default now()
);
create index relay_bus_frames_by_created_at on relay.relay_bus_frames (created_at);
