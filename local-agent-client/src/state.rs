//! The state folder: who this machine is, which agent runs, and how it is.
//!
//! | file | what |
//! | --- | --- |
//! | `machine_id` | a UUID, made once. The relay knows the host by it, so it is never made anew because reading it failed |
//! | `lock` | held by the running agent, so that no two share the folder; the system releases it when the process ends |
//! | `status.json` | the running agent's [`Status`], replaced as a whole |
//!
//! Files are of mode 0600 in a folder of mode 0700, and replaced by renaming: a reader sees the old one
//! or the new one, never a half.

use crate::{platform, status::Status};
use std::{
    fs::{File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::watch;
use uuid::Uuid;

/// A `status` that looks whether an agent runs holds the lock for a moment.
const LOCK_ATTEMPTS: u32 = 5;
/// Between attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
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
                Ok(()) => return Ok(Self { path: path.to_owned(), _lock: lock }),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        Err(StateError::InUse(path.to_owned()))
    }

    /// This machine's id, made at the first start.
    ///
    /// # Errors
    /// When the file is there and cannot be read or does not hold one; it is left as it is then.
    pub fn machine_id(&self) -> Result<Uuid, StateError> {
        let path = self.path.join("machine_id");
        match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| StateError::BadMachineId(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = Uuid::new_v4();
                self.replace("machine_id", format!("{id}\n").as_bytes())?;
                Ok(id)
            }
            Err(source) => Err(StateError::Io { path, source }),
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

    fn replace(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            let mut file = platform::private_file().create(true).truncate(true).write(true).open(&new)?;
            file.write_all(content)?;
            // Without it a crash of the machine may leave the new name with nothing in it.
            file.sync_all()?;
            std::fs::rename(&new, &path)
        };
        write().map_err(|source| StateError::Io { path: path.clone(), source })
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

/// The status of the agent that runs with this folder; `None` when none does.
///
/// # Errors
/// When the folder's files are there and cannot be read.
pub fn read_status(path: &Path) -> Result<Option<Status>, StateError> {
    let file = path.join("lock");
    let failed = |path: &Path, source| StateError::Io { path: path.to_owned(), source };
    let lock = match File::options().write(true).open(&file) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(&file, source)),
    };
    match lock.try_lock_shared() {
        Ok(()) => return Ok(None),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(source)) => return Err(failed(&file, source)),
    }
    let file = path.join("status.json");
    match std::fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| failed(&file, error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(&file, source)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::status::blank;

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
