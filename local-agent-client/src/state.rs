//! The state folder: who this machine is, which agent runs, and how it is.
//!
//! | file | what |
//! | --- | --- |
//! | `machine_id` | a UUID, made once. The relay knows the host by it, so it is never made anew because reading it failed |
//! | `lock` | held by the running agent, so that no two share the folder; the system releases it when the process ends |
//! | `status.json` | the running agent's [`Status`], replaced as a whole |
//! | `keys.json`, `browsers.json` | whom this machine trusts, see [`crate::trust`] |
//! | `host.json` | the id under which the relay knew this host last |
//! | `cookies-….json` | what local servers set for a paired browser, see [`crate::cookies`] |
//! | `control.json` | how the other commands reach the running agent, see [`crate::control`] |
//! | `token.json` | what `login` stored, see [`crate::login`] |
//!
//! Files are of mode 0600 in a folder of mode 0700, and replaced by renaming: a reader sees the old one
//! or the new one, never a half.

use crate::{platform, status::Status};
use std::{
    fs::{File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::watch;
use uuid::Uuid;
use zeroize::Zeroizing;

/// A `status` that looks whether an agent runs holds the lock for a moment.
const LOCK_ATTEMPTS: u32 = 5;
/// Between attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// How the names of files end that are still being written.
const NEW: &str = ".new";
/// Bytes of a state file that are read at the most; the largest holds 64 browsers of about a kibibyte.
const MAX_FILE: u64 = 1024 * 1024;
/// The status file is written at most this often.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Why the state folder is of no use.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or the folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent holds the lock.
    #[error(
        "another agent runs with the state folder {0}; give this one a folder of its own with --state-dir"
    )]
    InUse(PathBuf),
    /// The id file holds something else.
    #[error(
        "{0} holds no UUID. Put the right one back; or delete the file, and the relay will know this machine as a new host"
    )]
    BadMachineId(PathBuf),
}

/// The state folder of a running agent, and the lock on it.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the folder where it is missing, and locks it.
    ///
    /// # Errors
    /// When it cannot be made, or another agent has it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        platform::private_dir(path).map_err(|source| StateError::Io { path: path.to_owned(), source })?;
        let file = path.join("lock");
        let failed = |source| StateError::Io { path: file.clone(), source };
        let lock =
            platform::private_file().create(true).truncate(false).write(true).open(&file).map_err(failed)?;
        for _ in 0..LOCK_ATTEMPTS {
            match lock.try_lock() {
                Ok(()) => {
                    // An agent that was killed leaves it behind, and from now on commands believe it: they must
                    // not follow it to whoever has the port now.
                    remove(path, crate::control::FILE)?;
                    sweep(path);
                    return Ok(Self { path: path.to_owned(), _lock: lock });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        Err(StateError::InUse(path.to_owned()))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// This machine's id, made at the first start.
    ///
    /// # Errors
    /// When the file is there and cannot be read or does not hold one; it is left as it is then.
    pub fn machine_id(&self) -> Result<Uuid, StateError> {
        match self.read("machine_id")? {
            Some(text) => std::str::from_utf8(&text)
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .ok_or_else(|| StateError::BadMachineId(self.path.join("machine_id"))),
            None => {
                let id = Uuid::new_v4();
                self.replace("machine_id", format!("{id}\n").as_bytes())?;
                Ok(id)
            }
        }
    }

    /// Replaces the status file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_status(&self, status: &Status) -> Result<(), StateError> {
        let text = serde_json::to_vec_pretty(status)
            .map_err(|error| StateError::Io { path: self.path.join("status.json"), source: error.into() })?;
        self.replace("status.json", &text)
    }

    /// A file of the folder; `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read, or is larger than any of ours.
    pub fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        read(&self.path, name)
    }

    /// Writes a file of the folder as a whole; when it fails, the old one stays.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        replace(&self.path, name, content)
    }

    /// Removes a file of the folder. One that is not there is as good as removed.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        remove(&self.path, name)
    }
}

/// Removes what an agent that was killed in the middle of a write left behind. `login` writes without the lock, so
/// what looks like its is left alone.
fn sweep(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(NEW) && !name.starts_with(crate::login::FILE) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// A file of the folder `dir`, see [`StateDir::read`]; for those who do not hold the lock.
///
/// # Errors
/// When it is there and cannot be read, or is larger than any of ours.
pub fn read(dir: &Path, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    let path = dir.join(name);
    let mut content = Zeroizing::new(Vec::new());
    let read = File::open(&path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut content));
    match read {
        Ok(read) if read as u64 > MAX_FILE => Err(StateError::Io {
            path,
            source: io::Error::new(io::ErrorKind::InvalidData, "it is larger than any file of ours"),
        }),
        Ok(_) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::Io { path, source }),
    }
}

