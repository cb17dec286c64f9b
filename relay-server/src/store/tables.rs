//! Which of PostgreSQL's two schemas a table is found in, decided from the catalogue. Pure.

use super::error::StoreError;
use super::template::{seconds, unknown};

/// The tables that a web app may own (contract: sidecar).
pub(super) const CONTRACT_TABLES: [&str; 5] =
    ["users", "auth_sessions", "organization_member_metadata", "hosts", "relay_browser_sessions"];
/// What signing in needs, besides users and their sessions.
const SIGN_IN_TABLES: [&str; 7] = [
    "credentials",
    "sign_ins",
    "login_links",
    "device_logins",
    "refresh_tokens",
    "identities",
    "provider_sessions",
];
/// The other tables that are never the web app's.
const OTHER_TABLES: [&str; 2] = ["tunnels", "tokens"];

/// Everything that the schema `relay` may hold.
pub(super) fn own_tables() -> impl Iterator<Item = &'static str> {
    CONTRACT_TABLES.into_iter().chain(OTHER_TABLES).chain(SIGN_IN_TABLES)
}

/// The tables there are. One of the web app's counts as soon as it exists, even if we may not read it:
/// going on with ours would be another truth. One of ours counts when we may use it. The catalogue is
/// asked, not `to_regclass`, which fails for a schema that we may not look into.
pub(super) const CATALOG: &str = "select n.nspname::text, c.relname::text \
     from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
     where c.relkind in ('r', 'p', 'v', 'f') and ( \
         (n.nspname = 'public' and c.relname = any($1)) \
         or (n.nspname = 'relay' and c.relname = any($2) \
             and has_schema_privilege(n.oid, 'usage') \
             and has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert') \
             and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete')))";

/// Where one table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Missing,
    Relay,
    Public,
}

/// Where every table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::store) struct Tables {
    contract: [Place; CONTRACT_TABLES.len()],
    other: [Place; OTHER_TABLES.len()],
    sign_in: [Place; SIGN_IN_TABLES.len()],
}

impl Tables {
    /// From pairs of schema and table. For each table of the contract `public` goes before `relay`.
    pub(in crate::store) fn from_catalog(rows: &[(String, String)]) -> Self {
        let has = |schema: &str, table: &str| rows.iter().any(|(s, t)| s == schema && t == table);
        let ours = |table| if has("relay", table) { Place::Relay } else { Place::Missing };
        let either = |table| if has("public", table) { Place::Public } else { ours(table) };
        Self {
            contract: CONTRACT_TABLES.map(either),
            other: OTHER_TABLES.map(ours),
            sign_in: SIGN_IN_TABLES.map(ours),
        }
    }

    fn place(&self, table: &str) -> Place {
        let places = self.contract.into_iter().chain(self.other).chain(self.sign_in);
        own_tables().zip(places).find(|(name, _)| *name == table).map_or(Place::Missing, |(_, place)| place)
    }

    /// Whether users and tokens are ours: nothing of the web app's is in the way, and we have the tables.
    pub(super) fn own_identity(&self) -> bool {
        ["users", "auth_sessions", "tokens"].iter().all(|table| self.place(table) == Place::Relay)
    }

    /// Whether people can sign in here: the users are ours, and so is what signing in needs.
    pub(super) fn signs_in(&self) -> bool {
        self.own_identity() && SIGN_IN_TABLES.iter().all(|table| self.place(table) == Place::Relay)
    }

    /// Whether the relays can tell each other about their tunnels.
    pub(super) fn shared_presence(&self) -> bool {
        self.place("tunnels") == Place::Relay
    }

