//! What an exchange begins with: prelude, number, HEAD of the request; and how it is refused.

use super::{AGENT_SEED, HOST, NOW, SESSION, agent_key, hex};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use relay_protocol::{
    exchange::{MAX_QUERY_VALUE, Numbers, Prelude, RequestHead, encode_query},
    headers::RELAY_EXCHANGE,
    keys::Sign,
    problem::{Code, Problem},
    signature::{
        base::{self, Asked, Message},
        digest::{CONTENT_DIGEST, ContentDigest},
        input::{Component, Name, Params, SignatureInput},
        refusal::{self, Refusal},
        request::Made,
    },
};
use serde_json::{Value, json};
use uuid::Uuid;

pub fn exchange_prelude() -> Value {
    let cases = [(SESSION, 0), (SESSION, 1), (HOST, 1 << 53), (Uuid::nil(), 258), (Uuid::max(), u64::MAX)];
    let cases = cases.map(|(session_id, number)| {
        let prelude = Prelude { session_id, number };
        json!({
            "session_id": session_id, "number": number.to_string(), "prelude_hex": hex(prelude.to_bytes()),
            "prelude_b64": prelude.to_b64(), "hash_hex": hex(prelude.hash()),
        })
    });
    let prelude = Prelude { session_id: SESSION, number: 7 };
    let query = |head: &[u8]| encode_query(&prelude, head).unwrap();
    let good = |head: &[u8]| json!({"query": query(head), "prelude_hex": hex(prelude.to_bytes()), "head_hex": hex(head)});
    let value = query(b"HEAD").replace("relay-exchange=", "");
    let bad = |name: &str, query: String| json!({"name": name, "query": query});
    json!({
        "description": "Preludes (section 5.2): 24 bytes, their b64, and SHA-256(`relay-exchange/1` followed by the prelude), which stands where section 4 has the hash of a request's signature. `number` is a u64 as decimal text. `queries`: the query of a WebSocket (section 5.3), prelude and record HEAD; `bad_queries` are bad_request.",
        "preludes": cases,
        "queries": [good(b""), good(b"HEAD"), good(&[0xff; 61])],
        "bad_queries": [
            bad("empty", String::new()),
            bad("no value", "relay-exchange=".to_owned()),
            bad("shorter than a prelude", "relay-exchange=AAAA".to_owned()),
            bad("padded", format!("relay-exchange={value}==")),
            bad("the other alphabet", format!("relay-exchange={}++", query(b"").replace("relay-exchange=", ""))),
            bad("another parameter after it", format!("relay-exchange={value}&a=1")),
            bad("another parameter before it", format!("a=1&relay-exchange={value}")),
            bad("another name", format!("relay_exchange={value}")),
            bad("12289 characters and more", format!("relay-exchange={}", "A".repeat(MAX_QUERY_VALUE + 4))),
        ],
    })
}

/// What becomes of each number, as `Numbers` says it.
fn steps(mut numbers: Numbers, taken: &[u64]) -> Vec<Value> {
    let step = |number: &u64| {
        let expect = numbers.take(*number).map_or_else(|error| error.code().as_str(), |()| "ok");
        json!({"number": number.to_string(), "expect": expect})
    };
    taken.iter().map(step).collect()
}

pub fn exchange_numbers() -> Value {
    let top = u64::MAX;
    json!({
        "description": "What an agent says of the numbers of exchanges, one after the other (section 5.2): ok, replayed, or signing_session_expired when the session has had `limit` exchanges. `number` and `limit` are u64 as decimal text.",
        "sequences": [
            {"name": "in order", "limit": "1048576", "steps": steps(Numbers::sealed(), &[0, 1, 2, 2, 3])},
            {"name": "out of order", "limit": "1048576", "steps": steps(Numbers::sealed(), &[5, 3, 4, 0, 3, 5, 6, 1, 0])},
            {"name": "the window", "limit": "1048576", "steps": steps(
                Numbers::sealed(), &[65_536, 0, 1, 65_537, 0, 1, 2, 70_000, 4463, 4464, 4465, 4464, 200_000, 70_001, 134_463, 134_464],
            )},
            {"name": "at the end of the numbers", "limit": top.to_string(), "steps": steps(
                Numbers::signed(), &[top, top, top - 65_537, top - 65_536, top - 65_536, 0],
            )},
            {"name": "used up", "limit": "3", "steps": steps(Numbers::with_limit(3), &[2, 0, 0, 9, 10, 9, 1])},
        ],
    })
}

