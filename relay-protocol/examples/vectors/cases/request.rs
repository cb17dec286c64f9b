//! Signed requests, the query form, and digests of bodies.

use super::{BROWSER_SEED, NOW, SESSION, browser_key, hex};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use relay_protocol::{
    keys::Sign,
    signature::{
        append_query,
        base::{self, Message},
        digest::ContentDigest,
        input::{Component, Name, Params, SignatureInput},
        request::{self, Made, Parts, Stamp},
    },
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

const NONCE: &str = "AAECAwQFBgcICQoLDA0ODw";
const BODY: &str = "{\"hello\":\"world\"}";

#[derive(Clone)]
struct Request {
    method: Method,
    path: &'static str,
    query: Option<String>,
    headers: Vec<(String, String)>,
    has_body: bool,
    now: i64,
}

impl Request {
    fn new(method: Method, path: &'static str, query: Option<&str>, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let has_body = method == Method::POST;
        Self { method, path, query: query.map(str::to_owned), headers, has_body, now: NOW }
    }

    fn map(&self) -> HeaderMap {
        map(&self.headers)
    }

    fn with(mut self, edit: impl FnOnce(&mut Self)) -> Self {
        edit(&mut self);
        self
    }

    fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(n, _)| n != name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn edit(&mut self, name: &str, from: &str, to: &str) {
        let (_, value) = self.headers.iter_mut().find(|(n, _)| n == name).unwrap();
        assert!(value.contains(from), "{value} {from}");
        *value = value.replace(from, to);
    }

    fn json(&self) -> Value {
        json!({
            "method": self.method.as_str(), "path": self.path, "query": self.query,
            "headers": self.headers, "has_body": self.has_body, "now": self.now,
        })
    }
}

/// Each byte of a value is one code point.
fn map(headers: &[(String, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let bytes: Vec<u8> = value.chars().map(|c| u8::try_from(c).unwrap()).collect();
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(&bytes).unwrap(),
        );
    }
    map
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn stamp(key_id: &str) -> Stamp<'_> {
    Stamp { created: NOW, key_id, nonce: NONCE }
}

/// Signs by the library and adds the fields.
fn signed(request: Request, cover: &[&str]) -> (Request, Made, Vec<u8>) {
    let headers = request.map();
    let names: Vec<HeaderName> = cover.iter().map(|name| HeaderName::try_from(*name).unwrap()).collect();
    let session = SESSION.to_string();
    let parts = parts(&request, &headers);
    let made = request::sign(&parts, &names, stamp(&session), &browser_key()).unwrap();
    let base = text(&request, &headers, &made.input);
    (carry(request, &made), made, base)
}

fn carry(mut request: Request, made: &Made) -> Request {
    request.set("signature-input", made.input_field().unwrap().to_str().unwrap());
    request.set("signature", made.signature_field().unwrap().to_str().unwrap());
    request
}

fn parts<'a>(request: &'a Request, headers: &'a HeaderMap) -> Parts<'a> {
    Parts {
        method: &request.method,
        path: request.path,
        query: request.query.as_deref(),
        headers,
        has_body: request.has_body,
    }
}

fn text(request: &Request, headers: &HeaderMap, input: &SignatureInput) -> Vec<u8> {
    let message = Message {
        method: Some(&request.method),
        path: Some(request.path),
        query: request.query.as_deref(),
        authority: Some("relay.example"),
        ..Message::new(headers)
    };
    base::build(input, &message).unwrap()
}

/// Signs any input, right or wrong: what the profile must refuse although the signature is good.
fn signed_with(request: Request, components: Vec<Component>, params: Params) -> Request {
    let input = SignatureInput::new(components, params);
    let signature = browser_key().sign(&text(&request, &request.map(), &input));
    carry(request, &Made { input, signature })
}

fn components(names: &[Name]) -> Vec<Component> {
    names.iter().cloned().map(Component::from).collect()
}

fn params() -> Params {
    Params {
        created: Some(NOW),
        keyid: Some(SESSION.to_string()),
        nonce: Some(NONCE.to_owned()),
        alg: Some("ed25519".to_owned()),
        ..Params::default()
    }
}

const THREE: [Name; 3] = [Name::Method, Name::Path, Name::Query];

fn digest() -> String {
    ContentDigest::field_sha256(BODY.as_bytes()).to_str().unwrap().to_owned()
}

fn get() -> Request {
    Request::new(Method::GET, "/api/items", Some("page=2&q=%2F"), &[("accept", "application/json")])
}

fn post() -> Request {
    let digest = digest();
    Request::new(
        Method::POST,
        "/api/items",
        None,
        &[("content-type", "application/json"), ("content-digest", &digest), ("x-relay-records", "1")],
    )
}

const POST_COVER: [&str; 3] = ["content-digest", "content-type", "x-relay-records"];

pub fn request() -> Value {
    let good = |name: &str, request: Request, cover: &[&str]| {
        let (request, made, base) = signed(request, cover);
        let mut case = request.json();
        case["name"] = json!(name);
        case["cover"] = json!(cover);
        case["created"] = json!(NOW);
        case["key_id"] = json!(SESSION);
        case["nonce"] = json!(NONCE);
        case["base"] = json!(latin1(&base));
        case["signature_hex"] = json!(hex(made.signature));
        case["signature_sha256_hex"] = json!(hex(Sha256::digest(made.signature)));
        case["expect"] = json!("ok");
        case
    };
    let (signed_get, ..) = signed(get(), &[]);
    let (signed_post, ..) = signed(post(), &POST_COVER);
    let bad = |name: &str, request: Request, code: &str| {
        let mut case = request.json();
        case["name"] = json!(name);
        case["expect"] = json!(code);
        case
    };
    let edited = |name: &str, from: &Request, edit: &dyn Fn(&mut Request), code: &str| {
        bad(name, from.clone().with(|request| edit(request)), code)
    };
    let input = |name: &str, from: &str, to: &str, code: &str| {
        bad(name, signed_get.clone().with(|request| request.edit("signature-input", from, to)), code)
    };
    let with_params = |name: &str, edit: &dyn Fn(&mut Params), code: &str| {
        let mut params = params();
        edit(&mut params);
        bad(name, signed_with(get(), components(&THREE), params), code)
    };
    let covering = |name: &str, request: Request, names: &[Name], code: &str| {
        bad(name, signed_with(request, components(names), params()), code)
    };
    let many = Request::new(Method::GET, "/", None, &[]).with(|request| {
        for at in 0..62 {
            request.set(&format!("x-{at}"), "1");
        }
    });
    let many_names: Vec<String> = (0..62).map(|at| format!("x-{at}")).collect();
    let field = |name: &str| Name::Field(HeaderName::try_from(name).unwrap());
    let mut many_components = components(&THREE);
    many_components.extend(many_names.iter().map(|name| Component::from(field(name))));

    let accepted = vec![
        good("a GET with a query", get(), &[]),
        good("a GET without a query", Request::new(Method::GET, "/", None, &[]), &[]),
        good("an empty query", Request::new(Method::GET, "/a", Some(""), &[]), &[]),
        good(
            "a path byte for byte",
            Request::new(Method::DELETE, "/a%2Fb//../c;d=%C3%A4'", Some("?&x=%20+"), &[]),
            &[],
        ),
        good("a POST with a digest", post(), &POST_COVER),
        good(
            "values that are trimmed and joined",
            Request::new(
                Method::GET,
                "/",
                None,
                &[("x-a", "one"), ("x-b", "b"), ("x-a", "\t two, three "), ("x-empty", "")],
            ),
            &["x-a", "x-b", "x-empty"],
        ),
        good(
            "a value that is not ASCII",
            Request::new(Method::GET, "/", None, &[("x-name", "J\u{fc}rgen \u{c3}\u{a4}")]),
            &["x-name"],
        ),
        good("a header that need not be covered", get(), &["accept"]),
    ];
    let mut other_label = signed_get.clone();
    let second = "other=(\"@method\");created=1;keyid=\"k\"";
    other_label.headers.push(("signature-input".to_owned(), second.to_owned()));
    other_label.headers.push(("signature".to_owned(), "other=:AAAA:".to_owned()));
    let mut twice = signed_get.clone();
    let again = twice.headers.iter().find(|(n, _)| n == "signature-input").unwrap().clone();
    twice.headers.push(again);

    let refused = vec![
        bad("no signature", get(), "signature_missing"),
        bad(
            "a signature of another label only",
            get().with(|r| {
                r.set("signature-input", second);
                r.set("signature", "other=:AAAA:");
            }),
            "signature_missing",
        ),
        bad("the label twice", twice, "bad_request"),
        edited("no Signature", &signed_get, &|r| r.headers.retain(|(n, _)| n != "signature"), "bad_request"),
        edited(
            "no Signature-Input",
            &signed_get,
            &|r| r.headers.retain(|(n, _)| n != "signature-input"),
            "bad_request",
        ),
        edited(
            "a signature of 63 bytes",
            &signed_get,
            &|r| r.set("signature", &format!("relay=:{}:", base64(&[1; 63]))),
            "bad_request",
        ),
        edited(
            "a signature that is a token",
            &signed_get,
            &|r| r.set("signature", "relay=abc"),
            "bad_request",
        ),
        input("an item instead of a list", "relay=(", "relay=1, x=(", "bad_request"),
        input("not a structured field", "relay=(", "relay=((", "bad_request"),
        input("a component twice", "\"@method\"", "\"@method\" \"@method\"", "bad_request"),
        input("a component in upper case", "\"@query\"", "\"@query\" \"Accept\"", "bad_request"),
        input("a component that is not known", "\"@query\"", "\"@query\" \"@target-uri\"", "bad_request"),
        input("a component with a parameter", "\"@query\"", "\"@query\";req", "bad_request"),
        input("a parameter that is not known", ";created=", ";x=1;created=", "bad_request"),
        input("a parameter twice", ";created=", ";created=1;created=", "bad_request"),
        input("created is text", &format!(";created={NOW}"), ";created=\"1\"", "bad_request"),
        input("created is negative", &format!(";created={NOW}"), ";created=-1", "bad_request"),
        with_params("no created", &|p| p.created = None, "bad_request"),
        with_params("no keyid", &|p| p.keyid = None, "bad_request"),
        with_params("no nonce", &|p| p.nonce = None, "bad_request"),
        with_params("no alg", &|p| p.alg = None, "bad_request"),
        with_params("another alg", &|p| p.alg = Some("hmac-sha256".to_owned()), "bad_request"),
        with_params("expires", &|p| p.expires = Some(NOW + 10), "bad_request"),
        with_params("a tag", &|p| p.tag = Some("x".to_owned()), "bad_request"),
        with_params("an upgrade's tag", &|p| p.tag = Some("websocket".to_owned()), "bad_request"),
        with_params("a nonce of 21 characters", &|p| p.nonce = Some("A".repeat(21)), "bad_request"),
        with_params("a nonce of 65 characters", &|p| p.nonce = Some("A".repeat(65)), "bad_request"),
        with_params(
            "a nonce of another alphabet",
            &|p| p.nonce = Some(format!("{}.", "A".repeat(22))),
            "bad_request",
        ),
        covering(
            "@authority",
            get(),
            &[Name::Method, Name::Path, Name::Query, Name::Authority],
            "bad_request",
        ),
        bad("65 components", signed_with(many, many_components, params()), "bad_request"),
        covering("no @method", get(), &[Name::Path, Name::Query], "uncovered"),
        covering("no @path", get(), &[Name::Method, Name::Query], "uncovered"),
        covering("no @query", get(), &[Name::Method, Name::Path], "uncovered"),
        covering("a body without a covered digest", post(), &THREE, "uncovered"),
        edited("a body where none was signed", &signed_get, &|r| r.has_body = true, "uncovered"),
        edited("another method", &signed_get, &|r| r.method = Method::DELETE, "signature_invalid"),
        edited("another path", &signed_get, &|r| r.path = "/api/items/", "signature_invalid"),
        edited("a path that means the same", &signed_get, &|r| r.path = "/api//items", "signature_invalid"),
        edited(
            "another query",
            &signed_get,
            &|r| r.query = Some("page=3&q=%2F".to_owned()),
            "signature_invalid",
        ),
        edited(
            "a query that means the same",
            &signed_get,
            &|r| r.query = Some("page=2&q=/".to_owned()),
            "signature_invalid",
        ),
        edited("no query", &signed_get, &|r| r.query = None, "signature_invalid"),
        edited(
            "another digest",
            &signed_post,
            &|r| r.set("content-digest", ContentDigest::field_sha256(b"x").to_str().unwrap()),
            "signature_invalid",
        ),
        edited(
            "a covered header altered",
            &signed_post,
            &|r| r.set("content-type", "text/html"),
            "signature_invalid",
        ),
        edited(
            "a covered header removed",
            &signed_post,
            &|r| r.headers.retain(|(n, _)| n != "x-relay-records"),
            "signature_invalid",
        ),
        edited(
            "a covered header doubled",
            &signed_post,
            &|r| r.headers.push(("content-type".to_owned(), "text/html".to_owned())),
            "signature_invalid",
        ),
        input("another created", &format!("{NOW}"), &format!("{}", NOW + 1), "signature_invalid"),
        input("another nonce", NONCE, "BBECAwQFBgcICQoLDA0ODw", "signature_invalid"),
        input("another keyid", "7c9e6679", "7c9e6678", "signature_invalid"),
        input(
            "components in another order",
            "\"@method\" \"@path\"",
            "\"@path\" \"@method\"",
            "signature_invalid",
        ),
        edited(
            "a signature of zeroes",
            &signed_get,
            &|r| r.set("signature", &format!("relay=:{}:", base64(&[0; 64]))),
            "signature_invalid",
        ),
        edited("61 s too late", &signed_get, &|r| r.now = NOW + 61, "clock_skew"),
        edited("61 s too early", &signed_get, &|r| r.now = NOW - 61, "clock_skew"),
    ];
    let mut on_the_edge: Vec<Value> = vec![
        edited("60 s late", &signed_get, &|r| r.now = NOW + 60, "ok"),
        edited("60 s early", &signed_get, &|r| r.now = NOW - 60, "ok"),
        edited("an uncovered header altered", &signed_get, &|r| r.set("accept", "text/html"), "ok"),
        bad("another label comes along", other_label, "ok"),
        input("spaces that do not matter", "\"@method\" \"@path\"", "  \"@method\"   \"@path\"", "ok"),
    ];
    on_the_edge.extend(refused);
    json!({
        "description": "Signed requests (section 4.2) as the agent receives them. Each byte of a header value is one code point. `signed`: sign `cover` (after @method, @path, @query) with created, key_id and nonce; base, fields and bytes must be these, and they verify. `received`: what the agent says in the order of its checks, without a nonce memory and with the key known. Ed25519 key: `seed_hex`.",
        "seed_hex": hex(BROWSER_SEED), "public_hex": hex(browser_key().verifying_key().as_bytes()),
        "signed": accepted,
        "received": on_the_edge,
    })
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

pub fn websocket_query() -> Value {
    let session = SESSION.to_string();
    let upgrade = |query: Option<&str>, protocol: bool| {
        let headers: &[(&str, &str)] = if protocol {
            &[("sec-websocket-protocol", "chat, v2"), ("sec-websocket-key", "a2V5")]
        } else {
            &[]
        };
        Request::new(Method::GET, "/socket", query, headers)
    };
    let made = |request: &Request| {
        let headers = request.map();
        request::sign_upgrade(&parts(request, &headers), stamp(&session), &browser_key()).unwrap()
    };
    // Good signatures of what is no upgrade's.
    let other = |names: &[Name], tag: Option<&str>| {
        let request = upgrade(Some("a=1"), true);
        let params = Params { tag: tag.map(str::to_owned), ..params() };
        let input = SignatureInput::new(components(names), params);
        let signature = browser_key().sign(&text(&request, &request.map(), &input));
        append_query(Some("a=1"), &Made { input, signature })
    };
    let [method, path, query] = THREE;
    let protocol = Name::Field(HeaderName::from_static("sec-websocket-protocol"));
    let four = [method.clone(), path.clone(), query.clone(), protocol];
    let case = |name: &str, query: Option<&str>, protocol: bool| {
        let cover: &[&str] = if protocol { &["sec-websocket-protocol"] } else { &[] };
        let request = upgrade(query, protocol);
        let made = made(&request);
        json!({
            "name": name, "path": request.path, "query": query, "headers": request.headers, "cover": cover,
            "created": NOW, "key_id": SESSION, "nonce": NONCE,
            "base": latin1(&text(&request, &request.map(), &made.input)),
            "signed_query": append_query(query, &made), "signature_hex": hex(made.signature), "expect": "ok",
        })
    };
    let full = append_query(Some("a=1"), &made(&upgrade(Some("a=1"), false)));
    let (input, signature) = full.strip_prefix("a=1&").unwrap().split_once('&').unwrap();
    let bare = append_query(None, &made(&upgrade(None, false)));
    let refused = |name: &str, signed_query: String, protocol: bool, code: &str| {
        let request = upgrade(None, protocol);
        json!({"name": name, "path": request.path, "signed_query": signed_query, "headers": request.headers, "expect": code})
    };
    json!({
        "description": "The signature of a WebSocket upgrade in its query (section 4.5). `signed`: `signed_query` is the query that the browser sends, with `tag=\"websocket\"`; `query` what the agent verifies and the local server gets (null: no query at all). `received`: what the agent says to others; `signature_missing` also where the query comes back as it was. Key, created, key id and nonce as in signature_request.json.",
        "seed_hex": hex(BROWSER_SEED), "now": NOW,
        "signed": [
            case("no query", None, false),
            case("an empty query", Some(""), false),
            case("a query", Some("a=1&b=%26&c"), false),
            case("a sub-protocol", Some("token=x"), true),
            case("a query like ours", Some("relay-signature2=1&x-relay-signature=2&a=relay-signature="), false),
        ],
        "received": [
            refused("nothing of ours", "a=1&b=2".to_owned(), false, "signature_missing"),
            refused("empty", String::new(), false, "signature_missing"),
            refused("a signature alone", format!("a=1&{signature}"), false, "bad_request"),
            refused("an input alone", format!("a=1&{input}"), false, "bad_request"),
            refused("in the other order", format!("a=1&{signature}&{input}"), false, "bad_request"),
            refused("not at the end", format!("{full}&b=2"), false, "bad_request"),
            refused("twice", format!("{full}&{input}&{signature}"), false, "bad_request"),
            refused("the signature once more before", format!("{signature}&{full}"), false, "bad_request"),
            refused("a percent sign that begins nothing", full.replace("%28", "%2"), false, "bad_request"),
            refused("a padded signature", format!("{full}=="), false, "bad_request"),
            refused("a short signature", full[..full.len() - 2].to_owned(), false, "bad_request"),
            refused("a second label", full.replace("&relay-signature=", "%2C%20other%3D%28%29%2C%20relay%3D%28%29&relay-signature="), false, "bad_request"),
            refused("a sub-protocol that is not covered", bare, true, "uncovered"),
            refused("all of an upgrade, as it has to be", other(&four, Some("websocket")), true, "ok"),
            refused("without a tag: a GET's", other(&THREE, None), false, "bad_request"),
            refused("with another tag", other(&THREE, Some("x")), false, "bad_request"),
            refused("with an empty tag", other(&THREE, Some("")), false, "bad_request"),
            refused("covers a header that is no upgrade's", other(&[method.clone(), path.clone(), query.clone(), Name::Field(HeaderName::from_static("sec-websocket-key"))], Some("websocket")), false, "bad_request"),
            refused("does not cover @path", other(&[method, query], Some("websocket")), false, "uncovered"),
            refused("another query", full.replace("a=1", "a=2"), false, "signature_invalid"),
        ],
    })
}

pub fn content_digest() -> Value {
    let sha256 = base64(&Sha256::digest(BODY));
    let sha512 = base64(&Sha512::digest(BODY));
    let wrong = base64(&[0; 32]);
    let case = |name: &str, field: String, body: &str, expect: &str| json!({"name": name, "field": field, "body": body, "expect": expect});
    let both = format!("sha-256=:{sha256}:, sha-512=:{sha512}:");
    json!({
        "description": "Content-Digest (RFC 9530): `ok`, `digest_mismatch` once the body has come, or `bad_request` for a field that cannot be used. `produced` is what a body's field looks like here.",
        "produced": [
            {"body": BODY, "field": digest()},
            {"body": "", "field": ContentDigest::field_sha256(b"").to_str().unwrap()},
        ],
        "cases": [
            case("sha-256", format!("sha-256=:{sha256}:"), BODY, "ok"),
            case("sha-512", format!("sha-512=:{sha512}:"), BODY, "ok"),
            case("both", both.clone(), BODY, "ok"),
            case("the other order", format!("sha-512=:{sha512}:,sha-256=:{sha256}:"), BODY, "ok"),
            case("an empty body", ContentDigest::field_sha256(b"").to_str().unwrap().to_owned(), "", "ok"),
            case("another body", both.clone(), "{\"hello\":\"World\"}", "digest_mismatch"),
            case("a shorter body", both.clone(), &BODY[..16], "digest_mismatch"),
            case("a longer body", both, &format!("{BODY}\n"), "digest_mismatch"),
            case("no body", format!("sha-256=:{sha256}:"), "", "digest_mismatch"),
            case("one of both is wrong", format!("sha-256=:{wrong}:, sha-512=:{sha512}:"), BODY, "digest_mismatch"),
            case("empty", String::new(), BODY, "bad_request"),
            case("an algorithm that is not one of these", format!("md5=:{wrong}:"), BODY, "bad_request"),
            case("such an algorithm beside a good one", format!("sha-256=:{sha256}:, sha=:AAAA:"), BODY, "bad_request"),
            case("an algorithm twice", format!("sha-256=:{wrong}:, sha-256=:{sha256}:"), BODY, "bad_request"),
            case("a short digest", "sha-256=:AAAA:".to_owned(), BODY, "bad_request"),
            case("a digest as text", format!("sha-256=\"{sha256}\""), BODY, "bad_request"),
            case("a parameter", format!("sha-256=:{sha256}:;a=1"), BODY, "bad_request"),
            case("upper case", format!("SHA-256=:{sha256}:"), BODY, "bad_request"),
        ],
    })
}
