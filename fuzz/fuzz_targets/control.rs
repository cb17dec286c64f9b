//! Control messages: whatever the text, an answer and no panic; what was read and written again reads
//! the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_protocol::tunnel::control::{Control, MAX_CONTROL};

fuzz_target!(|text: &str| {
    let Ok(control) = Control::parse(text) else { return };
    assert!(text.len() <= MAX_CONTROL);
    if control != Control::Unknown {
        assert_eq!(Control::parse(&control.to_text()), Ok(control));
    }
});
