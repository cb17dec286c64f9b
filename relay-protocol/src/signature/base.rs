//! The signature base: the very bytes that are signed (RFC 9421 section 2.5).

use super::{
    SignatureError,
    input::{Component, Name, SignatureInput, byte_sequence},
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
    /// The signature of the request that a response answers, and its label.
    pub request_signature: Option<(&'a str, &'a SignatureBytes)>,
}

impl<'a> Message<'a> {
    /// A message of header fields only.
    pub fn new(headers: &'a HeaderMap) -> Self {
        Self {
            method: None,
            path: None,
            query: None,
            authority: None,
            status: None,
            headers,
            request_signature: None,
        }
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
            return self.request_signature(component, message);
        }
        match &component.name {
            Name::Method => self.0.extend_from_slice(message.method?.as_str().as_bytes()),
            Name::Path => {
                let path = message.path?;
                self.0.extend_from_slice(if path.is_empty() { b"/" } else { path.as_bytes() });
            }
            Name::Query => {
                // Only a request has one, and it always has.
                message.method?;
                self.0.push(b'?');
                self.0.extend_from_slice(message.query.unwrap_or_default().as_bytes());
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

    /// `"signature";key="…";req`: the one component with parameters that is known here.
    fn request_signature(&mut self, component: &Component, message: &Message<'_>) -> Option<()> {
        let (label, signature) = message.request_signature?;
        let is_signature = matches!(&component.name, Name::Field(name) if *name == super::input::SIGNATURE);
        if !is_signature || component.key.as_deref() != Some(label) || !component.req {
            return None;
        }
        let mut text = String::with_capacity(90);
        byte_sequence(signature, &mut text);
        self.0.extend_from_slice(text.as_bytes());
        Some(())
    }
}