fn head(method: Method, target: &str, fields: &[(&str, &[u8])], websocket: bool) -> RequestHead {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    RequestHead { method, target: target.parse().unwrap(), headers, websocket }
}

pub fn request_head() -> Value {
    let good = |head: RequestHead| {
        let json = String::from_utf8(head.encode().unwrap().to_vec()).unwrap();
        json!({
            "json": json, "method": head.method.as_str(), "target": head.target.as_str(), "websocket": head.websocket,
            "headers_hex": head.headers.iter().map(|(n, v)| (n.as_str().to_owned(), hex(v))).collect::<Vec<_>>(),
        })
    };
    let bad = |name: &str, payload: &str| json!({"name": name, "payload_hex": hex(payload)});
    let with = |method: &str, target: &str, more: &str| {
        let (method, target) = (json!(method), json!(target));
        format!("{{\"method\":{method},\"target\":{target},\"headers\":[]{more}}}")
    };
    let target = |name: &str, target: &str| bad(name, &with("GET", target, ""));
    let fields = |name: &str, headers: &str| {
        bad(name, &format!("{{\"method\":\"GET\",\"target\":\"/\",\"headers\":{headers}}}"))
    };
    let mut unknown = good(head(Method::GET, "/", &[], false));
    unknown["json"] = json!(with("GET", "/", ",\"more\":{\"a\":1},\"websocket\":false"));
    json!({
        "description": "Payloads of HEAD of a request (section 5.2). Header values are given as hex of their bytes; JSON is compared parsed, and `websocket` may be absent when it is false. `bad` are refused.",
        "good": [
            good(head(Method::GET, "/", &[], false)),
            good(head(Method::POST, "/path?query", &[("content-type", b"text/plain"), ("x-name", b"J\xfcrgen"), ("x-a", b"1"), ("x-a", b"2")], false)),
            good(head(Method::GET, "/socket?a=%2F", &[("sec-websocket-protocol", b"chat")], true)),
            good(head(Method::from_bytes(b"PROPFIND").unwrap(), "//a/../b%00;c=d?x=/?&{}", &[], false)),
            unknown,
        ],
        "bad": [
            bad("not JSON", "{]"),
            bad("empty", ""),
            bad("an array", "[\"GET\",\"/\",[]]"),
            bad("no method", "{\"target\":\"/\",\"headers\":[]}"),
            bad("no target", "{\"method\":\"GET\",\"headers\":[]}"),
            bad("no headers", "{\"method\":\"GET\",\"target\":\"/\"}"),
            bad("method twice", "{\"method\":\"GET\",\"method\":\"PUT\",\"target\":\"/\",\"headers\":[]}"),
            bad("something after it", "{\"method\":\"GET\",\"target\":\"/\",\"headers\":[]}x"),
            bad("an empty method", &with("", "/", "")),
            bad("a method with a space", &with("GET /x", "/", "")),
            bad("a method with a line break", &with("GET\r\n", "/", "")),
            bad("CONNECT", &with("CONNECT", "/", "")),
            bad("TRACE", &with("TRACE", "/", "")),
            bad("trace", &with("trace", "/", "")),
            bad("a method of 65 characters", &with(&"A".repeat(65), "/", "")),
            target("an empty target", ""),
            target("a target without a slash", "a"),
            target("an asterisk", "*"),
            target("an absolute URL", "http://example.com/"),
            target("a target with a space", "/a b"),
            target("a target with a line break", "/a\r\nx: y"),
            target("a target with a NUL", "/\u{0}"),
            target("a target with DEL", "/\u{7f}"),
            target("a target with a fragment", "/a#b"),
            target("a target that is not ASCII", "/ä"),
            fields("a name in upper case", "[[\"X-A\",\"1\"]]"),
            fields("a name with a space", "[[\"x a\",\"1\"]]"),
            fields("a pseudo header", "[[\":path\",\"/\"]]"),
            fields("a value with a line break", "[[\"x-a\",\"1\\r\\nx-b: 2\"]]"),
            fields("a value with a code point above U+00FF", "[[\"x-a\",\"\\u0100\"]]"),
            fields("three parts", "[[\"x-a\",\"1\",\"2\"]]"),
            fields("an object", "{\"x-a\":\"1\"}"),
            bad("a WebSocket by POST", &with("POST", "/", ",\"websocket\":true")),
            bad("a WebSocket by yes", &with("GET", "/", ",\"websocket\":1")),
        ],
    })
}

