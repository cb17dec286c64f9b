//! People who sign in with a browser, devices that ask to be let in, and the database behind both.

use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, Row, SqliteConnection};

use crate::{
    Relay, RelayOptions,
    client::{Reply, empty, fetch, full},
    postgres::Postgres,
    tokens::SECRET,
};

/// A browser with its one cookie.
#[derive(Debug, Default, Clone)]
pub struct Browser {
    /// `name=value`, as it goes into `Cookie`.
    pub cookie: Option<String>,
    /// What goes with every request besides; a name twice is sent twice.
    pub headers: Vec<(String, String)>,
}

impl Browser {
    /// One that sends this header too.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.headers.push((name.to_owned(), value.to_owned()));
        other
    }

    /// Calls as the portal does, and keeps the cookie that comes back.
    pub async fn call(&mut self, relay: &Relay, method: Method, path: &str, body: Option<Value>) -> Reply {
        let reply = self.with("x-relay-csrf", "1").send(relay, method, path, body).await;
        if let Some(set) = reply.header("set-cookie") {
            let pair = set.split(';').next().unwrap_or_default();
            self.cookie = (!pair.ends_with('=')).then(|| pair.to_owned());
        }
        reply
    }

    /// Sends with the cookie and these headers alone.
    pub async fn send(&self, relay: &Relay, method: Method, path: &str, body: Option<Value>) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = match body {
            Some(body) => request.header("content-type", "application/json").body(full(body.to_string())),
            None => request.body(empty()),
        };
        fetch(relay.addr, request.expect("a request")).await
    }

    /// A POST of JSON.
    pub async fn post(&mut self, relay: &Relay, path: &str, body: Value) -> Reply {
        self.call(relay, Method::POST, path, Some(body)).await
    }

    /// A GET.
    pub async fn get(&mut self, relay: &Relay, path: &str) -> Reply {
        self.call(relay, Method::GET, path, None).await
    }

    /// Signs in with a password.
    pub async fn login(&mut self, relay: &Relay, email: &str, password: &str) -> Reply {
        self.post(relay, "/v1/auth/login", json!({"email": email, "password": password})).await
    }

    /// The token in the cookie.
    pub fn token(&self) -> String {
        let cookie = self.cookie.as_deref().expect("a cookie");
        cookie.split_once('=').expect("a cookie has a value").1.to_owned()
    }
}

/// Somebody who has just signed in.
pub async fn signed_in(relay: &Relay, email: &str, password: &str) -> Browser {
    let mut browser = Browser::default();
    let reply = browser.login(relay, email, password).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    browser
}

/// Posts a form, as devices do.
pub async fn form(relay: &Relay, path: &str, fields: &[(&str, &str)]) -> Reply {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let request = Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(full(body))
        .expect("a request");
    fetch(relay.addr, request).await
}

/// The database of one relay.
#[derive(Debug)]
pub enum Database {
    /// In the relay's data folder.
    Sqlite,
    /// On this server, under this name.
    Postgres(Postgres, String),
}

impl Database {
    /// A database on a PostgreSQL server of its own.
    pub async fn postgres() -> Self {
        let server = Postgres::start().await;
        server.database("alone").await;
        Self::Postgres(server, "alone".to_owned())
    }

    /// Options of a relay on it, with the portal.
    pub fn options(&self) -> RelayOptions {
        match self {
            Self::Sqlite => RelayOptions::default().portal(),
            Self::Postgres(server, name) => RelayOptions::default()
                .portal()
                .database(&server.url_as("postgres", name))
                .env("RELAY_JWT_SECRET", SECRET),
        }
    }

    /// Makes a time of every row of a table so much later than now, or earlier.
    pub async fn set_time(&self, relay: &Relay, table: &str, column: &str, seconds_from_now: i64) {
        match self {
            Self::Sqlite => {
                let sql = format!("update {table} set {column} = unixepoch() + {seconds_from_now}");
                sqlite(relay).await.execute(AssertSqlSafe(sql)).await.expect("an update");
            }
            Self::Postgres(server, name) => {
                let time = format!("now() + interval '{seconds_from_now} seconds'");
                server.execute(name, &format!("update relay.{table} set {column} = {time}")).await;
            }
        }
    }

    /// Everything that the tables of signing in hold, as text.
    pub async fn dump(&self, relay: &Relay) -> String {
        let tables = [
            "users",
            "auth_sessions",
            "tokens",
            "credentials",
            "sign_ins",
            "login_links",
            "device_logins",
            "refresh_tokens",
        ];
        let mut all = String::new();
        for table in tables {
            all.push_str(&format!("\n{table}: "));
            match self {
                Self::Sqlite => {
                    let mut connection = sqlite(relay).await;
                    let columns = format!(
                        "select group_concat('coalesce(' || name || ', '''')', ' || '' '' || ') from pragma_table_info('{table}') where type = 'TEXT'"
                    );
                    let columns: Option<String> = one(&mut connection, &columns).await;
                    let Some(columns) = columns else { continue };
                    let rows = format!("select group_concat({columns}, char(10)) from {table}");
                    all.push_str(&one(&mut connection, &rows).await.unwrap_or_default());
                }
                Self::Postgres(server, name) => {
                    let rows = format!("select string_agg(t::text, E'\\n') from relay.{table} t");
                    all.push_str(&server.text(name, &rows).await);
                }
            }
        }
        all
    }
}

async fn sqlite(relay: &Relay) -> SqliteConnection {
    let path = relay.data_dir().join("relay.db");
    SqliteConnection::connect(path.to_str().expect("a path")).await.expect("the relay's database")
}

async fn one(connection: &mut SqliteConnection, sql: &str) -> Option<String> {
    let row = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await;
    row.unwrap_or_else(|e| panic!("{e}\n{sql}")).get(0)
}
