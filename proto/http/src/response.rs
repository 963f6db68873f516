//! What goes back: the shapes of answers that the API knows, with exactly the reference's headers.
//!
//! Most answers carry the version header; health, redirects, `OPTIONS` and the profiling pages do
//! not. `Content-Length` and `Date` are added by hyper.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_DISPOSITION, CONTENT_TYPE, LOCATION};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::Full;
use hyper::ext::ReasonPhrase;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// An answer, whole.
pub type Response = http::Response<Full<Bytes>>;

const VERSION_HEADER: HeaderName = HeaderName::from_static("x-nsq-content-type");
const VERSION: HeaderValue = HeaderValue::from_static("nsq; version=1.0");
const SNIFF_HEADER: HeaderName = HeaderName::from_static("x-content-type-options");
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
const PROFILE_FILE: HeaderValue = HeaderValue::from_static("attachment; filename=\"profile\"");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// What stands unescaped in the path of a URL.
const ESCAPED_IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// A refusal: its status, and the code in its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiError {
    /// The status.
    pub status: StatusCode,
    /// The code, a word that needs no escape in JSON.
    pub code: &'static str,
}

#[expect(missing_docs, reason = "named after their codes")]
impl ApiError {
    pub const INVALID_REQUEST: Self = Self::bad_request("INVALID_REQUEST");
    pub const MISSING_ARG_TOPIC: Self = Self::bad_request("MISSING_ARG_TOPIC");
    pub const MISSING_ARG_CHANNEL: Self = Self::bad_request("MISSING_ARG_CHANNEL");
    /// What topic endpoints and publishing say of a bad name.
    pub const INVALID_TOPIC: Self = Self::bad_request("INVALID_TOPIC");
    /// What channel endpoints say of a bad topic name.
    pub const INVALID_ARG_TOPIC: Self = Self::bad_request("INVALID_ARG_TOPIC");
    pub const INVALID_ARG_CHANNEL: Self = Self::bad_request("INVALID_ARG_CHANNEL");
    pub const INVALID_DEFER: Self = Self::bad_request("INVALID_DEFER");
    pub const INVALID_SYNC: Self = Self::bad_request("INVALID_SYNC");
    pub const INVALID_OPTION: Self = Self::bad_request("INVALID_OPTION");
    pub const MSG_EMPTY: Self = Self::bad_request("MSG_EMPTY");
    pub const NOT_FOUND: Self = Self::not_found("NOT_FOUND");
    pub const TOPIC_NOT_FOUND: Self = Self::not_found("TOPIC_NOT_FOUND");
    pub const CHANNEL_NOT_FOUND: Self = Self::not_found("CHANNEL_NOT_FOUND");
    pub const MSG_TOO_BIG: Self = Self::too_large("MSG_TOO_BIG");
    pub const BODY_TOO_BIG: Self = Self::too_large("BODY_TOO_BIG");
    pub const BAD_BODY: Self = Self::too_large("BAD_BODY");
    pub const BAD_MESSAGE: Self = Self::too_large("BAD_MESSAGE");
    /// A new value of an option that is empty or too long: 413, where a wrong one is a 400.
    pub const VALUE_TOO_BIG: Self = Self::too_large("INVALID_VALUE");
    pub const METHOD_NOT_ALLOWED: Self = Self {
        status: StatusCode::METHOD_NOT_ALLOWED,
        code: "METHOD_NOT_ALLOWED",
    };
    pub const INTERNAL_ERROR: Self = Self {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        code: "INTERNAL_ERROR",
    };
    pub const EXITING: Self = Self {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: "EXITING",
    };
}

impl ApiError {
    /// 400 with a code.
    #[must_use]
    pub const fn bad_request(code: &'static str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code,
        }
    }

    const fn not_found(code: &'static str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            code,
        }
    }

    const fn too_large(code: &'static str) -> Self {
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            code,
        }
    }

    /// The answer that says so.
    pub fn into_response(self) -> Response {
        let mut response = json(format!(r#"{{"message":"{}"}}"#, self.code));
        *response.status_mut() = self.status;
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            // The reference's words differ from the registry's.
            let words = ReasonPhrase::from_static(b"Request Entity Too Large");
            response.extensions_mut().insert(words);
        }
        response
    }
}