const PRELUDE: Prelude = Prelude { session_id: SESSION, number: 7 };

/// A refusal's fields for a browser that sent `PRELUDE`.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: HeaderMap,
}

impl Answer {
    fn new(code: Code, prelude: &Prelude) -> (Self, String) {
        let body = Problem::new(code, "Say it again.").to_json();
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/problem+json"));
        headers.insert(CONTENT_DIGEST, ContentDigest::field_sha256(body.as_bytes()));
        headers.insert(RELAY_EXCHANGE, refusal::header_value(prelude));
        (Self { status: code.status().as_u16(), headers }, body)
    }

    fn message<'a>(&'a self, method: &'a Method, path: &'a str) -> Message<'a> {
        Message {
            status: Some(StatusCode::from_u16(self.status).unwrap()),
            request: Some(Asked::Unsigned { method, path, query: None }),
            ..Message::new(&self.headers)
        }
    }

    fn base(&self, input: &SignatureInput) -> Vec<u8> {
        base::build(input, &self.message(&Method::POST, "/_relay/exchange")).unwrap()
    }

    /// Signed, whatever it says.
    fn signed_with(mut self, components: Vec<Component>, path: &str) -> Self {
        let params = Params {
            created: Some(NOW),
            keyid: Some(HOST.to_string()),
            alg: Some("ed25519".to_owned()),
            ..Params::default()
        };
        let input = SignatureInput::new(components, params);
        let base = base::build(&input, &self.message(&Method::POST, path)).unwrap();
        let made = Made { signature: agent_key().sign(&base), input };
        made.insert(&mut self.headers);
        self
    }

    fn fields(&self) -> Vec<(&str, &str)> {
        let mut fields: Vec<_> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        fields.sort_unstable();
        fields
    }

    fn json(&self, name: &str, body: &str, expect: &str) -> Value {
        json!({"name": name, "status": self.status, "headers": self.fields(), "body": body, "expect": expect})
    }
}

fn signed(code: Code) -> (Answer, Value) {
    let (mut answer, body) = Answer::new(code, &PRELUDE);
    let unsigned = json!(answer.fields());
    let refusal = Refusal {
        status: StatusCode::from_u16(answer.status).unwrap(),
        headers: &answer.headers,
        prelude: &PRELUDE,
        host_id: HOST,
    };
    let made = refusal::sign(&refusal, NOW, &agent_key()).unwrap();
    let base = String::from_utf8(answer.base(&made.input)).unwrap();
    made.insert(&mut answer.headers);
    let mut case = answer.json(code.as_str(), &body, "ok");
    case["unsigned_headers"] = unsigned;
    case["created"] = json!(NOW);
    case["base"] = json!(base);
    case["signature_hex"] = json!(hex(made.signature));
    (answer, case)
}

