-- Signing in where the relay keeps its own users. Of passwords there is an argon2id hash, of every other
-- secret a SHA-256: whoever reads this file signs in with none of it.
create table credentials (
    user_id blob primary key not null,
    password_hash text not null,
    changed_at integer not null
) strict;

-- What is known of an auth session that began by signing in. Those of `token create` are in `tokens`.
create table sign_ins (
    auth_session_id blob primary key not null,
    kind text not null check (kind in ('browser', 'device')),
    name text not null,
    expires_at integer
) strict;

-- One-time links. A used one keeps the auth session that it became.
create table login_links (
    token_hash text primary key not null,
    user_id blob not null,
    expires_at integer not null,
    auth_session_id blob
) strict;

-- Devices that ask to be let in (RFC 8628). A granted one keeps the auth session that it became.
create table device_logins (
    id blob primary key not null,
    device_code_hash text not null unique,
    user_code text not null unique,
    client_id text not null,
    name text not null,
    address text not null,
    rate_key text not null,
    status text not null default 'pending' check (status in ('pending', 'approved', 'denied')),
    user_id blob,
    auth_session_id blob,
    slowed integer not null default 0,
    next_poll_at integer not null,
    created_at integer not null,
    expires_at integer not null
) strict;
create index device_logins_by_expiry on device_logins (expires_at);

create table refresh_tokens (
    token_hash text primary key not null,
    auth_session_id blob not null,
    client_id text not null
) strict;
create index refresh_tokens_by_session on refresh_tokens (auth_session_id);
