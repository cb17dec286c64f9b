//! A real OpenID Connect provider (the certified `oidc-provider`, on Node.js), and people who sign in with it.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use http::{Method, Request, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use url::{Url, form_urlencoded};

use crate::{
    Relay, RelayOptions, SOON,
    client::{self, Reply, empty, fetch, full},
    process::{Process, command},
};

/// What access tokens for the relay have as `aud`.
pub const AUDIENCE: &str = "https://relay.example/api";
/// The secret of the provider's clients that have one.
pub const SECRET: &str = "a-secret-of-the-tests";
/// The first page of the portal, where people arrive who got in.
pub const IN: &str = "/#/";

/// The provider as a process of its own.
#[derive(Debug)]
pub struct Provider {
    /// Where it listens.
    pub addr: SocketAddr,
    process: Process,
    folder: TempDir,
}

impl Provider {
    /// Starts one with new keys.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (process, addr) = launch(folder.path(), 0).await;
        Self { addr, process, folder }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with the same keys at the same place.
    pub async fn restart(&mut self) {
        self.kill();
        (self.process, self.addr) = launch(self.folder.path(), self.addr.port()).await;
    }

    /// As it stands in tokens.
    pub fn issuer(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Options of a relay that takes its access tokens.
    pub fn takes_tokens(&self, options: RelayOptions) -> RelayOptions {
        options.env("RELAY_OIDC_ISSUER", self.issuer()).env("RELAY_OIDC_AUDIENCE", AUDIENCE)
    }

    /// Options of a relay where people sign in with it as this client.
    pub fn signs_in(&self, options: RelayOptions, client: &str) -> RelayOptions {
        let options =
            options.portal().env("RELAY_OIDC_ISSUER", self.issuer()).env("RELAY_OIDC_CLIENT_ID", client);
        if client == "portal" { options.env("RELAY_OIDC_CLIENT_SECRET", SECRET) } else { options }
    }

    async fn tell(&self, path: &str, text: &str) {
        let reply = fetch(self.addr, client::request(Method::POST, path, full(text.to_owned()))).await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{reply:?}");
    }

    /// Lets people come back to this relay.
    pub async fn knows(&self, relay: &Relay) {
        self.tell("/test/portal", &relay.url()).await;
    }

    /// Replaces all keys by new ones.
    pub async fn rotate(&self) {
        self.tell("/test/rotate", "").await;
    }

    /// Adds new keys, which sign from now on; the old ones stay published.
    pub async fn rotate_gently(&self) {
        self.tell("/test/together", "").await;
    }

    async fn token(&self, client: &str, fields: &[(&str, &str)]) -> Reply {
        use base64::Engine as _;
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{client}:{SECRET}"));
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = Request::post("/token")
            .header("authorization", format!("Basic {basic}"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(full(form))
            .expect("a request");
        fetch(self.addr, request).await
    }

    /// An access token of one of the clients `agent-…` for itself, with this audience.
    pub async fn client_token(&self, client: &str, audience: &str) -> String {
        let fields = [("grant_type", "client_credentials"), ("resource", audience)];
        text(&self.token(client, &fields).await.json(), "access_token")
    }

    /// The tokens that a person lets the client `portal` have: an access token for the relay, and an ID token.
    pub async fn person_tokens(&self, login: &str) -> (String, String) {
        let redirect = "http://127.0.0.1:1/v1/auth/oidc/callback";
        let verifier = "v".repeat(43);
        let challenge = {
            use base64::Engine as _;
            use sha2::Digest as _;
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(&verifier))
        };
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([
                ("client_id", "portal"),
                ("response_type", "code"),
                ("scope", "openid email"),
                ("redirect_uri", redirect),
                ("resource", AUDIENCE),
                ("code_challenge", &challenge),
                ("code_challenge_method", "S256"),
                ("nonce", "n"),
                ("state", "s"),
            ])
            .finish();
        let back = Person::new(login).through(self, &format!("{}/auth?{query}", self.issuer())).await;
        let code = parameter(&back, "code");
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", redirect),
            ("code_verifier", verifier.as_str()),
            ("resource", AUDIENCE),
        ];
        let tokens: Value = self.token("portal", &fields).await.json();
        (text(&tokens, "access_token"), text(&tokens, "id_token"))
    }
}

fn text(of: &Value, name: &str) -> String {
    of[name].as_str().unwrap_or_else(|| panic!("no {name} in {of}")).to_owned()
}

/// A parameter of an address.
pub fn parameter(address: &str, name: &str) -> String {
    let url = Url::parse(address).expect("an address");
    let found = url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    found.unwrap_or_else(|| panic!("no {name} in {address}"))
}

async fn launch(folder: &Path, port: u16) -> (Process, SocketAddr) {
    let mut node = command("node");
    node.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../browser-pairing/test/system/provider.mjs"));
    node.arg(folder).arg(port.to_string());
    let mut process = Process::start("oidc-provider", node);
    let listening = |line: &str| line.strip_prefix("provider http://")?.parse().ok();
    let addr = process.line("provider http://…", SOON, listening).await;
    (process, addr)
}

/// A person with a browser that keeps cookies and goes where it is sent.
#[derive(Debug, Clone)]
pub struct Person {
    login: String,
    cookies: BTreeMap<(SocketAddr, String), String>,
}

impl Person {
    /// Somebody who calls themself this at the provider.
    pub fn new(login: &str) -> Self {
        Self { login: login.to_owned(), cookies: BTreeMap::new() }
    }