    /// What is off with the tables as they are, in sentences for a person.
    pub(super) fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        let missing: Vec<&str> =
            CONTRACT_TABLES.into_iter().filter(|table| self.place(table) == Place::Missing).collect();
        if !missing.is_empty() {
            notices.push(format!(
                "waiting for the web app's tables in the schema public: {}. Until they are there, requests that need them are answered with 503",
                missing.join(", ")
            ));
        }
        if !self.shared_presence() {
            notices.push(
                "the database user may not use a schema `relay` of its own: presence is kept in this process, so run one relay only. To change that: create schema relay authorization <the relay's user>".to_owned(),
            );
        }
        if !self.own_identity() {
            notices.push(
                "users and tokens are the web app's: `relay-server user`, `token` and `login`, /v1/auth and the portal are off"
                    .to_owned(),
            );
        } else if !self.signs_in() {
            let missing: Vec<&str> =
                SIGN_IN_TABLES.into_iter().filter(|table| self.place(table) == Place::Missing).collect();
            notices.push(format!(
                "signing in is off, and with it /v1/auth and the portal: the schema relay has no {} that this database user may \
                 use. Its migrations have not been applied; let this user create in the schema relay, or apply migrations/postgres",
                missing.join(", ")
            ));
        }
        notices
    }

    /// What the words of a template mean with the tables as they are.
    pub(in crate::store) fn expand(&self, name: &str, argument: &str) -> Result<String, StoreError> {
        Ok(match name {
            table if own_tables().any(|own| own == table) => match self.place(table) {
                Place::Public => format!("public.{table}"),
                Place::Relay => format!("relay.{table}"),
                Place::Missing => {
                    return Err(StoreError::NotReady(format!("the table {table} is not there yet")));
                }
            },
            "own" if self.signs_in() => self.expand(argument, "")?,
            "own" => {
                return Err(StoreError::NotReady(format!(
                    "nobody signs in here: {argument} may be a web app's"
                )));
            }
            "now" => "now()".to_owned(),
            "ago" => format!("(now() - interval '{} seconds')", seconds(argument)?),
            "from_now" => format!("(now() + interval '{} seconds')", seconds(argument)?),
            "unix" => format!("floor(extract(epoch from {argument}))::bigint"),
            "time" => format!("to_timestamp({argument})"),
            "in" => format!("= any({argument})"),
            "zip" => {
                let (left, right) = argument.split_once(',').ok_or_else(|| unknown(name))?;
                format!("unnest({left}, {right}) as z(connection_id, host_id)")
            }
            "lock" => "for update".to_owned(),
            other => return Err(unknown(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(found: &[&str]) -> Tables {
        let rows: Vec<(String, String)> = found
            .iter()
            .filter_map(|name| name.split_once('.'))
            .map(|(schema, table)| (schema.to_owned(), table.to_owned()))
            .collect();
        Tables::from_catalog(&rows)
    }

    const OURS: [&str; 14] = [
        "relay.users",
        "relay.auth_sessions",
        "relay.organization_member_metadata",
        "relay.hosts",
        "relay.relay_browser_sessions",
        "relay.tunnels",
        "relay.tokens",
        "relay.credentials",
        "relay.sign_ins",
        "relay.login_links",
        "relay.device_logins",
        "relay.refresh_tokens",
        "relay.identities",
        "relay.provider_sessions",
    ];
    const THEIRS: [&str; 5] = [
        "public.users",
        "public.auth_sessions",
        "public.organization_member_metadata",
        "public.hosts",
        "public.relay_browser_sessions",
    ];

    #[test]
    fn each_table_is_theirs_when_it_exists_and_ours_otherwise() {
        let cases: &[(&[&[&str]], bool, bool, usize)] = &[
            // found, own identity, shared presence, notices
            (&[&OURS], true, true, 0),
            (&[&OURS, &THEIRS], false, true, 1),
            (&[&THEIRS], false, false, 2),
            (&[], false, false, 3),
            (&[&OURS, &["public.users"]], false, true, 1),
            (&[&OURS, &["public.auth_sessions"]], false, true, 1),
            (&[&OURS, &["public.hosts"]], true, true, 0),
        ];
        for (found, own, shared, notices) in cases {
            let tables = tables(&found.concat());
            assert_eq!(tables.own_identity(), *own, "{found:?}");
            assert_eq!(tables.signs_in(), *own, "{found:?}");
            assert_eq!(tables.shared_presence(), *shared, "{found:?}");
            assert_eq!(tables.notices().len(), *notices, "{found:?}: {:?}", tables.notices());
        }
    }

    #[test]
    fn nobody_signs_in_where_a_table_for_it_is_missing() {
        for missing in SIGN_IN_TABLES {
            let found: Vec<&str> =
                OURS.into_iter().filter(|table| table.strip_prefix("relay.") != Some(missing)).collect();
            let tables = tables(&found);
            assert!(tables.own_identity() && !tables.signs_in(), "{missing}");
            assert!(tables.notices().iter().any(|notice| notice.contains(missing)), "{missing}");
        }
    }

    #[test]
    fn a_web_apps_sessions_are_never_taken_for_ours() {
        assert_eq!(tables(&OURS).expand("own", "auth_sessions"), Ok("relay.auth_sessions".to_owned()));
        let without_links: Vec<&str> =
            OURS.into_iter().filter(|table| *table != "relay.login_links").collect();
        for found in
            [[&OURS[..], &["public.auth_sessions"]].concat(), [&OURS[..], &THEIRS].concat(), without_links]
        {
            let refused = tables(&found).expand("own", "auth_sessions");
            assert!(matches!(refused, Err(StoreError::NotReady(_))), "{found:?}");
        }
    }

    #[test]
    fn tables_are_resolved_one_by_one() {
        let mixed = tables(&[&OURS[..], &["public.hosts"]].concat());
        assert_eq!(mixed.expand("hosts", ""), Ok("public.hosts".to_owned()));
        assert_eq!(mixed.expand("users", ""), Ok("relay.users".to_owned()));
        // A table of that name in public is somebody else's.
        let foreign = tables(&["public.tunnels"]);
        assert!(matches!(foreign.expand("tunnels", ""), Err(StoreError::NotReady(_))));
    }
}
