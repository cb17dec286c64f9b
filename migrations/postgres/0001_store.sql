-- Everything of ours lives in the schema `relay`; nothing in `public` is created or altered here.
-- The first five tables have the columns of the tables that a web app owns in `public` and stand in
-- for those that it has not made. Either kind may so refer to the other: there are no foreign keys.
create table relay.users (
    id uuid primary key,
    email text not null unique,
    first_name text,
    last_name text,
    username text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table relay.auth_sessions (
    id uuid primary key,
    user_id uuid not null,
    created_at timestamptz not null default now(),
    last_used_at timestamptz,
    revoked_at timestamptz
);
create index auth_sessions_by_user on relay.auth_sessions (user_id);

create table relay.organization_member_metadata (
    organization_id uuid not null,
    user_id uuid not null,
    primary key (organization_id, user_id)
);
create index organization_members_by_user on relay.organization_member_metadata (user_id);

create table relay.hosts (
    id uuid primary key,
    owner_user_id uuid not null,
    shared_with_organization_id uuid,
    machine_id text not null,
    name text not null,
    status text not null default 'offline' check (status in ('offline', 'online')),
    last_seen_at timestamptz,
    agent_version text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (owner_user_id, machine_id)
);
create index hosts_by_organization on relay.hosts (shared_with_organization_id);

create table relay.relay_browser_sessions (
    id uuid primary key,
    host_id uuid not null,
    user_id uuid not null,
    auth_session_id uuid not null,
    created_at timestamptz not null default now(),
    last_used_at timestamptz,
    revoked_at timestamptz
);
create index relay_browser_sessions_by_user on relay.relay_browser_sessions (user_id);
create index relay_browser_sessions_by_host on relay.relay_browser_sessions (host_id);

-- One row per open tunnel: the truth behind hosts.status, for all relays together.
create table relay.tunnels (
    connection_id uuid primary key,
    relay_id text not null,
    host_id uuid not null,
    connected_at timestamptz not null,
    seen_at timestamptz not null
);
create index tunnels_by_host on relay.tunnels (host_id);
create index tunnels_by_seen_at on relay.tunnels (seen_at);

-- What is known of a token beyond its session. The token itself is never stored.
create table relay.tokens (
    auth_session_id uuid primary key,
    name text not null,
    expires_at timestamptz not null
);
