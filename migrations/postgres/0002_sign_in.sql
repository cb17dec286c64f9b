-- Signing in where the relay keeps its own users. Of passwords there is an argon2id hash, of every other
-- secret a SHA-256: whoever reads these tables signs in with none of it.
create table relay.credentials (
    user_id uuid primary key,
    password_hash text not null,
    changed_at timestamptz not null
);

-- What is known of an auth session that began by signing in. Those of `token create` are in `tokens`.
create table relay.sign_ins (
    auth_session_id uuid primary key,
    kind text not null check (kind in ('browser', 'device')),
    name text not null,
    expires_at timestamptz
);

-- One-time links. A used one keeps the auth session that it became.
create table relay.login_links (
    token_hash text primary key,
    user_id uuid not null,
    expires_at timestamptz not null,
    auth_session_id uuid
);

-- Devices that ask to be let in (RFC 8628). A granted one keeps the auth session that it became.
create table relay.device_logins (
    id uuid primary key,
    device_code_hash text not null unique,
    user_code text not null unique,
    client_id text not null,
    name text not null,
    address text not null,
    rate_key text not null,
    status text not null default 'pending' check (status in ('pending', 'approved', 'denied')),
    user_id uuid,
    auth_session_id uuid,
    slowed boolean not null default false,
    next_poll_at timestamptz not null,
    created_at timestamptz not null,
    expires_at timestamptz not null
);
create index device_logins_by_expiry on relay.device_logins (expires_at);

create table relay.refresh_tokens (
    token_hash text primary key,
    auth_session_id uuid not null,
    client_id text not null
);
create index refresh_tokens_by_session on relay.refresh_tokens (auth_session_id);
