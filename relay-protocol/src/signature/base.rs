//! The signature base: the very bytes that are signed (RFC 9421 section 2.5).

use super::{
    LABEL, SignatureError,
    input::{Component, Name, SIGNATURE, SIGNATURE_INPUT, SignatureInput, byte_sequence},
};
use crate::keys::SignatureBytes;
use http::{HeaderMap, HeaderName, Method, StatusCode};

/// Where the values of the components come from. What a message does not have is `None`.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// `@method`
    pub method: Option<&'a Method>,
    /// `@path`; nothing is `/`.
    pub path: Option<&'a str>,
    /// `@query`, without the `?`. A request without one has the query `?`.
    pub query: Option<&'a str>,
    /// `@authority`, in lower case, without a default port.
    pub authority: Option<&'a str>,
    /// `@status`
    pub status: Option<StatusCode>,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The request that a response answers: where components with `req` come from.
    pub request: Option<Asked<'a>>,
}

/// A request, as far as the signature of its answer can cover it.
#[derive(Debug, Clone, Copy)]
pub enum Asked<'a> {
    /// One that was signed.
    Signed(Answered<'a>),
    /// One that was not: of an exchange over the relay (PROTOCOL.md section 5.3).
    Unsigned {
        /// `@method`
        method: &'a Method,
        /// `@path`
        path: &'a str,
        /// `@query`, without the `?`.
        query: Option<&'a str>,
    },
}

/// A signed request, as far as the signature of its answer covers it (RFC 9421 section 2.4). To be filled from
/// what the request was, not from what the answer says that it was.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// `@method`
    pub method: &'a Method,
    /// `@path`
    pub path: &'a str,
    /// `@query`, without the `?`.
    pub query: Option<&'a str>,
    /// The member of `Signature-Input` with the label of this protocol.
    pub input: &'a SignatureInput,
    /// The member of `Signature`.
    pub signature: &'a SignatureBytes,
}

impl<'a> Message<'a> {
    /// A message of header fields only.
    pub fn new(headers: &'a HeaderMap) -> Self {
        Self { method: None, path: None, query: None, authority: None, status: None, headers, request: None }
    }
}

/// The signature base of a message.
///
/// # Errors
/// [`SignatureError::Invalid`] when the message lacks something that is covered: no signature fits it.
pub fn build(input: &SignatureInput, message: &Message<'_>) -> Result<Vec<u8>, SignatureError> {
    let mut base = Base(Vec::with_capacity(2 * input.as_str().len() + 256));
    let mut identifier = String::with_capacity(64);
    for component in input.components() {
        identifier.clear();
        component.write(&mut identifier);
        base.0.extend_from_slice(identifier.as_bytes());
        base.0.extend_from_slice(b": ");
        base.value(component, message).ok_or(SignatureError::Invalid)?;
        base.0.push(b'\n');
    }
    base.0.extend_from_slice(b"\"@signature-params\": ");
    base.0.extend_from_slice(input.as_str().as_bytes());
    Ok(base.0)
}

struct Base(Vec<u8>);

impl Base {
    fn value(&mut self, component: &Component, message: &Message<'_>) -> Option<()> {
        if component.has_parameters() {
            return self.of_request(component, message.request.as_ref()?);
        }
        match &component.name {
            Name::Method => self.0.extend_from_slice(message.method?.as_str().as_bytes()),
            Name::Path => self.path(message.path?),
            Name::Query => {
                // Only a request has one, and it always has.
                message.method?;
                self.query(message.query);
            }
            Name::Authority => self.0.extend_from_slice(message.authority?.as_bytes()),
            Name::Status => self.0.extend_from_slice(message.status?.as_str().as_bytes()),
            Name::Field(name) => self.field(name, message.headers)?,
        }
        Some(())
    }

    /// All lines of a field, each trimmed, joined by a comma and a space (RFC 9421 section 2.1).
    fn field(&mut self, name: &HeaderName, headers: &HeaderMap) -> Option<()> {
        let mut values = headers.get_all(name).iter();
        self.0.extend_from_slice(values.next()?.as_bytes().trim_ascii());
        for value in values {
            self.0.extend_from_slice(b", ");
            self.0.extend_from_slice(value.as_bytes().trim_ascii());
        }
        Some(())
    }

    fn path(&mut self, path: &str) {
        self.0.extend_from_slice(if path.is_empty() { b"/" } else { path.as_bytes() });
    }

    fn query(&mut self, query: Option<&str>) {
        self.0.push(b'?');
        self.0.extend_from_slice(query.unwrap_or_default().as_bytes());
    }

    /// Components of the request that is answered: those that this protocol knows, and no other.
    fn of_request(&mut self, component: &Component, request: &Asked<'_>) -> Option<()> {
        if !component.req {
            return None;
        }
        let (of_method, of_path, of_query, signed) = match request {
            Asked::Signed(signed) => (signed.method, signed.path, signed.query, Some(signed)),
            Asked::Unsigned { method, path, query } => (*method, *path, *query, None),
        };
        match (&component.name, component.key.as_deref()) {
            (Name::Method, None) => self.0.extend_from_slice(of_method.as_str().as_bytes()),
            (Name::Path, None) => self.path(of_path),
            (Name::Query, None) => self.query(of_query),
            (Name::Field(name), Some(LABEL)) if *name == SIGNATURE_INPUT => {
                self.0.extend_from_slice(signed?.input.as_str().as_bytes());
            }
            (Name::Field(name), Some(LABEL)) if *name == SIGNATURE => {
                let mut text = String::with_capacity(90);
                byte_sequence(signed?.signature, &mut text);
                self.0.extend_from_slice(text.as_bytes());
            }
            _ => return None,
        }
        Some(())
    }
}
