//! The fields `Signature-Input` and `Signature` (RFC 9421 section 4), one label of them.
//!
//! Read by a visitor, so that other labels cost nothing, a label that comes twice is refused (readers differ
//! in which one counts), and the value of `@signature-params` is written while it is read.

use super::SignatureError;
use crate::keys::SignatureBytes;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName};
use sfv::{
    BareItemFromInput, KeyRef, Parser,
    visitor::{
        DictionaryVisitor, EntryVisitor, Ignored, InnerListVisitor, ItemVisitor, Never, ParameterVisitor,
    },
};
use std::{borrow::Cow, fmt::Write};

/// `Signature-Input`.
pub const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");
/// `Signature`.
pub const SIGNATURE: HeaderName = HeaderName::from_static("signature");

/// The most bytes of one of the two fields: 64 components of a longish name each.
pub const MAX_FIELD: usize = 8192;

/// The most components that a signature may cover. A response may have more headers than a browser sends.
pub const MAX_COMPONENTS: usize = 256;

/// The most characters of a text among the parameters.
const MAX_PARAM: usize = 256;

/// What a component names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// `@method`
    Method,
    /// `@path`
    Path,
    /// `@query`
    Query,
    /// `@authority`
    Authority,
    /// `@status`
    Status,
    /// A header field.
    Field(HeaderName),
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "@method" => Self::Method,
            "@path" => Self::Path,
            "@query" => Self::Query,
            "@authority" => Self::Authority,
            "@status" => Self::Status,
            field => {
                let name = HeaderName::from_bytes(field.as_bytes()).ok()?;
                // Component names are in lower case (RFC 9421 section 2.1).
                (name.as_str() == field).then_some(Self::Field(name))?
            }
        })
    }

    /// The name as it stands in the field.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Method => "@method",
            Self::Path => "@path",
            Self::Query => "@query",
            Self::Authority => "@authority",
            Self::Status => "@status",
            Self::Field(name) => name.as_str(),
        }
    }
}

/// A component identifier: a name and the parameters that are known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// What it names.
    pub name: Name,
    /// `key`: a member of a dictionary field.
    pub key: Option<String>,
    /// `req`: of the request that a response answers.
    pub req: bool,
}

impl From<Name> for Component {
    fn from(name: Name) -> Self {
        Self { name, key: None, req: false }
    }
}

impl From<HeaderName> for Component {
    fn from(name: HeaderName) -> Self {
        Name::Field(name).into()
    }
}

impl Component {
    /// Whether it has a parameter.
    pub fn has_parameters(&self) -> bool {
        self.key.is_some() || self.req
    }

    /// Writes the identifier as it stands in the list and at the beginning of its line.
    pub(super) fn write(&self, to: &mut String) {
        quoted(self.name.as_str(), to);
        if let Some(key) = &self.key {
            to.push_str(";key=");
            quoted(key, to);
        }
        if self.req {
            to.push_str(";req");
        }
    }
}

/// The parameters of a signature (RFC 9421 section 2.3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    /// When it was made, Unix seconds.
    pub created: Option<i64>,
    /// When it ends to be good, Unix seconds.
    pub expires: Option<i64>,
    /// Which key made it.
    pub keyid: Option<String>,
    /// Makes it unlike any other.
    pub nonce: Option<String>,
    /// The algorithm.
    pub alg: Option<String>,
    /// What it is for.
    pub tag: Option<String>,
}

/// What a signature covers, with its parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignatureInput {
    components: Vec<Component>,
    params: Params,
    /// The value of `@signature-params`: the inner list as RFC 8941 section 4.1.1.1 serialises it.
    text: String,
}

impl SignatureInput {
    /// A signature's input, parameters in the order of [`Params`].
    pub fn new(components: Vec<Component>, params: Params) -> Self {
        let mut text = String::with_capacity(256);
        write_list(&components, &mut text);
        for (name, value) in [("created", params.created), ("expires", params.expires)] {
            if let Some(value) = value {
                integer(name, value, &mut text);
            }
        }
        let texts =
            [("keyid", &params.keyid), ("nonce", &params.nonce), ("alg", &params.alg), ("tag", &params.tag)];
        for (name, value) in texts {
            if let Some(value) = value {
                string(name, value, &mut text);
            }
        }
        Self { components, params, text }
    }

    /// The components, in their order.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// The parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The value of `@signature-params`, which is also what stands after `label=` in the field.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it covers a header, without parameters.
    pub fn covers(&self, name: &HeaderName) -> bool {
        self.components.iter().any(|c| matches!(&c.name, Name::Field(n) if n == name) && !c.has_parameters())
    }
}

