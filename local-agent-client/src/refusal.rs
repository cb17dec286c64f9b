//! What the agent says itself where nothing is forwarded: a problem of RFC 9457.

use http::{HeaderName, HeaderValue, Response, header};
use relay_protocol::problem::{self, Code, Problem};

/// What a 429 without a better guess says in `Retry-After`, in seconds: after a minute every window here has
/// moved on.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("60");

/// A request that the agent answers itself.
#[derive(Debug)]
pub struct Refusal {
    /// What is said.
    pub problem: Box<Problem>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// Refuses with this code; `detail` says what happened and what the person can do.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let header = (code == Code::RateLimited).then_some((header::RETRY_AFTER, RETRY_AFTER));
        Self { problem: Box::new(Problem::new(code, detail)), header }
    }

    /// Says when to try again, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: i64) -> Self {
        self.header = Some((header::RETRY_AFTER, seconds.max(1).into()));
        self
    }

    /// Says which methods there are.
    #[must_use]
    pub fn allow(mut self, methods: &'static str) -> Self {
        self.header = Some((header::ALLOW, HeaderValue::from_static(methods)));
        self
    }

    /// Which refusal it is.
    pub fn code(&self) -> Code {
        self.problem.code
    }

    /// The response as it goes out. `request_id` is the relay's.
    pub fn response(mut self, request_id: Option<&HeaderValue>) -> Response<String> {
        self.problem.request_id = request_id.and_then(|id| id.to_str().ok()).map(str::to_owned);
        let mut response = Response::new(self.problem.to_json());
        *response.status_mut() = self.problem.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::CONTENT_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.header);
        response
    }
}
