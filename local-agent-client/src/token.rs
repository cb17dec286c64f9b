//! The bearer token, and where it comes from.
//!
//! A token is never printed, and wiped when dropped. A token file is read again at every connect,
//! so that a renewed token is used without a restart.

use crate::login::{Login, LoginError};
use http::HeaderValue;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Bytes of a token file that are read at the most; JWTs are far smaller.
const MAX_FILE: u64 = 64 * 1024;

/// A bearer token. Prints as stars.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(***)")
    }
}

impl Token {
    /// Takes a token from a text; white space around it is cut.
    ///
    /// # Errors
    /// When nothing is left, or something that cannot stand in a header.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError::Malformed);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The value of `Authorization`, marked sensitive.
    pub(crate) fn header(&self) -> Result<HeaderValue, TokenError> {
        let text = Zeroizing::new(format!("Bearer {}", self.0.as_str()));
        let mut value = HeaderValue::from_str(&text).map_err(|_| TokenError::Malformed)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is nothing in it.
    #[error("the token is empty")]
    Empty,
    /// It holds white space, control or non-ASCII characters.
    #[error("the token holds characters that no token has")]
    Malformed,
    /// The file cannot be read.
    #[error("the token file {path} cannot be read: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no token file.
    #[error("the token file {0} is larger than {MAX_FILE} bytes")]
    TooLarge(PathBuf),
    /// The stored login gives none at the moment.
    #[error("{0}")]
    Login(String),
    /// The stored login gives none until somebody signs in.
    #[error("{0}")]
    SignedOut(String),
}

impl From<LoginError> for TokenError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Unreachable(_) | LoginError::Refused(_) | LoginError::NotARelay(_) => {
                Self::Login(error.to_string())
            }
            error => Self::SignedOut(error.to_string()),
        }
    }
}

/// Where the token comes from.
#[derive(Debug, Clone)]
pub enum TokenSource {
    /// Given once.
    Fixed(Token),
    /// A file that holds the token and nothing else, read at every connect.
    File(PathBuf),
    /// What `login` stored in a state folder; renewed by the agent.
    Login(Login),
}

impl TokenSource {
    /// The token as it is now.
    ///
    /// # Errors
    /// When the file cannot be read or holds no token.
    pub async fn read(&self) -> Result<Token, TokenError> {
        match self {
            Self::Fixed(token) => Ok(token.clone()),
            Self::File(path) => read_file(path).await,
            Self::Login(login) => login.read().map_err(TokenError::from),
        }
    }

    /// Whether a later [`TokenSource::read`] may give another token.
    pub(crate) fn may_change(&self) -> bool {
        matches!(self, Self::File(_) | Self::Login(_))
    }
}

async fn read_file(path: &Path) -> Result<Token, TokenError> {
    use tokio::io::AsyncReadExt;
    let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut text = Zeroizing::new(String::new());
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text).await.map_err(unreadable)?;
    if read as u64 > MAX_FILE {
        return Err(TokenError::TooLarge(path.to_owned()));
    }
    Token::new(&text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_prints() {
        let token = Token::new(" abc.def.ghi\n").unwrap();
        assert_eq!(
            format!("{token:?} {:?}", TokenSource::Fixed(token.clone())),
            "Token(***) Fixed(Token(***))"
        );
        let header = token.header().unwrap();
        assert_eq!(header.as_bytes(), b"Bearer abc.def.ghi");
        assert!(header.is_sensitive());
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in ["", "  \n", "two words", "line\r\nx-evil: 1", "caf\u{e9}"] {
            assert!(Token::new(text).is_err(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_file_is_read_anew_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let source = TokenSource::File(path.clone());
        assert!(matches!(source.read().await, Err(TokenError::Unreadable { .. })));
        for text in ["first", "second\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(source.read().await.unwrap(), Token::new(text).unwrap());
        }
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(matches!(source.read().await, Err(TokenError::TooLarge(_))));
    }
}
