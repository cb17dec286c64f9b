//! What an upgrade of `/ws` asks for, read from its query and headers. Pure.
//!
//! Whoever sends this has shown nothing yet. So everything here is bounded by the head's limits, every id is of
//! one narrow alphabet, and what could be read in two ways (an id twice, two tokens of one kind) is refused
//! instead of chosen from.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::{Role, role_name};
use crate::backplane::is_id;

/// Characters of a token: shorter ones can be guessed, longer ones are no token of anybody's.
const TOKEN: std::ops::RangeInclusive<usize> = 10..=4096;
/// What the sub-protocol that carries a token begins with.
const AUTH: &str = "auth.";
/// Parameters of a query that are looked at; there are four, and proxies add a few.
const MAX_PARAMETERS: usize = 64;

/// Why it is refused before the token was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The query is not one that says who wants what.
    #[error("{0}")]
    Query(&'static str),
    /// There is no token, or nothing that could be one.
    #[error("{0}")]
    Token(&'static str),
}

/// Who somebody says to be, and where they want to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// As what.
    pub role: Role,
    /// The workspace.
    pub workspace: Arc<str>,
    /// The runtime target, if one is named.
    pub target: Option<Arc<str>>,
}

/// A token that was presented. Prints as stars, and is wiped.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// The text, for whoever checks it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn new(text: &str) -> Result<Self, Fault> {
        // Visible ASCII is what a header can carry; nothing else is passed on to the platform.
        if TOKEN.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(Zeroizing::new(text.to_owned())))
        } else {
            Err(Fault::Token("A token has 10 to 4,096 visible characters."))
        }
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(***)")
    }
}

/// Reads the query.
///
/// # Errors
/// [`Fault::Query`].
pub fn asked(query: &str) -> Result<Asked, Fault> {
    let role = only(query, "role")?.ok_or(Fault::Query("The query has no role."))?;
    let role = [Role::Daemon, Role::Client, Role::Worker]
        .into_iter()
        .find(|known| role_name(*known) == role)
        .ok_or(Fault::Query("The role has to be workspace-daemon, client or worker."))?;
    let workspace = only(query, "workspaceId")?.ok_or(Fault::Query("The query has no workspaceId."))?;
    let target = only(query, "runtimeTargetId")?;
    if !is_id(&workspace) || target.as_ref().is_some_and(|target| !is_id(target)) {
        return Err(Fault::Query(
            "workspaceId and runtimeTargetId have 1 to 128 characters of A-Z a-z 0-9 . _ : and -.",
        ));
    }
    Ok(Asked { role, workspace: workspace.into(), target: target.map(Into::into) })
}

/// The one parameter of this name.
fn only<'a>(query: &'a str, name: &str) -> Result<Option<Cow<'a, str>>, Fault> {
    let mut found = None;
    for (index, (key, value)) in form_urlencoded::parse(query.as_bytes()).enumerate() {
        if index == MAX_PARAMETERS {
            return Err(Fault::Query("The query has too many parameters."));
        }
        if key == name && found.replace(value).is_some() {
            return Err(Fault::Query("The query says the same thing twice."));
        }
    }
    Ok(found)
}

/// The token, from the first place that holds one: the header, the sub-protocol, and in development the query.
///
/// # Errors
/// [`Fault::Token`].
pub fn token(headers: &HeaderMap, query: &str, dev: bool) -> Result<Token, Fault> {
    let none = Fault::Token("A token is needed: Authorization: Bearer, or the sub-protocol auth.<token>.");
    if let Some(bearer) = single(headers.get_all(header::AUTHORIZATION).iter().filter_map(bearer))? {
        return Token::new(bearer);
    }
    if let Some(entry) = single(protocols(headers).filter_map(|entry| entry.strip_prefix(AUTH)))? {
        return Token::new(entry);
    }
    let in_query = if dev { only(query, "token").map_err(|_| none)? } else { None };
    Token::new(&in_query.ok_or(none)?)
}

/// The text after `Bearer`. Other schemes are somebody else's business, such as a proxy's. One that is empty or has
/// blanks in it is a token too, to be refused: `auth::credential::bearer_value` would say that there is none, and
/// another place's would be taken instead.
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn single<'a>(mut found: impl Iterator<Item = &'a str>) -> Result<Option<&'a str>, Fault> {
    let first = found.next();
    if found.next().is_some() {
        return Err(Fault::Token("There is more than one token."));
    }
    Ok(first)
}

