//! `/metrics`: for Prometheus.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::problem::{Kind, Problem};

/// The metrics in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "metrics",
    responses((status = 200, body = String, content_type = "text/plain"),
        (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn get(Shared(api): Shared<Arc<Api>>) -> Result<Response, Problem> {
    let text = api
        .outlook
        .metrics
        .text()
        .map_err(|error| Problem::new(Kind::Internal, format!("write the metrics: {error}")))?;
    Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}
