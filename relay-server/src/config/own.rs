//! What the relay makes for itself on first start and keeps in its data folder: the key of its
//! tokens and its name. Only with SQLite; beside a PostgreSQL the folder may not even exist.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rand::Rng;
use thiserror::Error;
use uuid::Uuid;

use super::{Config, Database, JwtSecret};
use crate::auth::token::{Secret, SecretError};
use crate::store::{DatabaseUrl, StoreOptions};

/// Why that could not be read or made.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum OwnError {
    #[error("the data folder {path} cannot be made: {error}", path = .path.display())]
    DataDir { path: PathBuf, error: io::Error },
    #[error("the relay's id in {path} cannot be read or made: {error}", path = .path.display())]
    RelayId { path: PathBuf, error: io::Error },
    #[error("the key of the tokens in {path} cannot be read or made: {error}", path = .path.display())]
    JwtSecret { path: PathBuf, error: SecretError },
}

impl Config {
    /// The key of the bearer tokens, made when there is none yet.
    pub fn load_jwt_secret(&self) -> Result<Secret, OwnError> {
        match &self.jwt_secret {
            JwtSecret::Given(secret) => Ok(secret.clone()),
            JwtSecret::File(path) => {
                self.make_data_dir()?;
                Secret::load_or_create(path)
                    .map_err(|error| OwnError::JwtSecret { path: path.clone(), error })
            }
        }
    }

    /// The relay's name among several on one database. With SQLite it is kept, so that a restart
    /// knows its own rows again; with PostgreSQL, where replicas come and go, it is made anew from
    /// the host's name, and what the predecessor left behind expires.
    pub fn load_relay_id(&self) -> Result<String, OwnError> {
        if let Some(id) = &self.given_relay_id {
            return Ok(id.clone());
        }
        match &self.database {
            Database::Sqlite(_) => {
                self.make_data_dir()?;
                let path = self.data_dir.join("relay_id");
                read_or_make_id(&path).map_err(|error| OwnError::RelayId { path, error })
            }
            Database::Postgres(_) => Ok(passing_id(&host_name())),
        }
    }

    /// The base of links to the portal, as far as the relay was told it; without a slash at its end.
    pub fn portal_base(&self) -> Option<String> {
        let portal = self.portal_origin.as_ref().map(|portal| portal.origin.clone());
        let public = || self.public_url.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned());
        portal.or_else(public)
    }

    /// The same for whoever has no request to go by: without being told, this machine's own address.
    pub fn link_base(&self) -> String {
        self.portal_base().unwrap_or_else(|| format!("http://localhost:{}", self.listen.port))
    }

    /// How to open the store.
    pub fn store_options(&self) -> StoreOptions {
        let url = match &self.database {
            Database::Sqlite(path) => DatabaseUrl::Sqlite(path.clone()),
            Database::Postgres(url) => DatabaseUrl::Postgres(url.reveal().to_owned().into()),
        };
        StoreOptions {
            url,
            max_connections: self.database_connections,
            acquire_timeout: self.database_timeout,
        }
    }

    /// Makes the data folder when the database is in it.
    pub fn make_folder_of_database(&self) -> Result<(), OwnError> {
        match &self.database {
            Database::Sqlite(path) if path.starts_with(&self.data_dir) => self.make_data_dir(),
            _ => Ok(()),
        }
    }

    /// Makes the data folder, readable by its owner only.
    pub fn make_data_dir(&self) -> Result<(), OwnError> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(&self.data_dir)
            .map_err(|error| OwnError::DataDir { path: self.data_dir.clone(), error })
    }
}

/// An id that does not parse is an error and never replaced: somebody else may be using it.
fn read_or_make_id(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Uuid::parse_str(text.trim())
            .map(|id| id.to_string())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it holds no UUID")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = Uuid::new_v4().to_string();
            let partial = path.with_extension("new");
            let mut file = std::fs::File::create(&partial)?;
            file.write_all(id.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&partial, path)?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

fn host_name() -> String {
    // Containers and shells set it; the kernel's file is there when they do not.
    std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .unwrap_or_default()
}

fn passing_id(host: &str) -> String {
    let name: String = host
        .trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        .take(48)
        .collect();
    let random: u32 = rand::rng().random();
    if name.is_empty() { format!("relay-{random:08x}") } else { format!("{name}-{random:08x}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_id_is_made_once_and_a_broken_one_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay_id");
        let first = read_or_make_id(&path).unwrap();
        assert_eq!(read_or_make_id(&path).unwrap(), first);
        std::fs::write(&path, "not an id").unwrap();
        assert_eq!(read_or_make_id(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "not an id");
    }

    #[test]
    fn a_passing_id_is_a_good_relay_id_and_never_the_same() {
        let kind = super::super::parse::Kind::RelayId;
        for host in ["", "relay-7f9c-x2\n", "häßlich host", &"long".repeat(40)] {
            let id = passing_id(host);
            assert!(kind.check(&id), "{id}");
            assert_ne!(id, passing_id(host));
        }
        assert!(passing_id("relay-7f9c-x2\n").starts_with("relay-7f9c-x2-"));
    }
}