/// A signature of one label, read but not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// What it covers.
    pub input: SignatureInput,
    /// Its bytes.
    pub signature: SignatureBytes,
}

impl Parsed {
    /// Reads the signature of `label`; `None` when neither field has one.
    pub fn from_headers(headers: &HeaderMap, label: &str) -> Result<Option<Self>, SignatureError> {
        let input = match joined(headers, &SIGNATURE_INPUT)? {
            Some(field) => parse_input(&field, label)?,
            None => None,
        };
        let signature = match joined(headers, &SIGNATURE)? {
            Some(field) => parse_signature(&field, label)?,
            None => None,
        };
        match (input, signature) {
            (Some(input), Some(signature)) => Ok(Some(Self { input, signature })),
            (None, None) => Ok(None),
            _ => Err(SignatureError::Malformed("Signature and Signature-Input do not belong together")),
        }
    }
}

/// The value of a field (RFC 9110 section 5.3), not copied when it is one line.
pub(super) fn joined<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<Cow<'h, [u8]>>, SignatureError> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    let mut field = Cow::Borrowed(first.as_bytes());
    for value in values {
        let field = field.to_mut();
        field.extend_from_slice(b", ");
        field.extend_from_slice(value.as_bytes());
        if field.len() > MAX_FIELD {
            break;
        }
    }
    if field.len() > MAX_FIELD {
        return Err(SignatureError::Malformed("a signature field is too long"));
    }
    Ok(Some(field))
}

/// The input of `label` in a `Signature-Input` field.
pub fn parse_input(field: &[u8], label: &str) -> Result<Option<SignatureInput>, SignatureError> {
    let mut found = Labelled { label, found: None::<Reading> };
    Parser::new(field)
        .parse_dictionary_with_visitor(&mut found)
        .map_err(|_| SignatureError::Malformed("Signature-Input cannot be read"))?;
    Ok(found.found.map(|reading| reading.0))
}

/// The signature of `label` in a `Signature` field.
pub fn parse_signature(field: &[u8], label: &str) -> Result<Option<SignatureBytes>, SignatureError> {
    let mut found = Labelled { label, found: None::<Bytes64> };
    Parser::new(field)
        .parse_dictionary_with_visitor(&mut found)
        .map_err(|_| SignatureError::Malformed("Signature cannot be read"))?;
    Ok(found.found.map(|bytes| bytes.0))
}

/// A byte sequence as a structured field writes it (RFC 8941 section 4.1.8).
pub(super) fn byte_sequence(bytes: &[u8], to: &mut String) {
    to.push(':');
    STANDARD.encode_string(bytes, to);
    to.push(':');
}

fn write_list(components: &[Component], to: &mut String) {
    to.push('(');
    for (at, component) in components.iter().enumerate() {
        if at > 0 {
            to.push(' ');
        }
        component.write(to);
    }
    to.push(')');
}

fn quoted(text: &str, to: &mut String) {
    to.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            to.push('\\');
        }
        to.push(c);
    }
    to.push('"');
}

fn integer(name: &str, value: i64, to: &mut String) {
    // Writing to a string does not fail.
    let _ = write!(to, ";{name}={value}");
}

fn string(name: &str, value: &str, to: &mut String) {
    to.push(';');
    to.push_str(name);
    to.push('=');
    quoted(value, to);
}

/// Not what is expected at this place.
#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused;

/// Looks at one label of a dictionary.
struct Labelled<'l, T> {
    label: &'l str,
    found: Option<T>,
}

