//! Extractors whose rejections are [`Problem`]s with the field that is to blame.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::problem::{Kind, Problem};

/// Largest body of a request in bytes: a capture request with the longest filter, each byte of it
/// escaped, is 26 KiB.
pub const BODY_SIZE_MAX: usize = 32 << 10;

/// Longest time in which a body must have come.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest query of a request in bytes.
pub const QUERY_LENGTH_MAX: usize = 2 << 10;

/// The parameters of the query.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let text = parts.uri.query().unwrap_or_default();
        if text.len() > QUERY_LENGTH_MAX {
            return Err(Problem::new(
                Kind::QueryTooLong,
                format!(
                    "the query has {} bytes, the most is {QUERY_LENGTH_MAX}",
                    text.len()
                ),
            )
            .remedy("ask for less at once"));
        }
        let pairs = form_pairs(text);
        serde_path_to_error::deserialize(pairs)
            .map(Self)
            .map_err(|error| {
                let field = error.path().to_string();
                let detail = error.into_inner().to_string();
                let problem = Problem::new(Kind::Malformed, describe(&field, &detail))
                    .remedy("see /api/openapi.json for the parameters of this resource");
                named(problem, &field, &detail)
            })
    }
}

fn form_pairs(text: &str) -> serde_urlencoded::Deserializer<'_> {
    serde_urlencoded::Deserializer::new(form_urlencoded::parse(text.as_bytes()))
}

/// A body in JSON.
#[derive(Clone, Copy, Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media_type = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        if !media_type.is_some_and(is_json) {
            return Err(Problem::new(
                Kind::UnsupportedMediaType,
                format!("content-type is {}", media_type.unwrap_or("absent")),
            )
            .field("content-type")
            .remedy("send content-type: application/json"));
        }
        let bytes = read(request).await?;
        let mut deserializer = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let field = error.path().to_string();
            let detail = error.into_inner().to_string();
            let problem = Problem::new(Kind::Malformed, describe(&field, &detail))
                .remedy("see /api/openapi.json for the body of this request");
            named(problem, &field, &detail)
        })?;
        deserializer.end().map_err(|error| {
            Problem::new(Kind::Malformed, error.to_string()).remedy("send one JSON object")
        })?;
        Ok(Self(value))
    }
}

fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

async fn read(request: Request) -> Result<Bytes, Problem> {
    let body = Limited::new(request.into_body(), BODY_SIZE_MAX);
    let collected = tokio::time::timeout(BODY_TIMEOUT, body.collect()).await;
    let collected = collected.map_err(|_| {
        Problem::new(
            Kind::TooSlow,
            format!("the body did not come within {BODY_TIMEOUT:?}"),
        )
        .remedy("send it at once")
    })?;
    collected.map(|body| body.to_bytes()).map_err(|error| {
        if error.is::<LengthLimitError>() {
            Problem::new(
                Kind::BodyTooLarge,
                format!("the most is {BODY_SIZE_MAX} bytes"),
            )
            .remedy("send a smaller body")
        } else {
            Problem::new(Kind::Malformed, format!("the body broke off: {error}"))
        }
    })
}

/// Whether a path names a field: it is `.` for the whole and `?` where the text broke off.
fn is_named(path: &str) -> bool {
    !path.is_empty() && path != "." && !path.contains('?')
}

/// What a deserializer said, with the field before it where it did not say which.
fn describe(field: &str, detail: &str) -> String {
    if !is_named(field) || detail.contains(field) {
        detail.to_owned()
    } else {
        format!("{field}: {detail}")
    }
}

/// Names the field: where the path ends at the whole, serde's message quotes it in backticks
/// ("missing field `filter`", "unknown field `x`").
fn named(problem: Problem, path: &str, detail: &str) -> Problem {
    if is_named(path) {
        return problem.field(path);
    }
    let quoted = detail
        .contains("field `")
        .then(|| detail.split('`').nth(1))
        .flatten();
    match quoted {
        Some(name) => problem.field(name),
        None => problem,
    }
}

/// The id at the end of a path.
#[derive(Clone, Debug)]
pub struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(id)| Self(id)).map_err(|rejection| {
            Problem::new(Kind::Malformed, rejection.body_text())
                .field("id")
                .remedy("the lists have the ids")
        })
    }
}

/// An id that is a number.
///
/// # Errors
/// It is not: such an id names nothing.
pub fn id(text: &str, noun: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| {
        Problem::new(Kind::NotFound, format!("there is no {noun} {text}"))
            .field("id")
            .remedy("ids are numbers; the list has them")
    })
}

/// An id among the parameters of the query.
///
/// # Errors
/// It is no number.
pub fn id_parameter(field: &'static str, text: Option<&str>) -> Result<Option<u64>, Problem> {
    let parse = |text: &str| {
        text.parse().map_err(|_| {
            let detail = format!("{text:?} is no id");
            Problem::invalid(field, detail, "ids are numbers; the lists have them")
        })
    };
    text.map(parse).transpose()
}
