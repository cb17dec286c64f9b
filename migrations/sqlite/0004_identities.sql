-- People whom an OpenID Connect provider knows, and who they are here.
create table identities (
    issuer text not null,
    subject text not null,
    user_id blob not null,
    created_at integer not null,
    primary key (issuer, subject)
) strict;
create index identities_by_user on identities (user_id);

-- The auth sessions that a provider's word began. `grounds` tells what they stand for: a session at the provider,
-- a client of it, or one sign-in here. A row stays as long as its auth session, ended ones too: what was ended
-- is not begun again by the same token.
create table provider_sessions (
    issuer text not null,
    subject text not null,
    grounds text not null,
    auth_session_id blob not null unique,
    name text not null,
    primary key (issuer, subject, grounds)
) strict;
