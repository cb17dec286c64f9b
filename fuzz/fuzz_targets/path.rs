//! Request targets: what is taken for a proxied path is taken apart without losing or changing a byte,
//! and whatever HTTP could carry to us can be carried on.
#![no_main]

use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use relay_server::proxy::path::{PREFIX, split};

fuzz_target!(|text: &str| {
    let Some(target) = split(text) else { return };
    assert_eq!(format!("{}{}", target.prefix, target.rest), text);
    assert!(target.prefix.starts_with(PREFIX) && target.prefix.starts_with(target.public_prefix()));
    assert!(matches!(target.rest.as_bytes().first(), None | Some(b'/' | b'?')));
    let ids = format!("{}/s/{}", target.host, target.session);
    assert!(target.prefix.ends_with(&ids) || target.prefix.to_ascii_lowercase().ends_with(&ids));
    assert!(!target.public_prefix().contains("/s/"));
    if PathAndQuery::try_from(text).is_ok() {
        let local = target.local().expect("the rest of a good target is one");
        let slash = if target.lacks_slash() { "/" } else { "" };
        // A fragment never travels; the parser cuts it.
        let rest = target.rest.split('#').next().unwrap_or_default();
        assert_eq!(local.as_str(), format!("{slash}{rest}"));
    }
});
