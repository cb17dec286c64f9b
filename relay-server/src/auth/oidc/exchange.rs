//! From leaving for the provider to who came back (OpenID Connect Core section 3.1, RFC 7636, RFC 9700).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::Full;
use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AccessToken, AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet,
    EndpointSet, ExtraTokenFields, HttpRequest, HttpResponse, PkceCodeChallenge, PkceCodeVerifier,
    RedirectUrl, RequestTokenError, Scope, StandardRevocableToken, StandardTokenResponse, TokenResponse as _,
    TokenUrl,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::discovery::{DiscoveryError, Found};
use super::flow::{Kept, LIFE};
use super::{Provider, access};
use crate::auth::jwks::JwksError;
use crate::auth::jws::{BadToken, Token};
use crate::clock::unix_now;
use crate::config::oidc::Client as Registered;
use crate::outbound::{Bounds, CallError, Client};

/// A person waits for it.
const BOUNDS: Bounds = Bounds { within: Duration::from_secs(5), max_bytes: 256 * 1024 };
/// A longer code is none.
const MAX_CODE: usize = 2048;

/// Why somebody who came back is not signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// This browser did not leave from here, or too long ago, or came back twice.
    #[error("the answer does not belong to a sign-in that was begun in this browser")]
    NotBegun,
    /// The person, or the provider, said no. The code is RFC 6749's, or nothing when it is none.
    #[error("the provider refused: {0}")]
    Refused(String),
    /// The provider cannot be reached, or answers nonsense.
    #[error("the provider is of no use: {0}")]
    Unavailable(String),
    /// What it signed is not what was asked for.
    #[error("the ID token is refused: {0}")]
    Token(BadToken),
    /// The ID token is not the answer to our question.
    #[error("the ID token is not for this sign-in: {0}")]
    NotOurs(&'static str),
    /// Nobody signs in here with the provider.
    #[error("no client is configured")]
    Off,
}

impl From<DiscoveryError> for SignInError {
    fn from(error: DiscoveryError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<JwksError> for SignInError {
    fn from(error: JwksError) -> Self {
        match error {
            JwksError::Unavailable(reason) => Self::Unavailable(reason),
            JwksError::Bad(reason) => Self::Token(reason),
        }
    }
}

/// What a browser comes back with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CameBack {
    /// `code`.
    pub code: Option<String>,
    /// `state`.
    pub state: Option<String>,
    /// `iss`.
    pub issuer: Option<String>,
    /// `error`.
    pub error: Option<String>,
}

impl CameBack {
    /// From the query. A parameter that stands there twice makes it none (RFC 6749 section 3.1).
    pub fn read(query: &str) -> Option<Self> {
        let mut came = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "code" => &mut came.code,
                "state" => &mut came.state,
                "iss" => &mut came.issuer,
                "error" => &mut came.error,
                _ => continue,
            };
            if place.replace(value.into_owned()).is_some() {
                return None;
            }
        }
        Some(came)
    }

    /// Whether it is an answer to what this browser asked, good or bad.
    pub fn answers(&self, kept: &Kept) -> bool {
        self.state.as_ref() == Some(&kept.state)
    }

    /// The code, when the answer is one to what this browser keeps.
    fn code_for(self, kept: &Kept, issuer: &str, names_issuer: bool) -> Result<String, SignInError> {
        if !self.answers(kept) {
            return Err(SignInError::NotBegun);
        }
        // Somebody else's provider may send people here with a code of its own (RFC 9207).
        if self.issuer.as_deref().is_some_and(|named| named != issuer)
            || (names_issuer && self.issuer.is_none())
        {
            return Err(SignInError::NotBegun);
        }
        if let Some(error) = self.error {
            return Err(SignInError::Refused(error_code(error)));
        }
        self.code.filter(|code| !code.is_empty() && code.len() <= MAX_CODE).ok_or(SignInError::NotBegun)
    }
}

