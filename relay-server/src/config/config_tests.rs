//! Precedence, aliases, and every message that stops the start.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::ffi::OsString;

use super::*;

const SECRET: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

fn load(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let flags: HashMap<String, String> = flags.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let env: HashMap<String, OsString> = env.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    Config::load(&Sources { flag: &|name| flags.get(name).cloned(), env: &|name| env.get(name).cloned() })
}

fn with_file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn without_being_told_anything_the_defaults_hold() {
    let config = load(&[], &[]).unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:8082");
    assert!(matches!(&config.database, Database::Sqlite(path) if path.ends_with("data/relay.db")));
    assert!(matches!(&config.jwt_secret, JwtSecret::File(path) if path.ends_with("data/jwt_secret")));
    assert_eq!(config.session_lifetime, Duration::from_secs(86_400));
    assert_eq!(config.limits.max_header_bytes, 65_536);
    assert_eq!(config.limits.stream_window, 1 << 20);
    assert_eq!(config.limits.stream_idle_timeout, Duration::from_secs(3600));
    assert!(!config.shared_host_pages && config.allowed_origins.is_empty());
}

#[test]
fn flag_before_environment_before_file_before_default() {
    let (_dir, file) =
        with_file("session_lifetime = \"3h\"\nmax_tunnels_per_host = 3\nheader_timeout = \"3s\"\n");
    let env = [
        ("RELAY_CONFIG", file.as_str()),
        ("RELAY_SESSION_LIFETIME", "2h"),
        ("RELAY_MAX_TUNNELS_PER_HOST", "2"),
    ];
    let config = load(&[("session-lifetime", "1h")], &env).unwrap();
    assert_eq!(config.session_lifetime, Duration::from_secs(3600));
    assert_eq!(config.limits.max_tunnels_per_host, 2);
    assert_eq!(config.limits.header_timeout, Duration::from_secs(3));
    assert_eq!(config.limits.max_streams_per_tunnel, 256);
    // The flag's file wins over the variable's.
    let (_other, other) = with_file("max_streams_per_tunnel = 9\n");
    let config = load(&[("config", &other)], &env).unwrap();
    assert_eq!(
        (config.limits.max_streams_per_tunnel, config.limits.header_timeout),
        (9, Duration::from_secs(10))
    );
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let env = [
        ("RELAY_LISTEN_ADDR", ""),
        ("SERVER_DATABASE_URL", ""),
        ("DATABASE_URL", "sqlite:second.db"),
        ("RELAY_CONFIG", ""),
        ("VIBEKANBAN_REMOTE_JWT_SECRET", ""),
    ];
    let config = load(&[], &env).unwrap();
    assert_eq!(config.listen.port, 8082);
    assert!(matches!(&config.database, Database::Sqlite(path) if path.as_os_str() == "second.db"));
    assert!(matches!(config.jwt_secret, JwtSecret::File(_)));
}

#[test]
fn the_listening_address_from_its_parts() {
    let cases: &[(&[(&str, &str)], &[(&str, &str)], &str)] = &[
        (&[], &[("PORT", "9000")], "0.0.0.0:9000"),
        (&[], &[("PORT", "9000"), ("HOST", "127.0.0.1")], "127.0.0.1:9000"),
        (&[], &[("PORT", "9000"), ("HOST", "::1")], "[::1]:9000"),
        (&[], &[("RELAY_LISTEN_PORT", "9001"), ("PORT", "9000")], "0.0.0.0:9001"),
        // Shells export HOST; alone it means nothing to us.
        (&[], &[("HOST", "my-laptop")], "0.0.0.0:8082"),
        (&[], &[("RELAY_LISTEN_ADDR", "127.0.0.1:1"), ("PORT", "9000")], "127.0.0.1:1"),
        (&[("listen-port", "2")], &[("RELAY_LISTEN_ADDR", "127.0.0.1:1")], "0.0.0.0:2"),
        (&[("listen-addr", "[::]:3")], &[("PORT", "9000")], "[::]:3"),
    ];
    for (flags, env, expected) in cases {
        assert_eq!(load(flags, env).unwrap().listen.to_string(), *expected, "{flags:?} {env:?}");
    }
}

#[test]
fn secrets_come_from_variables_aliases_and_files_and_print_as_stars() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    for content in [format!("{SECRET}\n"), format!("{SECRET}\r\n"), SECRET.to_owned()] {
        std::fs::write(&path, content).unwrap();
        let path = path.to_str().unwrap();
        for name in ["VIBEKANBAN_REMOTE_JWT_SECRET_FILE", "RELAY_JWT_SECRET_FILE"] {
            assert!(matches!(load(&[], &[(name, path)]).unwrap().jwt_secret, JwtSecret::Given(_)), "{name}");
        }
        assert!(matches!(load(&[("jwt-secret-file", path)], &[]).unwrap().jwt_secret, JwtSecret::Given(_)));
        let (_dir, file) = with_file(&format!("jwt_secret_file = {path:?}\n"));
        assert!(matches!(load(&[("config", &file)], &[]).unwrap().jwt_secret, JwtSecret::Given(_)));
    }
    let env = [("RELAY_JWT_SECRET", SECRET), ("DATABASE_URL", "postgres://relay:hunter2@db/app")];
    let printed = format!("{:?}", load(&[], &env).unwrap());
    assert!(!printed.contains("hunter2") && !printed.contains(SECRET), "{printed}");
    // One newline goes, a second one is part of the value.
    std::fs::write(&path, "sqlite:a.db\n\n").unwrap();
    let config = load(&[], &[("DATABASE_URL_FILE", path.to_str().unwrap())]).unwrap();
    assert!(matches!(config.database, Database::Sqlite(path) if path.as_os_str() == "a.db\n"));
}