    /// The value of a cookie.
    pub fn cookie(&self, of: SocketAddr, name: &str) -> Option<&str> {
        self.cookies.get(&(of, name.to_owned())).map(String::as_str)
    }

    /// Puts a cookie into the browser.
    pub fn set_cookie(&mut self, of: SocketAddr, name: &str, value: &str) {
        self.cookies.insert((of, name.to_owned()), value.to_owned());
    }

    /// One request to one of the two.
    pub async fn ask(&mut self, addr: SocketAddr, path: &str, form: Option<&[(&str, &str)]>) -> Reply {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .filter(|((of, _), _)| *of == addr)
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        let request = Request::builder().uri(path).header("cookie", cookies.join("; "));
        let request = match form {
            Some(fields) => {
                let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
                request
                    .method(Method::POST)
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(full(body))
            }
            None => request.body(empty()),
        };
        let reply = fetch(addr, request.expect("a request")).await;
        for set in reply.headers.get_all("set-cookie") {
            let pair = set.to_str().expect("a cookie").split(';').next().unwrap_or_default();
            let (name, value) = pair.split_once('=').expect("a cookie has a value");
            let key = (addr, name.to_owned());
            if value.is_empty() {
                self.cookies.remove(&key)
            } else {
                self.cookies.insert(key, value.to_owned())
            };
        }
        reply
    }

    /// Leaves the portal, and tells the provider's address.
    pub async fn leave(&mut self, relay: &Relay) -> String {
        let reply = self.ask(relay.addr, "/v1/auth/oidc", None).await;
        assert_eq!(reply.status, StatusCode::SEE_OTHER, "{reply:?}");
        location(&reply)
    }

    /// Goes through the provider's pages, and tells where it sends the browser back to.
    pub async fn through(&mut self, provider: &Provider, address: &str) -> String {
        let mut path = here(provider, address).expect("an address of the provider's");
        for _ in 0..20 {
            let mut reply = self.ask(provider.addr, &path, None).await;
            if path.starts_with("/interaction/") && reply.status == StatusCode::OK {
                let login = self.login.clone();
                let page = reply.text();
                let fields: &[(&str, &str)] = if page.contains("name=\"login\"") {
                    &[("prompt", "login"), ("login", &login), ("password", "any")]
                } else {
                    &[("prompt", "consent")]
                };
                reply = self.ask(provider.addr, &path, Some(fields)).await;
            }
            assert!(reply.status.is_redirection(), "{path}: {reply:?}");
            let next = location(&reply);
            match here(provider, &next) {
                Some(there) => path = there,
                None => return next,
            }
        }
        panic!("the provider sends people in circles");
    }

    /// Comes back to the portal, and tells where it shows the person in.
    pub async fn come_back(&mut self, relay: &Relay, address: &str) -> String {
        let path = address.strip_prefix(&relay.url()).unwrap_or_else(|| panic!("not back: {address}"));
        let reply = self.ask(relay.addr, path, None).await;
        assert_eq!(reply.status, StatusCode::SEE_OTHER, "{reply:?}");
        location(&reply)
    }

    /// All of it.
    pub async fn sign_in(&mut self, relay: &Relay, provider: &Provider) -> String {
        let away = self.leave(relay).await;
        let back = self.through(provider, &away).await;
        self.come_back(relay, &back).await
    }

    /// Calls the relay as its portal does.
    pub async fn call(&self, relay: &Relay, method: Method, path: &str) -> Reply {
        let cookie = self.cookie(relay.addr, "relay_session").unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("cookie", format!("relay_session={cookie}"))
            .header("x-relay-csrf", "1")
            .body(empty());
        fetch(relay.addr, request.expect("a request")).await
    }
}

fn location(reply: &Reply) -> String {
    reply.header("location").unwrap_or_else(|| panic!("it sends nowhere: {reply:?}")).to_owned()
}

/// The path of an address at the provider.
fn here(provider: &Provider, address: &str) -> Option<String> {
    if address.starts_with('/') {
        return Some(address.to_owned());
    }
    address.strip_prefix(&provider.issuer()).map(str::to_owned)
}
