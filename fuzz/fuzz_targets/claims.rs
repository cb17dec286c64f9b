//! Claims of both ends, and the text of a code: an answer and no panic; what was accepted is within the limits,
//! and what is written again reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_protocol::pairing::{
    AgentClaims, BrowserClaims, Code, FinishMessage, MAX_CLAIMS, StartRequest, is_text,
};

const HOST: u128 = 0x0d1f_0c57_3b4e_4a7f_9e38_0a4b_4c5d_6e7f;

fuzz_target!(|data: &[u8]| {
    let host = uuid::Uuid::from_u128(HOST);
    if let Ok(claims) = BrowserClaims::parse(data, host) {
        let client = &claims.client;
        assert!(data.len() <= MAX_CLAIMS && claims.host_id == host);
        assert!([&client.name, &client.browser, &client.os, &client.device].iter().all(|text| is_text(text)));
        assert_eq!(BrowserClaims::parse(&claims.to_json(), host).as_ref(), Ok(&claims));
    }
    if let Ok(claims) = AgentClaims::parse(data, host) {
        assert!(data.len() <= MAX_CLAIMS && claims.host_id == host);
        assert!(is_text(&claims.agent.name) && is_text(&claims.agent.version));
        assert_eq!(AgentClaims::parse(&claims.to_json(), host).as_ref(), Ok(&claims));
    }
    let _ = (serde_json::from_slice::<StartRequest>(data), serde_json::from_slice::<FinishMessage>(data));
    if let Ok(code) = std::str::from_utf8(data).map_err(drop).and_then(|text| Code::parse(text).map_err(drop))
    {
        assert_eq!(
            *Code::parse(&code.reveal_grouped()).expect("what is shown is read").reveal(),
            *code.reveal()
        );
    }
});