/// 200 without a body.
pub fn empty() -> Response {
    let mut response = Response::default();
    response.headers_mut().insert(VERSION_HEADER, VERSION);
    response
}

/// 200 with a text.
pub fn text(body: impl Into<Bytes>) -> Response {
    typed(StatusCode::OK, TEXT, body).versioned()
}

/// 200 with JSON.
pub fn json(body: impl Into<Bytes>) -> Response {
    typed(StatusCode::OK, JSON, body).versioned()
}

/// A text outside the versioned API.
pub fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response {
    typed(status, TEXT, body)
}

/// A text of the profiling pages, which browsers must not take for something else.
pub fn profiling_text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    typed(status, TEXT, body).no_sniff()
}

/// A profile, to be kept as a file.
#[must_use]
pub fn profile(body: Bytes) -> Response {
    let mut response = typed(StatusCode::OK, BYTES, body).no_sniff();
    response
        .headers_mut()
        .insert(CONTENT_DISPOSITION, PROFILE_FILE);
    response
}

/// A page of the profiling pages.
pub fn profiling_page(body: impl Into<Bytes>) -> Response {
    typed(StatusCode::OK, HTML, body).no_sniff()
}

/// 400 to what is not an HTTP request that can be routed; closes the connection.
pub fn malformed(body: &'static str) -> Response {
    let mut response = plain(StatusCode::BAD_REQUEST, body);
    close(&mut response);
    response
}

/// 405, with the methods that are allowed.
pub fn method_not_allowed(allow: &str) -> Response {
    with_allow(ApiError::METHOD_NOT_ALLOWED.into_response(), allow)
}

/// The answer to `OPTIONS`.
pub fn options(allow: &str) -> Response {
    with_allow(Response::default(), allow)
}

/// Sends the client elsewhere: 301 for `GET`, else 308, which keeps method and body.
pub fn redirect(method: &Method, location: &str) -> Response {
    let Ok(target) = HeaderValue::from_str(location) else {
        return ApiError::NOT_FOUND.into_response();
    };
    let mut response = if *method == Method::GET {
        let link = format!(
            "<a href=\"{}\">Moved Permanently</a>.\n\n",
            escape_html(location)
        );
        typed(StatusCode::MOVED_PERMANENTLY, HTML, link)
    } else {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        response
    };
    response.headers_mut().insert(LOCATION, target);
    response
}

/// The target of a redirect: a decoded path, and the query as it came.
#[must_use]
pub fn location(path: &str, query: Option<&str>) -> String {
    let path = utf8_percent_encode(path, ESCAPED_IN_PATHS);
    query.map_or_else(|| path.to_string(), |query| format!("{path}?{query}"))
}

/// Makes this answer the last one on its connection.
pub fn close(response: &mut Response) {
    response.headers_mut().insert(CONNECTION, CLOSE);
}

fn typed(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn with_allow(mut response: Response, allow: &str) -> Response {
    let allow = HeaderValue::from_str(allow).expect("method names are header text");
    response.headers_mut().insert(ALLOW, allow);
    response
}

trait Headers {
    fn versioned(self) -> Self;
    fn no_sniff(self) -> Self;
}

impl Headers for Response {
    fn versioned(mut self) -> Self {
        self.headers_mut().insert(VERSION_HEADER, VERSION);
        self
    }

    fn no_sniff(mut self) -> Self {
        self.headers_mut().insert(SNIFF_HEADER, NO_SNIFF);
        self
    }
}

/// Go's `html.EscapeString`.
fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_of_get_links_and_of_others_does_not() {
        let moved = redirect(&Method::GET, "/ping?a=<b>&c=d");
        assert_eq!(moved.status(), 301);
        assert_eq!(moved.headers()["location"], "/ping?a=<b>&c=d");
        let post = redirect(&Method::POST, "/pub");
        assert_eq!(post.status(), 308);
        assert!(post.headers().get("content-type").is_none());
    }

    #[test]
    fn html_is_escaped() {
        assert_eq!(escape_html("<a&\"'>"), "&lt;a&amp;&#34;&#39;&gt;");
    }
}