#[test]
fn every_mistake_is_named_with_its_source_and_never_with_a_secret() {
    let cases: &[(&[(&str, &str)], &[(&str, &str)], &str)] = &[
        (
            &[],
            &[("RELAY_LISTEN_ADDR", "8082")],
            "the environment variable RELAY_LISTEN_ADDR: expected `host:port`, got `8082`",
        ),
        (
            &[],
            &[("PORT", "http")],
            "the environment variable PORT: expected a number from 0 to 65535, got `http`",
        ),
        (
            &[("header-timeout", "10")],
            &[],
            "the flag --header-timeout: expected a duration such as `500ms`, `10s`, `5m`, `24h` or `7d`, from 100ms to 5m, got `10`",
        ),
        (
            &[],
            &[("RELAY_STREAM_WINDOW", "64KiB")],
            "the environment variable RELAY_STREAM_WINDOW: expected a size such as `64KiB`, `1MiB` or `4096`, from 256KiB to 16MiB, got `64KiB`",
        ),
        (
            &[],
            &[("RELAY_ALLOWED_ORIGINS", "*")],
            "the environment variable RELAY_ALLOWED_ORIGINS: expected exact origins such as `https://app.example.com`, comma-separated, never `*`, got `*`",
        ),
        (
            &[],
            &[("RELAY_TRUSTED_PROXIES", "traefik")],
            "the environment variable RELAY_TRUSTED_PROXIES: expected addresses or networks such as `10.0.0.0/8`, comma-separated, got `traefik`",
        ),
        (
            &[],
            &[("RELAY_LOG_FORMAT", "xml")],
            "the environment variable RELAY_LOG_FORMAT: expected `text` or `json`, got `xml`",
        ),
        (
            &[],
            &[("RELAY_SHARED_HOST_PAGES", "perhaps")],
            "the environment variable RELAY_SHARED_HOST_PAGES: expected `true` or `false`, got `perhaps`",
        ),
        (
            &[],
            &[("RELAY_JWT_SECRET", "aHVudGVyMg==")],
            "the environment variable RELAY_JWT_SECRET: expected base64 (standard alphabet) of at least 32 bytes, got something else (not shown)",
        ),
        (
            &[],
            &[("DATABASE_URL", "mysql://u:hunter2@db")],
            "the environment variable DATABASE_URL: expected `postgres://…`, `postgresql://…` or `sqlite:PATH`, got something else (not shown)",
        ),
        (
            &[],
            &[("RELAY_JWT_SECRET", SECRET), ("RELAY_JWT_SECRET_FILE", "/x")],
            "RELAY_JWT_SECRET and RELAY_JWT_SECRET_FILE are both set; keep one of them",
        ),
        (
            &[],
            &[("RELAY_ICE_SERVERS", "stun:a,turn:hunter2:0")],
            "the environment variable RELAY_ICE_SERVERS: expected URLs such as `stun:stun.example.com,turn:turn.example.com:3478?transport=udp`, comma-separated, or a JSON list of `{\"urls\", \"username\", \"credential\"}`, got something else (not shown): URL 2: the port has to be a number from 1 to 65535",
        ),
        (
            &[],
            &[("RELAY_TURN_SECRET", "hunter2")],
            "the environment variable RELAY_TURN_SECRET: expected 16 to 512 characters without blanks, got something else (not shown)",
        ),
        (
            &[],
            &[("RELAY_ICE_SERVERS", "turn:turn.example.com")],
            "RELAY_ICE_SERVERS names a TURN server and nothing lets browsers in there: set RELAY_TURN_SECRET, or give the server's `username` and `credential` in the JSON form",
        ),
        (
            &[],
            &[("RELAY_ICE_SERVERS", "stun:a"), ("RELAY_TURN_SECRET", "hunter2-hunter2-hunter2")],
            "RELAY_TURN_SECRET is set, and RELAY_ICE_SERVERS names no TURN server",
        ),
        (
            &[],
            &[("DATABASE_URL", "postgres://db/app")],
            "VIBEKANBAN_REMOTE_JWT_SECRET (or RELAY_JWT_SECRET, or either with _FILE) is not set: with PostgreSQL the relay verifies tokens that others make, expected base64 (standard alphabet) of at least 32 bytes",
        ),
    ];
    for (flags, env, expected) in cases {
        assert_eq!(load(flags, env).unwrap_err().to_string(), *expected);
    }
    let missing = load(&[], &[("RELAY_JWT_SECRET_FILE", "/nowhere/secret")]).unwrap_err().to_string();
    assert!(missing.starts_with("the environment variable RELAY_JWT_SECRET_FILE names the file /nowhere/secret, which cannot be read: "), "{missing}");
    let missing = load(&[("config", "/nowhere/relay.toml")], &[]).unwrap_err().to_string();
    assert!(missing.starts_with("the configuration file /nowhere/relay.toml cannot be read: "), "{missing}");
}

