//! Signed responses, and the test case of RFC 9421 itself.

use super::{AGENT_SEED, HOST, NOW, SESSION, agent_key, hex};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use relay_protocol::{
    keys::{Sign, SignatureBytes},
    signature::{
        base::{self, Answered, Message},
        digest::ContentDigest,
        input::{Component, Name, Params, SignatureInput, parse_input, parse_signature},
        request::Made,
        response::{self, Parts, request_components},
    },
};
use serde_json::{Value, json};
use uuid::Uuid;

const REQUEST_SIGNATURE: SignatureBytes = [0x5a; 64];
const BODY: &str = "{\"items\":[]}";

#[derive(Clone)]
struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    request: Asked,
}

/// The request that is answered. Whether its signature is right is nothing that its answer depends on.
#[derive(Clone)]
struct Asked {
    method: Method,
    path: &'static str,
    query: Option<&'static str>,
    input: SignatureInput,
    signature: SignatureBytes,
}

impl Asked {
    fn new() -> Self {
        let names = [Name::Method, Name::Path, Name::Query, Name::Field(HeaderName::from_static("x-app"))];
        let params = Params {
            created: Some(NOW),
            keyid: Some(SESSION.to_string()),
            nonce: Some("AAECAwQFBgcICQoLDA0ODw".to_owned()),
            alg: Some("ed25519".to_owned()),
            ..Params::default()
        };
        Self {
            method: Method::GET,
            path: "/api/items",
            query: Some("page=2&q=%2F"),
            input: SignatureInput::new(names.map(Component::from).to_vec(), params),
            signature: REQUEST_SIGNATURE,
        }
    }

    fn answered(&self) -> Answered<'_> {
        Answered {
            method: &self.method,
            path: self.path,
            query: self.query,
            input: &self.input,
            signature: &self.signature,
        }
    }

    fn json(&self) -> Value {
        json!({
            "method": self.method.as_str(), "path": self.path, "query": self.query,
            "signature_input": self.input.as_str(), "signature_hex": hex(self.signature),
        })
    }

    /// The same with another parameter.
    fn edit(&mut self, from: &str, to: &str) {
        let field = format!("relay={}", self.input.as_str().replace(from, to));
        let edited = parse_input(field.as_bytes(), "relay").unwrap().unwrap();
        assert_ne!(edited, self.input, "{from}");
        self.input = edited;
    }
}

impl Response {
    fn new(status: u16, body: &str, headers: &[(&str, &str)]) -> Self {
        let mut headers: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let digest = ContentDigest::field_sha256(body.as_bytes());
        headers.push(("content-digest".to_owned(), digest.to_str().unwrap().to_owned()));
        Self { status, headers, request: Asked::new() }
    }

    fn map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            map.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
        }
        map
    }

    fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(n, _)| n != name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn carry(mut self, made: &Made) -> Self {
        self.set("signature-input", made.input_field().unwrap().to_str().unwrap());
        self.set("signature", made.signature_field().unwrap().to_str().unwrap());
        self
    }

    fn text(&self, input: &SignatureInput) -> Vec<u8> {
        let headers = self.map();
        let message = Message {
            status: Some(StatusCode::from_u16(self.status).unwrap()),
            request: Some(base::Asked::Signed(self.request.answered())),
            ..Message::new(&headers)
        };
        base::build(input, &message).unwrap()
    }

    fn json(&self, name: &str, expect: &str) -> Value {
        json!({
            "name": name, "status": self.status, "headers": self.headers,
            "request": self.request.json(), "expect": expect,
        })
    }
}

fn signed(response: Response) -> (Response, Value) {
    let headers = response.map();
    let parts = Parts {
        status: StatusCode::from_u16(response.status).unwrap(),
        headers: &headers,
        request: response.request.answered(),
        host_id: HOST,
    };
    let made = response::sign(&parts, NOW, &agent_key()).unwrap();
    let base = String::from_utf8(response.text(&made.input)).unwrap();
    let unsigned = response.headers.clone();
    let response = response.carry(&made);
    let mut case = response.json("", "ok");
    case["unsigned_headers"] = json!(unsigned);
    case["created"] = json!(NOW);
    case["base"] = json!(base);
    case["signature_hex"] = json!(hex(made.signature));
    (response, case)
}

