//! The configurations in `deploy/`, word for word but for the places that an operator edits.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::command;

/// One of the programs whose configuration is shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Traefik, by its file provider.
    Traefik,
    /// nginx.
    Nginx,
    /// Caddy.
    Caddy,
    /// HAProxy.
    HaProxy,
}

/// What goes into those places.
pub(super) struct Places<'a> {
    /// The certificate's folder; the configuration is put there too.
    pub(super) dir: &'a Path,
    pub(super) relay: SocketAddr,
    pub(super) web_app: SocketAddr,
    pub(super) identity: SocketAddr,
    /// Ports without and with TLS.
    pub(super) plain: u16,
    pub(super) secure: u16,
}

impl Program {
    pub(super) fn name(self) -> &'static str {
        match self {
            Program::Traefik => "traefik",
            Program::Nginx => "nginx",
            Program::Caddy => "caddy",
            Program::HaProxy => "haproxy",
        }
    }

    /// Writes its files, and says how it is started.
    pub(super) fn command(self, places: &Places<'_>) -> Command {
        match self {
            Program::Traefik => traefik(places),
            Program::Nginx => nginx(places),
            Program::Caddy => caddy(places),
            Program::HaProxy => haproxy(places),
        }
    }
}

fn traefik(places: &Places<'_>) -> Command {
    let dynamic = places.dir.join("dynamic");
    std::fs::create_dir_all(&dynamic).expect("a folder");
    let rule = "Host(`app.example.org`)";
    let edits = places.edited(rule, "(Host(`localhost`) || Host(`127.0.0.1`))");
    places.write("traefik/dynamic/relay.yml", "dynamic/relay.yml", &edits);
    let ports = places.ports(":80\"", ":443\"", |port| format!("127.0.0.1:{port}\""));
    let folder = ("/etc/traefik/dynamic".to_owned(), dynamic.display().to_string());
    let config = places.write("traefik/traefik.yml", "traefik.yml", &[&ports[..], &[folder]].concat());
    let mut command = command(tool("traefik"));
    command.arg("--configfile").arg(config);
    command
}

fn nginx(places: &Places<'_>) -> Command {
    let ports = places.ports("listen 80;", "listen 443 ", |port| {
        let rest = if port == places.plain { ";" } else { " " };
        format!("listen 127.0.0.1:{port}{rest}")
    });
    let names = places.edited("app.example.org", "localhost 127.0.0.1");
    let included = places.write("nginx/relay.conf", "relay.conf", &[names, ports].concat());
    // What Debian's nginx.conf does around it, in one process that ends with the test.
    let dir = places.dir.display();
    let around = format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log stderr info;\n\
         events {{}}\n\
         http {{\n\
             access_log /dev/stderr;\n\
             gzip on;\n\
             client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;\n\
             uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
             include {};\n\
         }}\n",
        included.display()
    );
    let config = places.dir.join("nginx.conf");
    std::fs::write(&config, around).expect("a file");
    let mut command = command("nginx");
    command.args(["-e", "stderr", "-p"]).arg(places.dir).arg("-c").arg(config);
    command
}

fn caddy(places: &Places<'_>) -> Command {
    let ports = places.ports("http_port 80\n", "https_port 443\n", |port| {
        let name = if port == places.plain { "http_port" } else { "https_port" };
        format!("{name} {port}\n")
    });
    // Its own interface for reloading has one port for the whole machine.
    let alone =
        ("{\n\thttp_port".to_owned(), "{\n\tadmin off\n\tdefault_bind 127.0.0.1\n\thttp_port".to_owned());
    let edits = [vec![alone], places.edited("app.example.org", "localhost, 127.0.0.1"), ports].concat();
    let config = places.write("caddy/Caddyfile", "Caddyfile", &edits);
    let mut command = command("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
    for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
        command.env(name, places.dir);
    }
    command
}

fn haproxy(places: &Places<'_>) -> Command {
    let lua = places.write("haproxy/forward-auth.lua", "forward-auth.lua", &[]);
    let lua = ("/etc/haproxy/forward-auth.lua".to_owned(), lua.display().to_string());
    let ports = places.ports("bind :80\n", "bind :443 ", |port| {
        let rest = if port == places.plain { '\n' } else { ' ' };
        format!("bind 127.0.0.1:{port}{rest}")
    });
    let mut edits = [vec![lua], places.edited("app.example.org", "localhost 127.0.0.1"), ports].concat();
    if !nix::unistd::geteuid().is_root() {
        // Nobody else may become its user.
        let user = "    user haproxy\n    group haproxy\n    chroot /var/lib/haproxy\n";
        edits.push((user.to_owned(), String::new()));
    }
    let config = places.write("haproxy/haproxy.cfg", "haproxy.cfg", &edits);
    let mut command = command("haproxy");
    command.arg("-db").arg("-f").arg(config);
    command
}

impl Places<'_> {
    /// What every one of the configurations names. The site gets two names: agents come by `localhost`, and the
    /// harness' browsers by an address.
    fn edited(&self, name: &'static str, names: &str) -> Vec<(String, String)> {
        [
            (name, names.to_owned()),
            ("/etc/ssl/relay", self.dir.display().to_string()),
            ("127.0.0.1:8082", self.relay.to_string()),
            ("127.0.0.1:8081", self.web_app.to_string()),
            ("127.0.0.1:9000", self.identity.to_string()),
        ]
        .map(|(place, value)| (place.to_owned(), value))
        .to_vec()
    }

    fn ports(&self, plain: &str, secure: &str, with: impl Fn(u16) -> String) -> Vec<(String, String)> {
        vec![(plain.to_owned(), with(self.plain)), (secure.to_owned(), with(self.secure))]
    }

    /// Copies a shipped file with these places edited, each of which it has to have.
    fn write(&self, shipped: &str, name: &str, edits: &[(String, String)]) -> PathBuf {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(shipped);
        let mut text =
            std::fs::read_to_string(&shipped).unwrap_or_else(|e| panic!("{}: {e}", shipped.display()));
        for (place, value) in edits {
            assert!(text.contains(place), "{} has no {place}", shipped.display());
            text = text.replace(place, value);
        }
        let path = self.dir.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }
}

/// A program that `make test` put into `target/tools`, or that is in the search path.
fn tool(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test executable has a path");
    // target/debug/deps/TEST
    let target = test.ancestors().nth(3).expect("the test executable lies in target/debug/deps");
    let own = target.join("tools").join(name).join("bin").join(name);
    if own.exists() { own } else { PathBuf::from(name) }
}