/// A provider's code for an error (RFC 6749 section 5.2), as the log may have it: whatever looks like none is left out.
fn error_code(text: String) -> String {
    let known = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if known { text } else { String::new() }
}

/// Who came back.
pub struct Someone {
    /// Who, in the provider's words.
    pub subject: String,
    /// The e-mail address, when the ID token tells one that the provider has verified.
    email: Option<String>,
    /// For asking the provider.
    token: AccessToken,
}

#[derive(Debug, Serialize, Deserialize)]
struct WithIdToken {
    id_token: Option<String>,
}

impl ExtraTokenFields for WithIdToken {}

type Tokens = StandardTokenResponse<WithIdToken, BasicTokenType>;
type OAuth = oauth2::Client<
    BasicErrorResponse,
    Tokens,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

impl Provider {
    /// Whether people sign in here with it.
    pub fn signs_in(&self) -> bool {
        self.config.client.is_some()
    }

    fn registered(&self) -> Result<&Registered, SignInError> {
        self.config.client.as_ref().ok_or(SignInError::Off)
    }

    /// Where to send a browser that is to come back to `redirect`, and what it has to keep.
    ///
    /// # Errors
    /// [`SignInError`].
    pub async fn begin(&self, redirect: &str) -> Result<(Url, Kept), SignInError> {
        let registered = self.registered()?;
        let found = self.discovery.get().await?;
        let client = oauth(registered, &found, redirect)?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let nonce = CsrfToken::new_random();
        let (url, state) = client
            .authorize_url(CsrfToken::new_random)
            .add_scopes(registered.scopes.iter().cloned().map(Scope::new))
            .add_extra_param("nonce", nonce.secret())
            .set_pkce_challenge(challenge)
            .url();
        let kept = Kept {
            state: state.into_secret(),
            nonce: nonce.into_secret(),
            verifier: verifier.into_secret(),
            redirect: redirect.to_owned(),
            expires_at: unix_now().saturating_add_unsigned(LIFE),
        };
        Ok((url, kept))
    }

    /// Who came back.
    ///
    /// # Errors
    /// [`SignInError`].
    pub async fn finish(&self, came: CameBack, kept: &Kept) -> Result<Someone, SignInError> {
        let registered = self.registered()?;
        let found = self.discovery.get().await?;
        let code = came.code_for(kept, &self.config.issuer, found.names_issuer)?;
        let tokens = self.exchange(registered, &found, code, kept).await;
        self.codes.count(tokens.is_ok());
        let tokens = tokens?;
        let id_token =
            tokens.extra_fields().id_token.as_deref().ok_or(SignInError::NotOurs("there is none"))?;
        let token = Token::read(id_token).map_err(SignInError::Token)?;
        let claims = self.verify(&token, &registered.id).await?;
        let subject = check(&claims, &registered.id, &kept.nonce)?.to_owned();
        let token = tokens.access_token().clone();
        Ok(Someone { subject, email: verified_email(&claims), token })
    }

    /// The verified e-mail address of somebody who came back. Many providers tell it only when they are asked.
    ///
    /// # Errors
    /// [`SignInError`].
    pub async fn verified_email(&self, someone: &Someone) -> Result<Option<String>, SignInError> {
        match (&someone.email, &self.discovery.get().await?.userinfo) {
            (None, Some(at)) => self.userinfo(at, someone.token.secret(), &someone.subject).await,
            (known, _) => Ok(known.clone()),
        }
    }

    async fn exchange(
        &self,
        registered: &Registered,
        found: &Found,
        code: String,
        kept: &Kept,
    ) -> Result<Tokens, SignInError> {
        let client = oauth(registered, found, &kept.redirect)?;
        let http = |request: HttpRequest| send(self.http.clone(), request);
        client
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(PkceCodeVerifier::new(kept.verifier.clone()))
            .request_async(&http)
            .await
            .map_err(|error| match error {
                // A code that was used, is too old, or was made for somebody else.
                RequestTokenError::ServerResponse(answer) => {
                    SignInError::Refused(error_code(answer.error().to_string()))
                }
                RequestTokenError::Request(error) => SignInError::Unavailable(error.to_string()),
                RequestTokenError::Parse(..) => {
                    SignInError::Unavailable("its answer has no tokens".to_owned())
                }
                RequestTokenError::Other(_) => SignInError::Unavailable("its answer is no answer".to_owned()),
            })
    }