/// Writes a file of the folder `dir`, see [`StateDir::replace`]; for those who do not hold the lock.
///
/// # Errors
/// When it cannot be written.
pub fn replace(dir: &Path, name: &str, content: &[u8]) -> Result<(), StateError> {
    // A name of its own: two processes may write the same file, and neither may write into the other's.
    let (path, new) = (dir.join(name), dir.join(format!("{name}.{}{NEW}", Uuid::new_v4().simple())));
    let write = || {
        let mut file = platform::private_file().create_new(true).write(true).open(&new)?;
        file.write_all(content)?;
        // Without it a crash of the machine may leave the new name with nothing in it.
        file.sync_all()?;
        std::fs::rename(&new, &path)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&new);
        StateError::Io { path: path.clone(), source }
    })?;
    // The new file is in place whatever comes of this, so it is no failure of the change.
    if let Err(error) = platform::sync_dir(dir) {
        tracing::warn!(%error, "a crash of the machine may undo the last change of {}", path.display());
    }
    Ok(())
}

/// Removes a file of the folder `dir`, see [`StateDir::remove`].
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove(dir: &Path, name: &str) -> Result<(), StateError> {
    let path = dir.join(name);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::Io { path, source }),
        _ => Ok(()),
    }
}

/// Keeps the status file as the status is, until nobody changes it any more.
pub async fn keep_status(dir: &StateDir, mut status: watch::Receiver<Status>) {
    loop {
        let now = status.borrow_and_update().clone();
        // A small file on a local disk: not worth a thread of its own.
        if let Err(error) = dir.write_status(&now) {
            tracing::warn!(%error, "the status cannot be written");
        }
        tokio::time::sleep(WRITE_EVERY).await;
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Whether an agent runs with this folder.
///
/// # Errors
/// When the lock is there and cannot be looked at.
pub fn is_running(path: &Path) -> Result<bool, StateError> {
    let file = path.join("lock");
    let failed = |source| StateError::Io { path: file.clone(), source };
    let lock = match File::options().write(true).open(&file) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(failed(source)),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The status of the agent that runs with this folder; `None` when none does.
///
/// # Errors
/// When the folder's files are there and cannot be read.
pub fn read_status(path: &Path) -> Result<Option<Status>, StateError> {
    if !is_running(path)? {
        return Ok(None);
    }
    let Some(text) = read(path, "status.json")? else { return Ok(None) };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| StateError::Io { path: path.join("status.json"), source: error.into() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::status::blank;

    #[test]
    fn where_a_killed_agent_was_is_forgotten_with_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("control.json");
        std::fs::write(&file, "{}").unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert!(!file.exists());
        // Whoever does not get the lock leaves the running agent's alone.
        std::fs::write(&file, "{}").unwrap();
        assert!(matches!(StateDir::open(dir.path()), Err(StateError::InUse(_))));
        assert!(file.exists());
        drop(state);
        // What cannot be removed would be believed: no agent starts beside it.
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(matches!(StateDir::open(dir.path()), Err(StateError::Io { .. })));
    }

    #[test]
    fn the_machine_id_is_made_once_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let id = state.machine_id().unwrap();
        assert_eq!(state.machine_id().unwrap(), id);
        drop(state);
        let state = StateDir::open(dir.path()).unwrap();
        assert_eq!(state.machine_id().unwrap(), id);
        for damaged in ["", "not a uuid", "1234"] {
            std::fs::write(dir.path().join("machine_id"), damaged).unwrap();
            assert!(matches!(state.machine_id(), Err(StateError::BadMachineId(_))));
            assert_eq!(std::fs::read_to_string(dir.path().join("machine_id")).unwrap(), damaged);
        }
        std::fs::remove_file(dir.path().join("machine_id")).unwrap();
        std::fs::create_dir(dir.path().join("machine_id")).unwrap();
        assert!(matches!(state.machine_id(), Err(StateError::Io { .. })));
    }

    #[test]
    fn two_agents_do_not_share_a_folder_and_status_sees_who_runs() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_status(dir.path()).unwrap(), None);
        let state = StateDir::open(dir.path()).unwrap();
        assert!(matches!(StateDir::open(dir.path()), Err(StateError::InUse(_))));
        assert_eq!(read_status(dir.path()).unwrap(), None, "nothing written yet");
        state.write_status(&blank()).unwrap();
        assert_eq!(read_status(dir.path()).unwrap(), Some(blank()));
        drop(state);
        assert_eq!(read_status(dir.path()).unwrap(), None, "what a dead agent left behind is no status");
        StateDir::open(dir.path()).unwrap();
    }

    #[test]
    fn halves_of_an_earlier_run_are_swept_away() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["keys.json.1.new", "token.json.1.new", "news"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        StateDir::open(dir.path()).unwrap();
        let left = |name| dir.path().join(name).exists();
        assert_eq!((left("keys.json.1.new"), left("token.json.1.new"), left("news")), (false, true, true));
    }

    #[tokio::test(start_paused = true)]
    async fn the_file_follows_the_status_at_most_once_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let (sender, receiver) = watch::channel(blank());
        let keeper = async { keep_status(&state, receiver).await };
        let changes = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(read_status(dir.path()).unwrap().unwrap().pid, 1);
            sender.send_modify(|status| status.pid = 2);
            tokio::time::sleep(Duration::from_millis(900)).await;
            assert_eq!(read_status(dir.path()).unwrap().unwrap().pid, 1);
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(read_status(dir.path()).unwrap().unwrap().pid, 2);
            drop(sender);
        };
        tokio::join!(keeper, changes);
    }
}
