//! The commands for users and tokens, as they are typed.

use clap::Parser;
use relay_server::auth::password::{Password, Passwords};
use relay_server::auth::token::{Secret, Verifier};
use relay_server::identity::{IdentityCommand, IdentityError, Tools, run};
use relay_server::store::NewSignIn;
use uuid::Uuid;

use crate::bench::Bench;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: IdentityCommand,
}

async fn relay_server(bench: &Bench, secret: &Secret, arguments: &str) -> Result<String, IdentityError> {
    relay_server_with(bench, secret, arguments, "").await
}

async fn relay_server_with(
    bench: &Bench,
    secret: &Secret,
    arguments: &str,
    input: &str,
) -> Result<String, IdentityError> {
    let cli = Cli::try_parse_from(["relay-server"].into_iter().chain(arguments.split(' '))).unwrap();
    let mut out = Vec::new();
    let tools =
        Tools { secret, base: "https://relay.example", input: &mut input.as_bytes(), terminal: false };
    run(cli.command, &bench.store, tools, &mut out).await?;
    Ok(String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn from_the_first_user_to_a_revoked_token() {
    let bench = Bench::sqlite().await;
    let secret = Secret::load_or_create(&tempfile::tempdir().unwrap().path().join("secret")).unwrap();
    let relay_server = async |arguments: &str| relay_server(&bench, &secret, arguments).await;

    let missing = relay_server("token create --user ann@example.org").await.unwrap_err().to_string();
    assert!(missing.contains("relay-server user add ann@example.org"), "{missing}");
    assert!(relay_server("user add Ann@example.org").await.unwrap().starts_with("added ann@example.org"));
    assert!(relay_server("user add ann@example.org").await.unwrap_err().to_string().contains("already"));
    assert!(relay_server("user list").await.unwrap().contains("ann@example.org"));
    let users: serde_json::Value =
        serde_json::from_str(&relay_server("user list --json").await.unwrap()).unwrap();
    assert_eq!(users[0]["email"], "ann@example.org");

    let printed =
        relay_server("token create --user ann@example.org --name laptop --expires 30d").await.unwrap();
    let token = printed.strip_suffix('\n').unwrap();
    assert!(!token.contains(char::is_whitespace), "the token, alone");
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let claims = Verifier::new(&secret).verify(token, now).unwrap();
    assert!((claims.exp - now - 30 * 24 * 3600).abs() < 60);
    assert!(bench.store.auth_session_live(claims.session_id, claims.sub).await.unwrap());

    let listed: serde_json::Value =
        serde_json::from_str(&relay_server("token list --json").await.unwrap()).unwrap();
    assert_eq!(listed[0]["id"], claims.session_id.to_string());
    assert_eq!((&listed[0]["name"], &listed[0]["state"]), (&"laptop".into(), &"live".into()));
    assert_eq!(listed[0]["expires_at"], claims.exp);
    assert!(!relay_server("token list").await.unwrap().contains(token));

    relay_server(&format!("token revoke {}", claims.session_id)).await.unwrap();
    assert!(!bench.store.auth_session_live(claims.session_id, claims.sub).await.unwrap());
    assert!(relay_server("token list").await.unwrap().contains("revoked"));
    let again = relay_server(&format!("token revoke {}", claims.session_id)).await.unwrap_err();
    assert!(matches!(again, IdentityError::NoSuchToken(_)));
    assert!(relay_server(&format!("token revoke {}", Uuid::new_v4())).await.is_err());
}

#[tokio::test]
async fn a_password_is_typed_or_made_and_a_link_is_printed() {
    let bench = Bench::sqlite().await;
    let secret = Secret::load_or_create(&tempfile::tempdir().unwrap().path().join("secret")).unwrap();
    let run = async |arguments: &str, input: &str| relay_server_with(&bench, &secret, arguments, input).await;
    let hash = async || {
        bench
            .store
            .account_by_email("ann@example.org")
            .await
            .unwrap()
            .and_then(|account| account.password_hash)
    };
    for arguments in ["user password ann@example.org --generate", "login ann@example.org"] {
        let missing = run(arguments, "").await.unwrap_err().to_string();
        assert!(missing.contains("relay-server user add ann@example.org"), "{missing}");
    }
    run("user add ann@example.org", "").await.unwrap();
    for bad in ["", "too short\n", &"x".repeat(5000)] {
        let refused = run("user password ann@example.org", bad).await.unwrap_err();
        assert!(matches!(refused, IdentityError::PasswordLength), "{refused}");
    }
    assert_eq!(hash().await, None);
    let said = run("user password Ann@example.org", "correct horse\n").await.unwrap();
    assert!(!said.contains("horse"), "{said}");
    let (first, passwords) = (hash().await, Passwords::default());
    let typed = Password::new("correct horse".to_owned());
    assert!(passwords.verify(typed.clone(), first.clone()).await.unwrap());
    let made = run("user password ann@example.org --generate", "").await.unwrap();
    let made = Password::new(made.strip_suffix('\n').unwrap().to_owned());
    assert!(made.is_acceptable());
    assert!(passwords.verify(made, hash().await).await.unwrap());
    assert!(!passwords.verify(typed, hash().await).await.unwrap(), "the old one is replaced");

    let link = run("login ann@example.org", "").await.unwrap();
    let token = link.strip_suffix('\n').unwrap().strip_prefix("https://relay.example/#/link/").unwrap();
    let new = NewSignIn { id: Uuid::new_v4(), name: "test", expires_at: i64::from(i32::MAX) };
    let token = relay_server::auth::opaque::hash(token).unwrap();
    assert_eq!(bench.store.sign_in_by_link(&token, new).await.unwrap().unwrap().email, "ann@example.org");
    let link = run("login ann@example.org --url http://127.0.0.1:8082/", "").await.unwrap();
    assert!(link.starts_with("http://127.0.0.1:8082/#/link/"), "{link}");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_happens() {
    for arguments in [
        "user add ann",
        "token create",
        "token create --user ann",
        "token create --user ann@example.org --expires 10s",
        "token create --user ann@example.org --expires 4000d",
        "token revoke ann",
        "login",
        "login ann",
        "login ann@example.org --url ftp://x",
        "user password",
        "user password ann@example.org hunter2hunter2",
        "user",
    ] {
        assert!(
            Cli::try_parse_from(["relay-server"].into_iter().chain(arguments.split(' '))).is_err(),
            "{arguments}"
        );
    }
}

#[tokio::test]
async fn the_database_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::sqlite().await;
    bench.store.add_user("ann@example.org").await.unwrap();
    let relay_server::store::DatabaseUrl::Sqlite(file) = bench.options().url else { panic!("not SQLite") };
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    for entry in std::fs::read_dir(file.parent().unwrap()).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600, "also what lies beside it");
    }
}