fn signed_with(response: Response, components: Vec<Component>, params: Params) -> Response {
    let input = SignatureInput::new(components, params);
    let signature = agent_key().sign(&response.text(&input));
    response.carry(&Made { input, signature })
}

pub fn response() -> Value {
    let plain =
        Response::new(200, BODY, &[("content-type", "application/json"), ("cache-control", "no-store")]);
    let left_out = Response::new(
        303,
        "",
        &[
            ("location", "/v1/relay/h/x/s/y/items/7"),
            ("set-cookie", "a=1; Path=/"),
            ("set-cookie", "b=2"),
            ("content-length", "0"),
            ("date", "Fri, 15 Jan 2027 08:00:00 GMT"),
            ("etag", "\"7\""),
            ("vary", "accept"),
            ("vary", " origin"),
        ],
    );
    let problem = Response::new(
        401,
        "{\"code\":\"clock_skew\",\"agent_time\":1800000000}",
        &[("content-type", "application/problem+json")],
    );
    let named = |name: &str, response: Response| {
        let (response, mut case) = signed(response);
        case["name"] = json!(name);
        (response, case)
    };
    let (good, plain_case) = named("a small answer", plain.clone());
    let (mapped, mapped_case) = named("headers that the relay maps are left out", left_out);
    let (_, problem_case) = named("a refusal", problem);

    let edited = |name: &str, from: &Response, expect: &str, edit: &dyn Fn(&mut Response)| {
        let mut response = from.clone();
        edit(&mut response);
        response.json(name, expect)
    };
    let params = || Params {
        created: Some(NOW),
        keyid: Some(HOST.to_string()),
        alg: Some("ed25519".to_owned()),
        ..Params::default()
    };
    let digest = Component::from(HeaderName::from_static("content-digest"));
    let whole = || {
        let mut all = vec![Name::Status.into(), digest.clone()];
        all.extend(request_components());
        all
    };
    let without = |gone: &Component| whole().into_iter().filter(|c| c != gone).collect::<Vec<_>>();
    let with = |name: &str, expect: &str, components: Vec<Component>, edit: &dyn Fn(&mut Params)| {
        let mut params = params();
        edit(&mut params);
        signed_with(plain.clone(), components, params).json(name, expect)
    };
    let [method, path, query, input, signature] = request_components();
    json!({
        "description": "Signed responses (section 4.3). `request` is the signed request as the browser sent it; `signature_input` is what stands after `relay=`. `signed`: the agent signs `unsigned_headers` and the fields must be these. `received`: what a browser says: ok, unsigned (the relay's own answer), bad_request, uncovered or signature_invalid, before it looks at the body. Ed25519 key of the agent: `seed_hex`; keyid: `host_id`.",
        "seed_hex": hex(AGENT_SEED), "public_hex": hex(agent_key().verifying_key().as_bytes()), "host_id": HOST,
        "signed": [plain_case, mapped_case, problem_case],
        "received": [
            plain.json("no signature", "unsigned"),
            edited("the relay maps a location", &mapped, "ok", &|r| r.set("location", "/elsewhere")),
            edited("a header that is not covered is added", &good, "ok", &|r| r.set("x-request-id", "abc")),
            edited("another status", &good, "signature_invalid", &|r| r.status = 201),
            edited("to a request with another signature", &good, "signature_invalid", &|r| r.request.signature = [0x5b; 64]),
            edited("to a request with another method", &good, "signature_invalid", &|r| r.request.method = Method::HEAD),
            edited("to a request for another path", &good, "signature_invalid", &|r| r.request.path = "/_relay/hello"),
            edited("to a request with another query", &good, "signature_invalid", &|r| r.request.query = Some("page=2&q=/")),
            edited("to a request without the query", &good, "signature_invalid", &|r| r.request.query = None),
            edited("to a request of another session", &good, "signature_invalid", &|r| r.request.edit("7c9e6679", "7c9e6678")),
            edited("to a request with another nonce", &good, "signature_invalid", &|r| r.request.edit("nonce=\"AA", "nonce=\"BB")),
            edited("to a request that covers less", &good, "signature_invalid", &|r| r.request.edit(" \"x-app\"", "")),
            edited("a header altered", &good, "signature_invalid", &|r| r.set("content-type", "text/html")),
            edited("a header doubled", &good, "signature_invalid", &|r| {
                r.headers.push(("cache-control".to_owned(), "public".to_owned()));
            }),
            edited("a header removed", &good, "signature_invalid", &|r| r.headers.retain(|(n, _)| n != "cache-control")),
            edited("another digest", &good, "signature_invalid", &|r| {
                r.set("content-digest", ContentDigest::field_sha256(b"").to_str().unwrap());
            }),
            edited("another created", &good, "signature_invalid", &|r| {
                let (_, input) = r.headers.iter_mut().find(|(n, _)| n == "signature-input").unwrap();
                *input = input.replace("created=1800000000", "created=1800000001");
            }),
            edited("half of a signature", &good, "bad_request", &|r| r.headers.retain(|(n, _)| n != "signature")),
            with("@status is not covered", "uncovered", without(&Name::Status.into()), &|_| ()),
            with("content-digest is not covered", "uncovered", without(&digest), &|_| ()),
            with("nothing of the request is covered", "uncovered", vec![Name::Status.into(), digest.clone()], &|_| ()),
            with("the request's method is not covered", "uncovered", without(&method), &|_| ()),
            with("the request's path is not covered", "uncovered", without(&path), &|_| ()),
            with("the request's query is not covered", "uncovered", without(&query), &|_| ()),
            with("the request's input is not covered", "uncovered", without(&input), &|_| ()),
            with("the request's signature is not covered", "uncovered", without(&signature), &|_| ()),
            with("a tag", "bad_request", whole(), &|p| p.tag = Some("websocket".to_owned())),
            with("another host", "signature_invalid", whole(), &|p| p.keyid = Some(Uuid::nil().to_string())),
            with("no keyid", "bad_request", whole(), &|p| p.keyid = None),
            with("no created", "bad_request", whole(), &|p| p.created = None),
            with("no alg", "bad_request", whole(), &|p| p.alg = None),
            with("a nonce", "bad_request", whole(), &|p| p.nonce = Some("A".repeat(22))),
            with("expires", "bad_request", whole(), &|p| p.expires = Some(NOW)),
        ],
    })
}