pub fn exchange_refusal() -> Value {
    let codes = [
        Code::SigningSessionExpired,
        Code::SignatureInvalid,
        Code::Replayed,
        Code::BadRequest,
        Code::BodyTooLarge,
        Code::TooManyStreams,
    ];
    let (good, body) = (signed(Code::Replayed).0, Answer::new(Code::Replayed, &PRELUDE).1);
    let edited = |name: &str, expect: &str, edit: &dyn Fn(&mut Answer)| {
        let mut answer = good.clone();
        edit(&mut answer);
        answer.json(name, &body, expect)
    };
    let other = Prelude { number: 8, ..PRELUDE };
    let target = |name| Component { name, key: None, req: true };
    let whole = || -> Vec<Component> {
        vec![
            Name::Status.into(),
            CONTENT_DIGEST.into(),
            target(Name::Method),
            target(Name::Path),
            target(Name::Query),
            RELAY_EXCHANGE.into(),
        ]
    };
    let bare = || Answer::new(Code::Replayed, &PRELUDE).0;
    let without = |gone: Component| {
        let left = whole().into_iter().filter(|component| *component != gone).collect();
        bare().signed_with(left, "/_relay/exchange")
    };
    let mut success = bare();
    success.status = 200;
    json!({
        "description": "Signed refusals of exchanges over the relay (section 5.3). The request is POST /_relay/exchange without a query. `signed`: the agent signs `unsigned_headers` and the fields must be these. `received`: what a browser that sent the exchange of `prelude_hex` says: ok, unsigned (the relay's own answer), uncovered or signature_invalid, before it looks at the body. Ed25519 key of the agent: `seed_hex`; keyid: `host_id`.",
        "seed_hex": hex(AGENT_SEED), "public_hex": hex(agent_key().verifying_key().as_bytes()), "host_id": HOST,
        "prelude_hex": hex(PRELUDE.to_bytes()), "prelude_b64": PRELUDE.to_b64(),
        "signed": codes.map(|code| signed(code).1),
        "received": [
            bare().json("no signature", &body, "unsigned"),
            edited("status altered", "signature_invalid", &|a| a.status = 413),
            edited("digest altered", "signature_invalid", &|a| {
                a.headers.insert(CONTENT_DIGEST, ContentDigest::field_sha256(b"other"));
            }),
            edited("prelude altered", "signature_invalid", &|a| {
                a.headers.insert(RELAY_EXCHANGE, refusal::header_value(&other));
            }),
            edited("prelude gone", "signature_invalid", &|a| {
                a.headers.remove(RELAY_EXCHANGE);
            }),
            edited("prelude twice", "signature_invalid", &|a| {
                a.headers.append(RELAY_EXCHANGE, refusal::header_value(&PRELUDE));
            }),
            Answer::new(Code::Replayed, &other).0.signed_with(whole(), "/_relay/exchange")
                .json("a right refusal of another exchange", &body, "signature_invalid"),
            success.signed_with(whole(), "/_relay/exchange").json("a success", &body, "signature_invalid"),
            bare().signed_with(whole(), "/_relay/session").json("of another path", &body, "signature_invalid"),
            bare().signed_with(whole(), "/_relay/exchange").json("nothing but what has to be", &body, "ok"),
            without(RELAY_EXCHANGE.into()).json("without relay-exchange", &body, "uncovered"),
            without(CONTENT_DIGEST.into()).json("without content-digest", &body, "uncovered"),
            without(Name::Status.into()).json("without @status", &body, "uncovered"),
            without(target(Name::Method)).json("without @method;req", &body, "uncovered"),
            without(target(Name::Path)).json("without @path;req", &body, "uncovered"),
            without(target(Name::Query)).json("without @query;req", &body, "uncovered"),
        ],
    })
}