/// The sub-protocols that were offered, in order.
fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|entry| !entry.is_empty())
}

/// What to select of the sub-protocols on offer. Browsers fail when none is selected of those that they offer,
/// so the token's own entry is, where there is no other.
pub fn selected(headers: &HeaderMap) -> Option<HeaderValue> {
    let entry = protocols(headers)
        .find(|entry| !entry.starts_with(AUTH))
        .or_else(|| protocols(headers).next())
        .filter(|entry| entry.bytes().all(is_token_byte))?;
    let mut value = HeaderValue::from_str(entry).ok()?;
    value.set_sensitive(entry.starts_with(AUTH));
    Some(value)
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::backplane::MAX_ID;
    use proptest::prelude::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn a_query_says_who_and_where_or_nothing() {
        let ok = |role, workspace: &str, target: Option<&str>| {
            Some(Asked { role, workspace: workspace.into(), target: target.map(Into::into) })
        };
        let longest = "w".repeat(MAX_ID);
        let too_long = "w".repeat(MAX_ID + 1);
        let many = format!("role=client&workspaceId=w{}", "&x=1".repeat(MAX_PARAMETERS));
        let huge = format!("role=client&workspaceId={}", "%41".repeat(100_000));
        for (query, expected) in [
            ("role=client&workspaceId=w&runtimeTargetId=t", ok(Role::Client, "w", Some("t"))),
            ("workspaceId=W.x_y:z-9&role=workspace-daemon", ok(Role::Daemon, "W.x_y:z-9", None)),
            ("role=worker&workspaceId=w&unknown=1&utm=2", ok(Role::Worker, "w", None)),
            ("role=client&workspaceId=%77%2D1", ok(Role::Client, "w-1", None)),
            (&format!("role=client&workspaceId={longest}"), ok(Role::Client, &longest, None)),
            (&format!("role=client&workspaceId={too_long}"), None),
            (&format!("role=client&workspaceId=w&runtimeTargetId={too_long}"), None),
            ("", None),
            ("role=client", None),
            ("workspaceId=w", None),
            ("role=daemon&workspaceId=w", None),
            ("role=Client&workspaceId=w", None),
            ("role=&workspaceId=w", None),
            ("role=client&workspaceId=", None),
            ("role=client&workspaceId=w&runtimeTargetId=", None),
            ("role=client&workspaceId=w%00", None),
            ("role=client&workspaceId=w%2Fx", None),
            ("role=client&workspaceId=w+x", None),
            ("role=client&workspaceId=%C3%BC", None),
            ("role=client&workspaceId=%FF", None),
            ("role=client&workspaceId=%", None),
            ("role=client&workspaceId=%252e", None),
            ("role=client&workspaceId=w&workspaceId=w", None),
            ("role=client&workspaceId=w&workspace%49d=x", None),
            ("role=client&role=workspace-daemon&workspaceId=w", None),
            ("role=client&workspaceId=w&runtimeTargetId=a&runtimeTargetId=b", None),
            ("role=client;workspaceId=w", None),
            (&many, None),
            (&huge, None),
        ] {
            let shown = query.get(..60).unwrap_or(query);
            assert_eq!(asked(query).ok(), expected, "{shown}");
        }
    }

    #[test]
    fn a_token_comes_from_the_first_place_that_has_one() {
        const A: &str = "aaaaaaaaaa";
        const B: &str = "bbbbbbbbbb";
        let dev_query = format!("role=client&token={B}");
        let long = "x".repeat(4096);
        let too_long = "x".repeat(4097);
        let bearer = |token: &str| format!("Bearer {token}");
        let auth = |token: &str| format!("auth.{token}");
        for (list, query, dev, expected) in [
            (vec![("authorization", bearer(A))], "", false, Some(A)),
            (vec![("authorization", format!("bEaReR   {A}"))], "", false, Some(A)),
            (vec![("authorization", bearer(A)), ("sec-websocket-protocol", auth(B))], "", false, Some(A)),
            (vec![("sec-websocket-protocol", format!("v1, {}", auth(B)))], "", false, Some(B)),
            (vec![("sec-websocket-protocol", auth(A))], &*dev_query, true, Some(A)),
            (vec![("authorization", format!("Basic {A}"))], &dev_query, true, Some(B)),
            (vec![], &dev_query, true, Some(B)),
            (vec![], &dev_query, false, None),
            (vec![], "", true, None),
            (vec![], "token=aaaaaaaaaa&token=bbbbbbbbbb", true, None),
            (vec![], "token=aaaaaaaaa%20", true, None),
            // Two of one kind, or one that is none, is not made good by another place.
            (vec![("authorization", bearer(A)), ("authorization", bearer(B))], "", false, None),
            (vec![("sec-websocket-protocol", format!("{}, {}", auth(A), auth(B)))], "", false, None),
            (vec![("authorization", bearer("short")), ("sec-websocket-protocol", auth(B))], "", false, None),
            (
                vec![("authorization", bearer("aaaaa aaaaa")), ("sec-websocket-protocol", auth(B))],
                "",
                false,
                None,
            ),
            (vec![("authorization", bearer("")), ("sec-websocket-protocol", auth(B))], "", false, None),
            (vec![("authorization", bearer("123456789"))], "", false, None),
            (vec![("authorization", bearer("aaaaa aaaaa"))], "", false, None),
            (vec![("authorization", bearer(&long))], "", false, Some(&*long)),
            (vec![("authorization", bearer(&too_long))], "", false, None),
            (vec![("authorization", "Bearer".to_owned())], "", false, None),
            (vec![("sec-websocket-protocol", "auth.".to_owned())], "", false, None),
        ] {
            let list: Vec<_> = list.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let found = token(&headers(&list), query, dev).ok();
            assert_eq!(found.as_ref().map(Token::reveal), expected, "{list:.80?} {query}");
        }
    }

    #[test]
    fn a_token_does_not_print() {
        let token = token(&headers(&[("authorization", "Bearer hidden-hidden")]), "", false).unwrap();
        assert!(!format!("{token:?}").contains("hidden"));
        let echoed = selected(&headers(&[("sec-websocket-protocol", "auth.hidden-hidden")])).unwrap();
        assert!(!format!("{echoed:?}").contains("hidden"));
    }

    #[test]
    fn the_sub_protocol_that_is_selected_is_one_of_those_on_offer() {
        for (offer, expected) in [
            (&[][..], None),
            (&["auth.aaaaaaaaaa"], Some("auth.aaaaaaaaaa")),
            (&["auth.aaaaaaaaaa, relay.v2"], Some("relay.v2")),
            (&["relay.v2", "relay.v1"], Some("relay.v2")),
            (&["auth.aaaaaaaaaa", "relay.v1"], Some("relay.v1")),
            (&[" , ,"], None),
            (&["not a token"], None),
        ] {
            let list: Vec<_> = offer.iter().map(|value| ("sec-websocket-protocol", *value)).collect();
            let found = selected(&headers(&list));
            assert_eq!(found.as_ref().map(|v| v.to_str().unwrap()), expected, "{offer:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_is_well_formed(query in "\\PC{0,300}") {
            if let Ok(asked) = asked(&query) {
                prop_assert!(is_id(&asked.workspace));
                prop_assert!(asked.target.is_none_or(|target| is_id(&target)));
            }
        }

        #[test]
        fn a_good_query_survives_any_encoding(workspace in "[A-Za-z0-9._:-]{1,128}", plain in any::<u64>()) {
            let encoded: String = workspace.bytes().enumerate().map(|(n, b)| {
                if plain >> (n % 64) & 1 == 1 { char::from(b).to_string() } else { format!("%{b:02x}") }
            }).collect();
            let found = asked(&format!("workspaceId={encoded}&role=client")).unwrap();
            prop_assert_eq!(&*found.workspace, workspace.as_str());
        }

        #[test]
        fn no_header_breaks_the_search_for_a_token(value in proptest::collection::vec(0x20u8..=0xff, 0..200)) {
            let value = HeaderValue::from_bytes(&value.into_iter().filter(|b| *b != 0x7f).collect::<Vec<_>>()).unwrap();
            for name in [header::AUTHORIZATION, header::SEC_WEBSOCKET_PROTOCOL] {
                let map: HeaderMap = [(name, value.clone())].into_iter().collect();
                if let Ok(token) = token(&map, "", true) {
                    prop_assert!(TOKEN.contains(&token.reveal().len()));
                }
                selected(&map);
            }
        }
    }
}
