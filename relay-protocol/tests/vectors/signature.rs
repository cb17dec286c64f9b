//! Requests, responses, the query form, digests, and RFC 9421's own case.

use super::{array, headers, list, load, text};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use relay_protocol::{
    keys::{AgentSigningKey, AgentVerifyingKey, BrowserSigningKey, BrowserVerifyingKey, Sign, Verify},
    signature::{
        SignatureError, append_query,
        base::{self, Answered, Message},
        digest::ContentDigest,
        input::{Parsed, SIGNATURE, SIGNATURE_INPUT, SignatureInput, parse_input},
        request::{self, Parts, Signed, Stamp},
        response, split_query,
    },
};
use serde_json::Value;
use uuid::Uuid;

struct Request {
    method: Method,
    headers: HeaderMap,
}

impl Request {
    fn new(case: &Value) -> Self {
        let method = case["method"].as_str().unwrap_or("GET").parse().unwrap();
        Self { method, headers: headers(&case["headers"]) }
    }

    fn parts<'a>(&'a self, case: &'a Value, query: Option<&'a str>) -> Parts<'a> {
        Parts {
            method: &self.method,
            path: text(&case["path"]),
            query,
            headers: &self.headers,
            has_body: case["has_body"].as_bool().unwrap_or(false),
        }
    }
}

/// What an agent says, in the order of its checks.
fn verdict(
    signed: Result<Option<Signed>, SignatureError>,
    parts: &Parts<'_>,
    key: &BrowserVerifyingKey,
    now: i64,
) -> &'static str {
    let Some(signed) = signed.transpose() else { return "signature_missing" };
    let checked = signed.and_then(|signed| signed.cover(parts)?.verify(parts, key)?.check_time(now));
    checked.map_or_else(|error| error.code().as_str(), |()| "ok")
}

fn sign(case: &Value, request: &Request, key: &BrowserSigningKey) -> request::Made {
    let cover: Vec<HeaderName> =
        case["cover"].as_array().unwrap().iter().map(|name| text(name).parse().unwrap()).collect();
    let stamp = Stamp {
        created: case["created"].as_i64().unwrap(),
        key_id: text(&case["key_id"]),
        nonce: text(&case["nonce"]),
    };
    let parts = request.parts(case, case["query"].as_str());
    if case["signed_query"].is_string() {
        return request::sign_upgrade(&parts, stamp, key).unwrap();
    }
    request::sign(&parts, &cover, stamp, key).unwrap()
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn base(case: &Value, request: &Request, input: &SignatureInput) -> String {
    let message = Message {
        method: Some(&request.method),
        path: Some(text(&case["path"])),
        query: case["query"].as_str(),
        ..Message::new(&request.headers)
    };
    latin1(&base::build(input, &message).unwrap())
}

#[test]
fn requests_that_are_signed_here() {
    let file = load("signature_request.json");
    let key = BrowserSigningKey::from_seed(&array(&file["seed_hex"]));
    assert_eq!(*key.verifying_key().as_bytes(), array(&file["public_hex"]));
    for case in list(&file["signed"]) {
        let mut request = Request::new(case);
        let (input, signature) = (request.headers.remove(SIGNATURE_INPUT), request.headers.remove(SIGNATURE));
        let made = sign(case, &request, &key);
        assert_eq!(base(case, &request, &made.input), text(&case["base"]));
        assert_eq!(made.signature, array(&case["signature_hex"]));
        assert_eq!((made.input_field(), made.signature_field()), (input, signature), "{case}");
        made.insert(&mut request.headers);

        let signed = Signed::from_headers(&request.headers).unwrap().unwrap();
        let parts = request.parts(case, case["query"].as_str());
        let verified = signed.cover(&parts).unwrap().verify(&parts, &key.verifying_key()).unwrap();
        assert_eq!(verified.signature_hash(), array(&case["signature_sha256_hex"]));
        assert_eq!(verified.key_id(), text(&case["key_id"]));
        assert_eq!(verified.nonce(), text(&case["nonce"]));
        assert_eq!(verified.created(), case["created"].as_i64().unwrap());
    }
}

#[test]
fn requests_as_an_agent_receives_them() {
    let file = load("signature_request.json");
    let key = BrowserVerifyingKey::from_bytes(&array(&file["public_hex"])).unwrap();
    for case in list(&file["received"]).iter().chain(list(&file["signed"])) {
        let request = Request::new(case);
        let parts = request.parts(case, case["query"].as_str());
        let signed = Signed::from_headers(&request.headers);
        let verdict = verdict(signed, &parts, &key, case["now"].as_i64().unwrap());
        assert_eq!(verdict, text(&case["expect"]), "{case}");
    }
}

#[test]
fn upgrades_whose_query_is_signed() {
    let file = load("websocket_query.json");
    let key = BrowserSigningKey::from_seed(&array(&file["seed_hex"]));
    let now = file["now"].as_i64().unwrap();
    for case in list(&file["signed"]) {
        let request = Request::new(case);
        let made = sign(case, &request, &key);
        assert_eq!(base(case, &request, &made.input), text(&case["base"]));
        assert_eq!(append_query(case["query"].as_str(), &made), text(&case["signed_query"]));
        let (rest, signed) = split_query(text(&case["signed_query"])).unwrap();
        assert_eq!(rest, case["query"].as_str());
        assert_eq!(signed.as_ref().map(|signed| *signed.signature()), Some(array(&case["signature_hex"])));
        let parts = request.parts(case, rest);
        assert_eq!(verdict(Ok(signed), &parts, &key.verifying_key(), now), text(&case["expect"]));
    }
    for case in list(&file["received"]) {
        let request = Request::new(case);
        let query = text(&case["signed_query"]);
        let split = split_query(query);
        let rest = split.as_ref().ok().and_then(|(rest, _)| *rest);
        if text(&case["expect"]) == "signature_missing" {
            assert_eq!(rest, Some(query));
        }
        let parts = request.parts(case, rest);
        let verdict = verdict(split.map(|(_, signed)| signed), &parts, &key.verifying_key(), now);
        assert_eq!(verdict, text(&case["expect"]), "{case}");
    }
}

/// The request that a response answers, as the browser sent it.
struct Sent {
    method: Method,
    path: String,
    query: Option<String>,
    input: SignatureInput,
    signature: [u8; 64],
}

impl Sent {
    fn new(case: &Value) -> Self {
        let request = &case["request"];
        let field = format!("relay={}", text(&request["signature_input"]));
        Self {
            method: text(&request["method"]).parse().unwrap(),
            path: text(&request["path"]).to_owned(),
            query: request["query"].as_str().map(str::to_owned),
            input: parse_input(field.as_bytes(), "relay").unwrap().unwrap(),
            signature: array(&request["signature_hex"]),
        }
    }

    fn answered(&self) -> Answered<'_> {
        Answered {
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            input: &self.input,
            signature: &self.signature,
        }
    }
}

