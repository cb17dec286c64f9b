//! Everything that differs between Linux, macOS and Windows, and nothing else. No other module
//! asks for the target.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::TcpStream;

/// Bytes that the kernel may hold unsent for a tunnel. More would only make small requests wait behind a
/// download; less would starve very fast links.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// Sets what a tunnel's socket needs: no delay, and where the system knows it, little unsent data.
pub fn tune(socket: &TcpStream) {
    // A socket that refuses an option still works; it is slower.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY is not to be had");
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_notsent_lowat(NOTSENT_LOWAT) {
        tracing::debug!(%error, "TCP_NOTSENT_LOWAT is not to be had");
    }
}

/// Where the agent keeps its state unless it is told: below the user's state folder of this system.
/// `var` reads the environment.
pub fn default_state_dir(var: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
    #[cfg(windows)]
    let base = absolute("LOCALAPPDATA");
    #[cfg(target_os = "macos")]
    let base = absolute("HOME").map(|home| home.join("Library").join("Application Support"));
    #[cfg(not(any(windows, target_os = "macos")))]
    let base =
        absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local").join("state")));
    base.map(|base| base.join("local-agent-client"))
}

/// Makes a folder that only its owner may enter, and its parents; an existing one is narrowed.
///
/// # Errors
/// When it cannot be made or narrowed.
pub fn private_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Options that make a new file readable and writable by its owner only. On Windows the folder of
/// the user's profile already says so.
pub fn private_file() -> std::fs::OpenOptions {
    #[allow(unused_mut)]
    let mut options = std::fs::OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options
}

/// Makes sure that a renaming in this folder outlives a crash of the machine, where a system can be asked for it.
///
/// # Errors
/// When the system refuses.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    std::fs::File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// The name of this machine, for people to tell their hosts apart.
pub fn machine_name() -> Option<String> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    #[cfg(windows)]
    let name = std::env::var("COMPUTERNAME").ok();
    #[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
    let name = std::process::Command::new("hostname")
        .output()
        .ok()
        .and_then(|out| String::from_utf8(out.stdout).ok());
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Connects to a Unix socket.
///
/// # Errors
/// When nobody listens there, or the system has none.
#[cfg(unix)]
pub async fn connect_unix(path: &Path) -> io::Result<tokio::net::UnixStream> {
    tokio::net::UnixStream::connect(path).await
}

/// Connects to a Unix socket: not on this system.
///
/// # Errors
/// Always.
#[cfg(not(unix))]
pub async fn connect_unix(_: &Path) -> io::Result<TcpStream> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "Unix sockets are not supported on this system"))
}

/// How long a message to the service manager may wait for room: one that hangs must not hold up the agent.
#[cfg(unix)]
const ROOM: Duration = Duration::from_millis(500);

/// Tells the service manager something, in the words of sd_notify(3). Nothing without one, and where there is
/// no systemd.
///
/// # Errors
/// When it does not take it.
pub fn tell_service_manager(message: &str) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET") {
        let socket = std::os::unix::net::UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(ROOM))?;
        socket.send_to(message.as_bytes(), path)?;
    }
    #[cfg(not(unix))]
    let _ = message;
    Ok(())
}

/// The time within which the service manager wants a sign of life of this very process, where it wants any.
pub fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let pid = std::env::var_os("WATCHDOG_PID");
    let ours = pid.is_none() || number("WATCHDOG_PID") == Some(std::process::id().into());
    number("WATCHDOG_USEC").filter(|_| ours).map(Duration::from_micros)
}

/// Requests to end: Ctrl-C everywhere, and SIGTERM where there are signals.
#[derive(Debug)]
pub struct Interrupts {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Interrupts {
    /// Starts to listen: from here on the signals do not end the process by themselves.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Completes at the next request to end.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(any(windows, target_os = "macos")))]
    fn the_state_folder_follows_the_xdg_rules() {
        for (xdg, home, expected) in [
            (Some("/s"), Some("/h"), Some("/s/local-agent-client")),
            (None, Some("/h"), Some("/h/.local/state/local-agent-client")),
            // Relative ones are to be ignored, says the specification.
            (Some("s"), Some("/h"), Some("/h/.local/state/local-agent-client")),
            (None, None, None),
        ] {
            let var = |name: &str| if name == "HOME" { home } else { xdg }.map(Into::into);
            assert_eq!(default_state_dir(var), expected.map(PathBuf::from));
        }
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn a_tunnels_socket_is_tuned() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&socket);
        assert!(socket.nodelay().unwrap());
        assert_eq!(socket2::SockRef::from(&socket).tcp_notsent_lowat().unwrap(), NOTSENT_LOWAT);
    }

    #[test]
    #[cfg(unix)]
    fn private_means_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a").join("b");
        private_dir(&path).unwrap();
        let file = path.join("f");
        private_file().write(true).create_new(true).open(&file).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