pub fn rfc9421_b26() -> Value {
    let headers = [
        ("host", "example.com"),
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("content-type", "application/json"),
        (
            "content-digest",
            "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
        ),
        ("content-length", "18"),
    ];
    let input = "sig-b26=(\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\");created=1618884473;keyid=\"test-key-ed25519\"";
    let signature =
        "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:";
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(name, HeaderValue::from_static(value));
    }
    let parsed = parse_input(input.as_bytes(), "sig-b26").unwrap().unwrap();
    let message = Message {
        method: Some(&Method::POST),
        path: Some("/foo"),
        query: Some("param=Value&Pet=dog"),
        authority: Some("example.com"),
        ..Message::new(&map)
    };
    let base = base::build(&parsed, &message).unwrap();
    // The key as RFC 9421 appendix B.1.4 prints it: the seed ends the PKCS #8, the key ends the SPKI.
    let seed = STANDARD.decode("MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF").unwrap();
    let public = STANDARD.decode("MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=").unwrap();
    json!({
        "description": "The Ed25519 test case of RFC 9421, appendix B.2.6, with its key (B.1.4).",
        "method": "POST", "path": "/foo", "query": "param=Value&Pet=dog", "authority": "example.com",
        "headers": headers, "body": "{\"hello\": \"world\"}", "label": "sig-b26",
        "signature_input": input, "signature": signature,
        "signature_hex": hex(parse_signature(signature.as_bytes(), "sig-b26").unwrap().unwrap()),
        "base": String::from_utf8(base).unwrap(),
        "seed_hex": hex(&seed[seed.len() - 32..]), "public_hex": hex(&public[public.len() - 32..]),
    })
}