fn response_parts<'a>(
    case: &Value,
    headers: &'a HeaderMap,
    sent: &'a Sent,
    host: &Value,
) -> response::Parts<'a> {
    response::Parts {
        status: StatusCode::from_u16(u16::try_from(case["status"].as_u64().unwrap()).unwrap()).unwrap(),
        headers,
        request: sent.answered(),
        host_id: Uuid::try_parse(text(host)).unwrap(),
    }
}

#[test]
fn responses() {
    let file = load("signature_response.json");
    let key = AgentSigningKey::from_seed(&array(&file["seed_hex"]));
    assert_eq!(*key.verifying_key().as_bytes(), array(&file["public_hex"]));
    for case in list(&file["signed"]) {
        let mut headers = headers(&case["unsigned_headers"]);
        let sent = Sent::new(case);
        let parts = response_parts(case, &headers, &sent, &file["host_id"]);
        let made = response::sign(&parts, case["created"].as_i64().unwrap(), &key).unwrap();
        assert_eq!(made.signature, array(&case["signature_hex"]));
        let message = Message {
            status: Some(parts.status),
            request: Some(base::Asked::Signed(sent.answered())),
            ..Message::new(&headers)
        };
        assert_eq!(latin1(&base::build(&made.input, &message).unwrap()), text(&case["base"]));
        made.insert(&mut headers);
        assert_eq!(headers, super::headers(&case["headers"]));
    }
    let key = key.verifying_key();
    for case in list(&file["received"]).iter().chain(list(&file["signed"])) {
        let headers = headers(&case["headers"]);
        let sent = Sent::new(case);
        let parts = response_parts(case, &headers, &sent, &file["host_id"]);
        let verdict = match response::verify(&parts, &key) {
            Ok(Some(verified)) => {
                assert!(verified.covers(&HeaderName::from_static("content-digest")));
                assert!(!verified.covers(&http::header::LOCATION));
                "ok"
            }
            Ok(None) => "unsigned",
            Err(error) => error.code().as_str(),
        };
        assert_eq!(verdict, text(&case["expect"]), "{case}");
    }
}

#[test]
fn rfc_9421_appendix_b_2_6() {
    let file = load("rfc9421_b26.json");
    let mut headers = headers(&file["headers"]);
    headers.insert(SIGNATURE_INPUT, text(&file["signature_input"]).parse().unwrap());
    headers.insert(SIGNATURE, text(&file["signature"]).parse().unwrap());
    let parsed = Parsed::from_headers(&headers, text(&file["label"])).unwrap().unwrap();
    assert_eq!(parsed.signature, array(&file["signature_hex"]));
    assert_eq!(Parsed::from_headers(&headers, "relay"), Ok(None));
    let method = text(&file["method"]).parse().unwrap();
    let message = Message {
        method: Some(&method),
        path: file["path"].as_str(),
        query: file["query"].as_str(),
        authority: file["authority"].as_str(),
        ..Message::new(&headers)
    };
    let base = base::build(&parsed.input, &message).unwrap();
    assert_eq!(latin1(&base), text(&file["base"]));
    // The RFC's key is nobody's here; Ed25519 is the same for all.
    AgentVerifyingKey::from_bytes(&array(&file["public_hex"]))
        .unwrap()
        .verify(&base, &parsed.signature)
        .unwrap();
    let key = AgentSigningKey::from_seed(&array(&file["seed_hex"]));
    assert_eq!(key.sign(&base), parsed.signature);
    let digest = ContentDigest::from_headers(&headers).unwrap().unwrap();
    let mut verifier = digest.verifier();
    verifier.update(text(&file["body"]).as_bytes());
    assert_eq!(verifier.finish(), Ok(()));
}

#[test]
fn digests() {
    let file = load("content_digest.json");
    for case in list(&file["produced"]) {
        let field = ContentDigest::field_sha256(text(&case["body"]).as_bytes());
        assert_eq!(field, text(&case["field"]));
    }
    for case in list(&file["cases"]) {
        let body = text(&case["body"]).as_bytes();
        // Whole, and in every two pieces.
        for at in 0..=body.len() {
            let verdict = match ContentDigest::parse(text(&case["field"]).as_bytes()) {
                Err(error) => error.code().as_str(),
                Ok(digest) => {
                    let mut verifier = digest.verifier();
                    verifier.update(&body[..at]);
                    verifier.update(&body[at..]);
                    verifier.finish().map_or_else(|error| error.code().as_str(), |()| "ok")
                }
            };
            assert_eq!(verdict, text(&case["expect"]), "{case}");
        }
    }
}