    async fn userinfo(&self, at: &Url, token: &str, subject: &str) -> Result<Option<String>, SignInError> {
        let unavailable = |what: &str| SignInError::Unavailable(what.to_owned());
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| unavailable("its token is none"))?;
        bearer.set_sensitive(true);
        let request = Request::get(at.as_str())
            .header(header::AUTHORIZATION, bearer)
            .header(header::ACCEPT, "application/json")
            .body(Full::default())
            .map_err(|_| unavailable("its address is none"))?;
        let answer =
            self.http.call(request, BOUNDS).await.map_err(|error| unavailable(&error.to_string()))?;
        // A provider that tells no more here has told all that there is.
        if !answer.status().is_success() {
            return Ok(None);
        }
        let Ok(claims) = serde_json::from_slice::<Map<String, Value>>(answer.body()) else { return Ok(None) };
        // OpenID Connect Core section 5.3.2.
        if claims.get("sub").and_then(Value::as_str) != Some(subject) {
            return Err(SignInError::NotOurs("the user info is about somebody else"));
        }
        Ok(verified_email(&claims))
    }
}

async fn send(http: Client, request: HttpRequest) -> Result<HttpResponse, CallError> {
    let request: Request<Full<Bytes>> = request.map(|body| Full::from(Bytes::from(body)));
    Ok(http.call(request, BOUNDS).await?.map(|body| body.to_vec()))
}

fn oauth(registered: &Registered, found: &Found, redirect: &str) -> Result<OAuth, SignInError> {
    let redirect = RedirectUrl::new(redirect.to_owned())
        .map_err(|_| SignInError::Unavailable("our own address is none".to_owned()))?;
    let client = oauth2::Client::new(ClientId::new(registered.id.clone()))
        .set_auth_uri(AuthUrl::from_url(found.authorization.clone()))
        .set_token_uri(TokenUrl::from_url(found.token.clone()))
        .set_redirect_uri(redirect);
    Ok(match &registered.secret {
        Some(secret) => client
            .set_client_secret(ClientSecret::new(secret.reveal().to_owned()))
            .set_auth_type(if found.secret_in_body { AuthType::RequestBody } else { AuthType::BasicAuth }),
        None => client.set_auth_type(AuthType::RequestBody),
    })
}

/// What an ID token has to say besides the signature, `iss`, `aud` and the time (OpenID Connect Core section 3.1.3.7).
fn check<'a>(claims: &'a Map<String, Value>, client: &str, nonce: &str) -> Result<&'a str, SignInError> {
    if claims.get("nonce").and_then(Value::as_str) != Some(nonce) {
        return Err(SignInError::NotOurs("its nonce is another"));
    }
    let several = claims.get("aud").and_then(Value::as_array).is_some_and(|audiences| audiences.len() > 1);
    match claims.get("azp") {
        None if several => return Err(SignInError::NotOurs("it is for several and made for nobody")),
        Some(azp) if azp.as_str() != Some(client) => {
            return Err(SignInError::NotOurs("it was made for somebody else"));
        }
        _ => {}
    }
    access::subject(claims).map_err(SignInError::Token)
}

