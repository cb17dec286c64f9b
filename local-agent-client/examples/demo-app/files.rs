//! The folder under `/files/`: listings, content types, byte ranges.
//!
//! The path comes from outside. It is decoded segment by segment, so that an encoded slash or dot
//! pair is seen for what it is, and what it leads to must still lie inside the folder once every
//! symbolic link is followed.

use super::Folder;
use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{Html, IntoResponse, Redirect, Response},
};
use futures_util::stream;
use std::{
    fmt::Write as _,
    io::{self, SeekFrom},
    ops::Range,
    path::{Component, Path, PathBuf},
};
use tokio::{
    fs::{self, File},
    io::{AsyncReadExt as _, AsyncSeekExt as _},
};

/// Entries of one listing at the most: it is built in memory.
const MAX_ENTRIES: usize = 2_000;

/// Bytes that are read from a file at a time.
const READ: usize = 64 << 10;

/// The served folder, with every symbolic link of its own path resolved.
#[derive(Debug)]
pub struct Root(PathBuf);

impl Root {
    /// A folder whose path is canonical.
    pub fn new(canonical: PathBuf) -> Self {
        Self(canonical)
    }
}

/// `GET /files/…`.
pub async fn serve(State(root): Folder, uri: Uri, headers: HeaderMap) -> Response {
    let below = uri.path().strip_prefix("/files/").unwrap_or_default();
    let Some(wanted) = decode(below) else { return gone() };
    // A missing file and one that may not be seen answer alike.
    let Ok(path) = fs::canonicalize(root.0.join(wanted)).await else { return gone() };
    if !path.starts_with(&root.0) {
        return gone();
    }
    match fs::metadata(&path).await {
        Ok(meta) if meta.is_dir() => match last_segment(below) {
            // Relative links of a listing need the slash. The reference is relative as well: the
            // browser knows the prefix, we do not.
            Some(name) => Redirect::temporary(&format!("./{name}/")).into_response(),
            None => list(&path, below.is_empty()).await.unwrap_or_else(|_| gone()),
        },
        Ok(meta) if meta.is_file() => send(&path, meta.len(), &headers).await.unwrap_or_else(|_| gone()),
        _ => gone(),
    }
}

fn gone() -> Response {
    (StatusCode::NOT_FOUND, "there is no such file here\n").into_response()
}

/// The last segment as it was written, when the path does not end in a slash.
fn last_segment(path: &str) -> Option<&str> {
    path.rsplit('/').next().filter(|name| !name.is_empty())
}

/// The relative path that a request path means, or `None` when any segment of it is more than the
/// name of a file or folder.
fn decode(path: &str) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let name = percent_decode(segment)?;
        if name.contains(['/', '\\', '\0']) {
            return None;
        }
        let mut components = Path::new(&name).components();
        match (components.next(), components.next()) {
            (Some(Component::Normal(name)), None) => out.push(name),
            _ => return None,
        }
    }
    Some(out)
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

fn percent_encode(name: &str) -> String {
    name.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

async fn list(path: &Path, is_root: bool) -> io::Result<Response> {
    let mut reader = fs::read_dir(path).await?;
    let mut entries = Vec::new();
    let mut cut = false;
    while let Some(entry) = reader.next_entry().await? {
        if entries.len() == MAX_ENTRIES {
            cut = true;
            break;
        }
        // Links are shown only when they lead to something; where they lead is judged on opening.
        if let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), fs::metadata(entry.path()).await) {
            entries.push((!meta.is_dir(), name, meta.len()));
        }
    }
    entries.sort_unstable();
    let mut rows = String::new();
    if !is_root {
        rows.push_str("<tr><td><a href=\"../\">..</a><td>\n");
    }
    for (is_file, name, size) in &entries {
        let (slash, size) = if *is_file { ("", size.to_string()) } else { ("/", String::new()) };
        let (href, text) = (percent_encode(name), escape(name));
        let _ = writeln!(rows, "<tr><td><a href=\"./{href}{slash}\">{text}{slash}</a><td>{size}");
    }
    let note = if cut { format!("<p>Only {MAX_ENTRIES} entries are shown.") } else { String::new() };
    Ok(Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <meta name=color-scheme content=\"light dark\"><title>Files</title>\
         <style>body{{font:1rem/1.6 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem}}\
         table{{width:100%}}td{{overflow-wrap:anywhere}}td+td{{text-align:right;font-variant-numeric:tabular-nums}}</style>\
         <h1>Files</h1><table>\n{rows}</table>{note}\n"
    ))
    .into_response())
}