impl<'de, T: Default> DictionaryVisitor<'de> for Labelled<'_, T>
where
    for<'t> &'t mut T: EntryVisitor<'de, Error = Refused>,
{
    type Error = Refused;

    fn entry(&mut self, key: &'de KeyRef) -> Result<impl EntryVisitor<'de>, Refused> {
        if key.as_str() != self.label {
            return Ok(None);
        }
        if self.found.is_some() {
            return Err(Refused);
        }
        Ok(Some(self.found.insert(T::default())))
    }
}

/// The bytes of a signature.
struct Bytes64(SignatureBytes);

impl Default for Bytes64 {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl<'de> ItemVisitor<'de> for &mut Bytes64 {
    type Error = Refused;

    fn bare_item(self, item: BareItemFromInput<'de>) -> Result<impl ParameterVisitor<'de>, Refused> {
        let bytes = item.as_byte_sequence().ok_or(Refused)?;
        self.0 = bytes.try_into().map_err(|_| Refused)?;
        Ok(NoParameters)
    }
}

impl<'de> EntryVisitor<'de> for &mut Bytes64 {
    fn inner_list(self) -> Result<impl InnerListVisitor<'de>, Refused> {
        Err::<Never, _>(Refused)
    }
}

struct NoParameters;

impl<'de> ParameterVisitor<'de> for NoParameters {
    type Error = Refused;

    fn parameter(&mut self, _: &'de KeyRef, _: BareItemFromInput<'de>) -> Result<(), Refused> {
        Err(Refused)
    }
}

/// An input while it is read.
#[derive(Default)]
struct Reading(SignatureInput);

impl<'de> ItemVisitor<'de> for &mut Reading {
    type Error = Refused;

    fn bare_item(self, _: BareItemFromInput<'de>) -> Result<impl ParameterVisitor<'de>, Refused> {
        Err::<Ignored, _>(Refused)
    }
}

impl<'de> EntryVisitor<'de> for &mut Reading {
    fn inner_list(self) -> Result<impl InnerListVisitor<'de>, Refused> {
        Ok(List(&mut self.0))
    }
}

struct List<'a>(&'a mut SignatureInput);

impl<'de> InnerListVisitor<'de> for List<'_> {
    type Error = Refused;

    fn item(&mut self) -> Result<impl ItemVisitor<'de>, Refused> {
        if self.0.components.len() == MAX_COMPONENTS {
            return Err(Refused);
        }
        Ok(Member(self.0))
    }

    fn finish(self) -> Result<impl ParameterVisitor<'de>, Refused> {
        let Self(input) = self;
        // Each identifier once (RFC 9421 section 2.5).
        let mut rest = input.components.as_slice();
        while let [first, others @ ..] = rest {
            if others.contains(first) {
                return Err(Refused);
            }
            rest = others;
        }
        write_list(&input.components, &mut input.text);
        Ok(ListParameters(input))
    }
}

struct Member<'a>(&'a mut SignatureInput);

impl<'de> ItemVisitor<'de> for Member<'_> {
    type Error = Refused;

    fn bare_item(self, item: BareItemFromInput<'de>) -> Result<impl ParameterVisitor<'de>, Refused> {
        let name = item.as_string().and_then(|text| Name::parse(text.as_str())).ok_or(Refused)?;
        self.0.components.push(name.into());
        Ok(MemberParameters(self.0.components.last_mut()))
    }
}

/// Amends the component that was pushed: `finish` is not called through sfv's `Option` of a visitor.
struct MemberParameters<'a>(Option<&'a mut Component>);

impl<'de> ParameterVisitor<'de> for MemberParameters<'_> {
    type Error = Refused;

    fn parameter(&mut self, key: &'de KeyRef, value: BareItemFromInput<'de>) -> Result<(), Refused> {
        let component = self.0.as_deref_mut().ok_or(Refused)?;
        match key.as_str() {
            // In this order, so that what is written again is what was read.
            "key" if component.key.is_none() && !component.req => {
                component.key = Some(value.as_string().ok_or(Refused)?.as_str().to_owned());
            }
            "req" if !component.req && value.as_boolean() == Some(true) => component.req = true,
            _ => return Err(Refused),
        }
        Ok(())
    }
}

struct ListParameters<'a>(&'a mut SignatureInput);

impl<'de> ParameterVisitor<'de> for ListParameters<'_> {
    type Error = Refused;

    fn parameter(&mut self, key: &'de KeyRef, value: BareItemFromInput<'de>) -> Result<(), Refused> {
        let SignatureInput { params, text, .. } = &mut *self.0;
        let name = key.as_str();
        if let "created" | "expires" = name {
            let slot = if name == "created" { &mut params.created } else { &mut params.expires };
            let value = i64::from(value.as_integer().ok_or(Refused)?);
            integer(name, value, text);
            return if slot.replace(value).is_some() { Err(Refused) } else { Ok(()) };
        }
        let slot = match name {
            "keyid" => &mut params.keyid,
            "nonce" => &mut params.nonce,
            "alg" => &mut params.alg,
            "tag" => &mut params.tag,
            _ => return Err(Refused),
        };
        let value = value.as_string().ok_or(Refused)?.as_str();
        string(name, value, text);
        let long = value.len() > MAX_PARAM;
        if long || slot.replace(value.to_owned()).is_some() { Err(Refused) } else { Ok(()) }
    }
}