/// The address, when the provider says that it has seen that it is theirs.
fn verified_email(claims: &Map<String, Value>) -> Option<String> {
    let verified = claims.get("email_verified") == Some(&Value::Bool(true));
    let email = claims.get("email").and_then(Value::as_str).filter(|_| verified)?;
    crate::identity::email(email).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn kept() -> Kept {
        Kept {
            state: "right".to_owned(),
            nonce: "n".to_owned(),
            verifier: String::new(),
            redirect: String::new(),
            expires_at: 0,
        }
    }

    #[test]
    fn only_the_answer_to_this_browsers_question_counts() {
        const ISSUER: &str = "https://id.example";
        let long = format!("code={}&state=right", "c".repeat(MAX_CODE + 1));
        // query, whether the provider names itself, what is made of it
        let cases = [
            ("code=c&state=right", false, Some("c")),
            ("code=c&state=right&iss=https%3A%2F%2Fid.example&session_state=x", true, Some("c")),
            ("code=c&state=right", true, None),
            ("code=c&state=right&iss=https%3A%2F%2Fevil.example", false, None),
            ("code=c&state=wrong", false, None),
            ("code=c", false, None),
            ("state=right", false, None),
            ("code=&state=right", false, None),
            ("code=c&state=right&error=access_denied", false, None),
            (&long, false, None),
        ];
        for (query, names, code) in cases {
            let came = CameBack::read(query).unwrap();
            assert_eq!(came.code_for(&kept(), ISSUER, names).ok().as_deref(), code, "{query}");
        }
        for twice in ["code=a&code=b", "state=right&state=wrong", "iss=a&iss=a", "error=a&error="] {
            assert_eq!(CameBack::read(twice), None, "{twice}");
        }
        let refused = |query| match CameBack::read(query).unwrap().code_for(&kept(), ISSUER, false) {
            Err(SignInError::Refused(code)) => code,
            other => format!("{other:?}"),
        };
        assert_eq!(refused("error=access_denied&state=right"), "access_denied");
        assert_eq!(refused("error=%3Cscript%3E&state=right"), "");
        assert_eq!(error_code("invalid_grant".to_owned()), "invalid_grant");
        assert_eq!(error_code("a".repeat(65)), "");
    }

    #[test]
    fn an_id_token_is_made_for_us_and_for_now() {
        for (claims, good) in [
            (json!({"sub": "a", "nonce": "n", "aud": "c"}), true),
            (json!({"sub": "a", "nonce": "n", "aud": ["c"]}), true),
            (json!({"sub": "a", "nonce": "n", "aud": ["c", "d"], "azp": "c"}), true),
            (json!({"sub": "a", "nonce": "n", "aud": "c", "azp": "c"}), true),
            (json!({"sub": "a", "nonce": "n", "aud": ["c", "d"]}), false),
            (json!({"sub": "a", "nonce": "n", "aud": "c", "azp": "d"}), false),
            (json!({"sub": "a", "nonce": "n", "aud": "c", "azp": ["c"]}), false),
            (json!({"sub": "a", "nonce": "m", "aud": "c"}), false),
            (json!({"sub": "a", "aud": "c"}), false),
            (json!({"sub": "a", "nonce": ["n"], "aud": "c"}), false),
            (json!({"nonce": "n", "aud": "c"}), false),
            (json!({"sub": 1, "nonce": "n", "aud": "c"}), false),
        ] {
            assert_eq!(check(claims.as_object().unwrap(), "c", "n").is_ok(), good, "{claims}");
        }
    }

    #[test]
    fn an_address_counts_when_it_was_verified() {
        for (claims, email) in [
            (json!({"email": "Ann@Example.org", "email_verified": true}), Some("ann@example.org")),
            (json!({"email": "ann@example.org"}), None),
            (json!({"email": "ann@example.org", "email_verified": false}), None),
            (json!({"email": "ann@example.org", "email_verified": "true"}), None),
            (json!({"email": "ann@example.org", "email_verified": 1}), None),
            (json!({"email": "ann", "email_verified": true}), None),
            (json!({"email": ["ann@example.org"], "email_verified": true}), None),
        ] {
            assert_eq!(verified_email(claims.as_object().unwrap()).as_deref(), email, "{claims}");
        }
    }
}
