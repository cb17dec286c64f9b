//! From flags, environment and file to one text per setting, each with where it came from.
//!
//! Precedence: flag, environment, file, default. An empty variable counts as unset, because that is
//! how compose files and manifests leave things out. A secret may stand in a file that
//! `<NAME>_FILE` (or `<key>_file`, or the flag) names.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::ConfigError;
use super::settings::{Key, Setting};

/// A file of settings or a secret is never larger; whoever names a larger one named the wrong file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where settings are looked up. Functions, so that tests bring their own.
pub struct Sources<'a> {
    /// The value of the flag with this name (see [`Setting::flag`]).
    pub flag: &'a dyn Fn(&str) -> Option<String>,
    /// The environment variable of this name.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
}

/// Where a value came from, as messages tell it. The order is the precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// A key of the file.
    File(PathBuf, String),
    /// An environment variable.
    Env(String),
    /// A flag.
    Flag(String),
}

impl Source {
    /// Flags before the environment before the file before defaults.
    pub fn rank(&self) -> u8 {
        match self {
            Source::Default => 0,
            Source::File(..) => 1,
            Source::Env(_) => 2,
            Source::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => write!(f, "the default"),
            Source::File(path, key) => write!(f, "`{key}` in {}", path.display()),
            Source::Env(name) => write!(f, "the environment variable {name}"),
            Source::Flag(name) => write!(f, "the flag --{name}"),
        }
    }
}

/// The text of one setting.
#[derive(Clone)]
pub struct Value {
    /// Wiped, because it may be a secret.
    pub text: Zeroizing<String>,
    /// Where it came from.
    pub source: Source,
}

/// Every setting that has a value, checked against its row of the table.
pub struct Values(BTreeMap<Key, Value>);

impl Values {
    /// Looks everything up. Fails at the first thing that is not as it should be.
    pub fn gather(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        let config = Key::Config.setting();
        let file =
            match from_flag(config, sources)?.map_or_else(|| from_env(config, sources), |v| Ok(Some(v)))? {
                Some(value) => File::read(Path::new(value.text.as_str()))?,
                None => File::default(),
            };
        for key in Key::ALL.iter().filter(|key| **key != Key::Config) {
            let setting = key.setting();
            let found = match from_flag(setting, sources)? {
                Some(value) => Some(value),
                None => match from_env(setting, sources)? {
                    Some(value) => Some(value),
                    None => file.get(setting)?,
                },
            };
            let default = || Value { text: setting.default.to_owned().into(), source: Source::Default };
            let value = match found {
                Some(value) => value,
                None if setting.default.is_empty() => continue,
                None => default(),
            };
            if !setting.kind.check(&value.text) {
                return Err(ConfigError::bad_value(setting, &value));
            }
            values.insert(*key, value);
        }
        Ok(Self(values))
    }

    /// The setting's text and source; `None` when it is unset and has no default.
    pub fn get(&self, key: Key) -> Option<&Value> {
        self.0.get(&key)
    }
}

fn from_flag(setting: &Setting, sources: &Sources<'_>) -> Result<Option<Value>, ConfigError> {
    let name = setting.flag();
    let Some(text) = (sources.flag)(&name) else { return Ok(None) };
    let source = Source::Flag(name);
    if setting.secret {
        return secret_file(Path::new(&text), source).map(Some);
    }
    Ok(Some(Value { text: text.into(), source }))
}

fn from_env(setting: &Setting, sources: &Sources<'_>) -> Result<Option<Value>, ConfigError> {
    let lookup = |name: &str| match (sources.env)(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) if text.is_empty() => Ok(None),
        Some(Ok(text)) => Ok(Some(Zeroizing::new(text))),
        Some(Err(_)) => Err(ConfigError::NotUnicode { source_name: Source::Env(name.to_owned()) }),
    };
    for name in setting.env {
        let value = lookup(name)?;
        let file_name = format!("{name}_FILE");
        let file = if setting.secret { lookup(&file_name)? } else { None };
        match (value, file) {
            (Some(_), Some(_)) => {
                return Err(ConfigError::Both { first: (*name).to_owned(), second: file_name });
            }
            (Some(text), None) => return Ok(Some(Value { text, source: Source::Env((*name).to_owned()) })),
            (None, Some(path)) => {
                return secret_file(Path::new(path.as_str()), Source::Env(file_name)).map(Some);
            }
            (None, None) => {}
        }
    }
    Ok(None)
}

fn read_bounded(path: &Path) -> std::io::Result<Zeroizing<String>> {
    use std::io::Read;
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(text)
}

/// The content of a secret's file without the newline that editors and `echo` leave at its end.
fn secret_file(path: &Path, source: Source) -> Result<Value, ConfigError> {
    let text = read_bounded(path).map_err(|error| ConfigError::SecretFile {
        source_name: source.clone(),
        path: path.to_owned(),
        error,
    })?;
    let trimmed = text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text);
    Ok(Value { text: Zeroizing::new(trimmed.to_owned()), source })
}

/// The file of settings, flat: every key is one row of the table.
#[derive(Default)]
struct File {
    path: PathBuf,
    table: toml::Table,
}

impl File {
    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_bounded(path)
            .map_err(|error| ConfigError::FileUnreadable { path: path.to_owned(), error })?;
        let table: toml::Table = toml::from_str(&text).map_err(|error| ConfigError::FileSyntax {
            path: path.to_owned(),
            // Only the line's number: the parser's own message quotes the line, secret or not.
            line: error.span().map_or(1, |span| {
                1 + text.as_bytes().iter().take(span.start).filter(|b| **b == b'\n').count()
            }),
        })?;
        let known = |name: &str| {
            Key::ALL.iter().filter(|key| **key != Key::Config).any(|key| {
                let setting = key.setting();
                name == setting.name || (setting.secret && name.strip_suffix("_file") == Some(setting.name))
            })
        };
        if let Some(name) = table.keys().find(|name| !known(name)) {
            return Err(ConfigError::UnknownKey { path: path.to_owned(), name: name.clone() });
        }
        Ok(Self { path: path.to_owned(), table })
    }

    fn get(&self, setting: &Setting) -> Result<Option<Value>, ConfigError> {
        let file_key = format!("{}_file", setting.name);
        let direct = self.text(setting, setting.name)?;
        let file = if setting.secret { self.text(setting, &file_key)? } else { None };
        match (direct, file) {
            (Some(_), Some(_)) => Err(ConfigError::Both { first: setting.name.to_owned(), second: file_key }),
            (direct @ Some(_), None) => Ok(direct),
            (None, Some(path)) => secret_file(Path::new(path.text.as_str()), path.source).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Strings, whole numbers, booleans, and lists of strings for what is comma-separated elsewhere.
    fn text(&self, setting: &Setting, key: &str) -> Result<Option<Value>, ConfigError> {
        let source = Source::File(self.path.clone(), key.to_owned());
        let text = match self.table.get(key) {
            None => return Ok(None),
            Some(toml::Value::String(text)) => Some(text.clone()),
            Some(toml::Value::Integer(number)) => Some(number.to_string()),
            Some(toml::Value::Boolean(flag)) => Some(flag.to_string()),
            Some(toml::Value::Array(items)) => {
                let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
                items.map(|items| items.join(","))
            }
            Some(_) => None,
        };
        match text {
            Some(text) => Ok(Some(Value { text: text.into(), source })),
            None => Err(ConfigError::BadValue {
                source_name: source,
                expected: setting.kind.expects(),
                got: "a value of another type".to_owned(),
            }),
        }
    }
}