async fn send(path: &Path, size: u64, headers: &HeaderMap) -> io::Result<Response> {
    // A range that depends on a validator, which we do not give, counts as not asked for.
    let asked = headers.get(header::RANGE).filter(|_| !headers.contains_key(header::IF_RANGE));
    let range =
        match asked.and_then(|value| value.to_str().ok()).map_or(Asked::Whole, |v| parse_range(v, size)) {
            Asked::Whole => None,
            Asked::Part(range) => Some(range),
            Asked::Nothing => {
                let head = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
                return Ok((StatusCode::RANGE_NOT_SATISFIABLE, head).into_response());
            }
        };
    let mut file = File::open(path).await?;
    let (status, Range { start, end }) = match &range {
        Some(range) => (StatusCode::PARTIAL_CONTENT, range.clone()),
        None => (StatusCode::OK, 0..size),
    };
    file.seek(SeekFrom::Start(start)).await?;
    let body = stream::try_unfold((file, end - start), async |(mut file, left)| {
        if left == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; usize::try_from(left).map_or(READ, |left| left.min(READ))];
        let read = file.read(&mut piece).await?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        piece.truncate(read);
        Ok(Some((Bytes::from(piece), (file, left - read as u64))))
    });
    let mut response = (status, Body::from_stream(body)).into_response();
    let head = response.headers_mut();
    head.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type(path)));
    head.insert(header::CONTENT_LENGTH, (end - start).into());
    head.insert(header::ACCEPT_RANGES, header::HeaderValue::from_static("bytes"));
    head.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    if range.is_some() {
        let value = format!("bytes {start}-{}/{size}", end - 1);
        head.insert(header::CONTENT_RANGE, value.parse().map_err(io::Error::other)?);
    }
    Ok(response)
}

/// What a `Range` header asks of a file of a given size.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// No range, or a form that a server may ignore: several ranges, another unit, nonsense.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that the file does not have.
    Nothing,
}

/// RFC 9110 section 14.1.2, one range.
fn parse_range(value: &str, size: u64) -> Asked {
    let Some((first, last)) = value.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
    else {
        return Asked::Whole;
    };
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first > last => Asked::Whole,
        (Ok(first), _) if first >= size && (last.is_empty() || last.parse::<u64>().is_ok()) => Asked::Nothing,
        (Ok(first), Ok(last)) => Asked::Part(first..last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) if last.is_empty() => Asked::Part(first..size),
        (Err(_), Ok(count)) if first.is_empty() && (count == 0 || size == 0) => Asked::Nothing,
        (Err(_), Ok(count)) if first.is_empty() => Asked::Part(size.saturating_sub(count)..size),
        _ => Asked::Whole,
    }
}

/// The media type by the file's ending. What is not known is a download.
fn content_type(path: &Path) -> &'static str {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "txt" | "md" | "log" | "rs" | "toml" | "ts" | "sh" | "yaml" | "yml" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "json" | "map" => "application/json",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "mp3" => "audio/mpeg",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_files_below_the_folder_or_nothing() {
        let good: &[(&str, &str)] = &[
            ("", ""),
            ("a", "a"),
            ("a/b.txt", "a/b.txt"),
            ("a//b/", "a/b"),
            ("a%20b", "a b"),
            ("...", "..."),
            ("%C3%A4", "ä"),
        ];
        for (path, expected) in good {
            assert_eq!(decode(path).as_deref(), Some(Path::new(expected)), "{path}");
        }
        for path in [
            "..",
            "a/../b",
            ".",
            "%2e%2e",
            "a/%2E%2E/b",
            "a%2Fb",
            "a%5Cb",
            "%00",
            "%",
            "%2",
            "%zz",
            "%ff",
            "..%2f..",
        ] {
            assert_eq!(decode(path), None, "{path}");
        }
    }

    #[test]
    fn names_survive_a_link() {
        for name in ["plain", "a b", "ä&<\"'>", "100%", "?q#f", "a:b", "x+y"] {
            assert_eq!(percent_decode(&percent_encode(name)).as_deref(), Some(name));
        }
    }

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        let cases = [
            ("bytes=0-0", 10, Asked::Part(0..1)),
            ("bytes=2-5", 10, Asked::Part(2..6)),
            ("bytes=2-", 10, Asked::Part(2..10)),
            ("bytes=2-99", 10, Asked::Part(2..10)),
            ("bytes=0-18446744073709551615", 10, Asked::Part(0..10)),
            ("bytes=-3", 10, Asked::Part(7..10)),
            ("bytes=-99", 10, Asked::Part(0..10)),
            ("bytes=10-", 10, Asked::Nothing),
            ("bytes=10-12", 10, Asked::Nothing),
            ("bytes=-0", 10, Asked::Nothing),
            ("bytes=-5", 0, Asked::Nothing),
            ("bytes=5-2", 10, Asked::Whole),
            ("bytes=0-1,3-4", 10, Asked::Whole),
            ("bytes=-", 10, Asked::Whole),
            ("bytes=a-b", 10, Asked::Whole),
            ("items=0-1", 10, Asked::Whole),
            ("", 10, Asked::Whole),
        ];
        for (value, size, expected) in cases {
            assert_eq!(parse_range(value, size), expected, "{value} of {size}");
        }
    }

    #[tokio::test]
    async fn a_link_out_of_the_folder_is_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("open"), "open").unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(outside.path().join("secret"), folder.path().join("out")).unwrap();
            std::os::unix::fs::symlink("open", folder.path().join("in")).unwrap();
        }
        let root = std::sync::Arc::new(Root::new(folder.path().canonicalize().unwrap()));
        let get = |path: &'static str| serve(State(root.clone()), Uri::from_static(path), HeaderMap::new());
        assert_eq!(get("/files/open").await.status(), StatusCode::OK);
        assert_eq!(get("/files/missing").await.status(), StatusCode::NOT_FOUND);
        if cfg!(unix) {
            assert_eq!(get("/files/in").await.status(), StatusCode::OK);
            assert_eq!(get("/files/out").await.status(), StatusCode::NOT_FOUND);
        }
    }
}
