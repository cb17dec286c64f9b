-- Everything a relay keeps that runs alone. Ids are 16 bytes, times are Unix seconds.
-- The first five tables have the columns of the tables that a web app owns on PostgreSQL.
create table users (
    id blob primary key not null,
    email text not null unique,
    first_name text,
    last_name text,
    username text,
    created_at integer not null,
    updated_at integer not null
) strict;

create table auth_sessions (
    id blob primary key not null,
    user_id blob not null,
    created_at integer not null,
    last_used_at integer,
    revoked_at integer
) strict;
create index auth_sessions_by_user on auth_sessions (user_id);

create table organization_member_metadata (
    organization_id blob not null,
    user_id blob not null,
    primary key (organization_id, user_id)
) strict;
create index organization_members_by_user on organization_member_metadata (user_id);

create table hosts (
    id blob primary key not null,
    owner_user_id blob not null,
    shared_with_organization_id blob,
    machine_id text not null,
    name text not null,
    status text not null default 'offline' check (status in ('offline', 'online')),
    last_seen_at integer,
    agent_version text,
    created_at integer not null,
    updated_at integer not null,
    unique (owner_user_id, machine_id)
) strict;
create index hosts_by_organization on hosts (shared_with_organization_id);

create table relay_browser_sessions (
    id blob primary key not null,
    host_id blob not null,
    user_id blob not null,
    auth_session_id blob not null,
    created_at integer not null,
    last_used_at integer,
    revoked_at integer
) strict;
create index relay_browser_sessions_by_user on relay_browser_sessions (user_id);
create index relay_browser_sessions_by_host on relay_browser_sessions (host_id);

-- One row per open tunnel: the truth behind hosts.status.
create table tunnels (
    connection_id blob primary key not null,
    relay_id text not null,
    host_id blob not null,
    connected_at integer not null,
    seen_at integer not null
) strict;
create index tunnels_by_host on tunnels (host_id);
create index tunnels_by_seen_at on tunnels (seen_at);

-- What is known of a token beyond its session. The token itself is never stored.
create table tokens (
    auth_session_id blob primary key not null,
    name text not null,
    expires_at integer not null
) strict;
