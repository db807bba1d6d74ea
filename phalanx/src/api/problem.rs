//! A [`Problem`] (RFC 9457): the one shape of every error that the API answers with.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Longest detail in characters: what a client sent is quoted in it, and may be hostile.
const DETAIL_LENGTH_MAX: usize = 512;

/// What went wrong with a request, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "urn:phalanx:problem:invalid_value", "title": "A value is not acceptable",
    "status": 422, "detail": "limit is 5000, the most is 1000", "field": "limit",
    "remedy": "ask for at most 1000 and follow next"}))]
pub struct Problem {
    /// Names the kind of problem; does not change between versions.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The kind of problem in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// The field of the body, parameter of the query or header that is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Where in `field` the trouble begins, in bytes from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
}

/// The kinds of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The body or the query cannot be read at all.
    Malformed,
    /// The body took too long.
    TooSlow,
    /// A field has a value that is not acceptable.
    InvalidValue,
    /// A credential is missing or unknown.
    Unauthenticated,
    /// The role does not suffice.
    Forbidden,
    /// The request came by a name or from a page that is not this daemon's.
    ForeignOrigin,
    /// Nothing has this address or id.
    NotFound,
    /// The resource has no such method.
    MethodNotAllowed,
    /// What is asked for does not fit the state of the resource.
    Conflict,
    /// The body is beyond its limit.
    BodyTooLarge,
    /// The query is beyond its limit.
    QueryTooLong,
    /// The body is not JSON.
    UnsupportedMediaType,
    /// The request needs an upgrade to WebSocket.
    UpgradeRequired,
    /// A limit on what may run or be kept at once is reached.
    LimitReached,
    /// The disk has no room.
    DiskFull,
    /// The daemon cannot do this now.
    Unavailable,
    /// A fault of the daemon.
    Internal,
}

impl Kind {
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Malformed => (
                StatusCode::BAD_REQUEST,
                "urn:phalanx:problem:malformed",
                "The request cannot be understood",
            ),
            Self::InvalidValue => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "urn:phalanx:problem:invalid_value",
                "A value is not acceptable",
            ),
            Self::Unauthenticated => (
                StatusCode::UNAUTHORIZED,
                "urn:phalanx:problem:unauthenticated",
                "A bearer token is needed",
            ),
            Self::Forbidden => (
                StatusCode::FORBIDDEN,
                "urn:phalanx:problem:forbidden",
                "The role does not suffice",
            ),
            Self::ForeignOrigin => (
                StatusCode::FORBIDDEN,
                "urn:phalanx:problem:foreign_origin",
                "The request comes from elsewhere",
            ),
            Self::TooSlow => (
                StatusCode::REQUEST_TIMEOUT,
                "urn:phalanx:problem:too_slow",
                "The request took too long",
            ),
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "urn:phalanx:problem:not_found",
                "There is nothing here",
            ),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "urn:phalanx:problem:method_not_allowed",
                "The resource has no such method",
            ),
            Self::Conflict => (
                StatusCode::CONFLICT,
                "urn:phalanx:problem:conflict",
                "The state does not allow this",
            ),
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "urn:phalanx:problem:body_too_large",
                "The body is too large",
            ),
            Self::QueryTooLong => (
                StatusCode::URI_TOO_LONG,
                "urn:phalanx:problem:query_too_long",
                "The query is too long",
            ),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "urn:phalanx:problem:unsupported_media_type",
                "The body must be JSON",
            ),
            Self::UpgradeRequired => (
                StatusCode::UPGRADE_REQUIRED,
                "urn:phalanx:problem:upgrade_required",
                "The resource is a WebSocket",
            ),
            Self::LimitReached => (
                StatusCode::TOO_MANY_REQUESTS,
                "urn:phalanx:problem:limit_reached",
                "A limit is reached",
            ),
            Self::DiskFull => (
                StatusCode::INSUFFICIENT_STORAGE,
                "urn:phalanx:problem:disk_full",
                "There is no room on the disk",
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "urn:phalanx:problem:unavailable",
                "This cannot be done now",
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "urn:phalanx:problem:internal",
                "The daemon has a fault",
            ),
        }
    }
}

impl Problem {
    /// A problem of a kind; `detail` says what happened this time.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let (status, name, title) = kind.parts();
        let mut detail: String = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(DETAIL_LENGTH_MAX) {
            detail.truncate(end);
            detail.push('…');
        }
        Self {
            kind: name,
            title,
            status: status.as_u16(),
            detail,
            field: None,
            remedy: None,
            position: None,
        }
    }

    /// Names the field that is to blame.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Says where in the field the trouble begins.
    #[must_use]
    pub const fn at(mut self, position: u32) -> Self {
        self.position = Some(position);
        self
    }

    /// A value that is not acceptable.
    pub fn invalid(
        field: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Kind::InvalidValue, detail)
            .field(field)
            .remedy(remedy)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The answer to an address that names nothing.
pub async fn not_found(uri: Uri) -> Problem {
    Problem::new(Kind::NotFound, format!("no resource at {}", uri.path()))
        .remedy("see /api/openapi.json for what there is")
}

/// The answer to a method that the resource does not have.
pub async fn method_not_allowed(uri: Uri) -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        format!("{} does not take this method", uri.path()),
    )
    .remedy("the Allow header names the methods it takes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_detail_is_cut_at_a_character() {
        let problem = Problem::new(Kind::Malformed, "ü".repeat(10_000));
        assert_eq!(problem.detail.chars().count(), DETAIL_LENGTH_MAX + 1);
        assert!(problem.detail.ends_with("ü…"));
    }

    #[test]
    fn a_challenge_comes_with_a_missing_token() {
        let response = Problem::new(Kind::Unauthenticated, "no token").into_response();
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
        assert_eq!(response.headers()[CONTENT_TYPE], MEDIA_TYPE);
    }
}