#[test]
fn mistakes_in_the_file() {
    let cases = [
        (
            "listen_adr = \"x\"\n",
            "unknown setting `listen_adr` in {file}; `relay-server settings` lists those that exist",
        ),
        (
            "[limits]\nx = 1\n",
            "unknown setting `limits` in {file}; `relay-server settings` lists those that exist",
        ),
        (
            "config = \"other.toml\"\n",
            "unknown setting `config` in {file}; `relay-server settings` lists those that exist",
        ),
        (
            "listen_addr_file = \"x\"\n",
            "unknown setting `listen_addr_file` in {file}; `relay-server settings` lists those that exist",
        ),
        (
            "relay_id = 1.5\n",
            "`relay_id` in {file}: expected 1 to 64 of the characters `A-Z a-z 0-9 . _ -`, got a value of another type",
        ),
        (
            "max_tunnels_per_host = 0\n",
            "`max_tunnels_per_host` in {file}: expected a number from 1 to 1024, got `0`",
        ),
        (
            "relay_id = \"a\"\njwt_secret = hunter2\n",
            "the configuration file {file} is not valid TOML at line 2",
        ),
        (
            "jwt_secret = \"a\"\njwt_secret_file = \"b\"\n",
            "jwt_secret and jwt_secret_file are both set; keep one of them",
        ),
    ];
    for (text, expected) in cases {
        let (_dir, file) = with_file(text);
        let got = load(&[("config", &file)], &[]).unwrap_err().to_string();
        assert_eq!(got, expected.replace("{file}", &file));
    }
}

#[test]
fn lists_in_the_file_and_in_variables() {
    let (_dir, file) = with_file(
        "allowed_origins = [\"https://a.example\", \"https://b.example\"]\ntrusted_proxies = \"10.0.0.0/8, fd00::/8\"\nshared_host_pages = true\n",
    );
    let config = load(&[("config", &file)], &[]).unwrap();
    assert_eq!(config.allowed_origins, ["https://a.example", "https://b.example"]);
    assert_eq!(config.trusted_proxies.len(), 2);
    assert!(config.shared_host_pages);
    // A flag can take back what the file says.
    let config = load(&[("config", &file), ("allowed-origins", "")], &[]).unwrap();
    assert!(config.allowed_origins.is_empty());
}

#[test]
fn servers_for_direct_paths() {
    let config = load(&[], &[]).unwrap();
    assert!(config.webrtc && config.ice_servers.is_empty() && config.turn_secret.is_none());
    assert_eq!(config.turn_lifetime, Duration::from_secs(12 * 3600));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("turn_secret");
    std::fs::write(&path, "north-wind-and-the-sun\n").unwrap();
    let (_dir, file) = with_file(&format!(
        "ice_servers = [\"stun:a\", \"turn:b?transport=udp\"]\nturn_secret_file = {path:?}\nturn_lifetime = \"5m\"\nwebrtc = false\n"
    ));
    let config = load(&[("config", &file)], &[]).unwrap();
    assert_eq!(config.ice_servers.len(), 2);
    assert_eq!(config.turn_lifetime, Duration::from_secs(300));
    assert!(config.turn_secret.is_some() && !config.webrtc);
    let printed = format!("{config:?}");
    assert!(!printed.contains("north-wind"), "{printed}");

    // A login makes the whole list a secret.
    let servers = dir.path().join("servers.json");
    std::fs::write(&servers, "[{\"urls\":\"turn:b\",\"username\":\"u\",\"credential\":\"hunter2\"}]\n")
        .unwrap();
    let config = load(&[("ice-servers-file", servers.to_str().unwrap())], &[]).unwrap();
    assert!(config.ice_servers[0].login.is_some());
    assert!(!format!("{config:?}").contains("hunter2"));
    for (env, good) in [("299s", false), ("5m", true), ("7d", true), ("8d", false)] {
        assert_eq!(load(&[], &[("RELAY_TURN_LIFETIME", env)]).is_ok(), good, "{env}");
    }
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let error = Config::load(&Sources {
        flag: &|_| None,
        env: &|name| (name == "RELAY_ID").then(|| OsString::from_vec(vec![0xff])),
    });
    assert_eq!(error.unwrap_err().to_string(), "the environment variable RELAY_ID is not valid UTF-8");
}

/// Relays of different versions derive the same.
#[test]
fn a_derived_key_is_what_rfc_5869_says() {
    let derived = |info: &[u8]| {
        let key = SecretText::of("a key that the relays share").derive(info).unwrap();
        key.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert_eq!(derived(b"one use"), "dbf74dca55ed50f238887a6507b2c7475c936f1405b449b525a68f3658c01f3b");
    assert_ne!(derived(b"one use"), derived(b"another"));
}
