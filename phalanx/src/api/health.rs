//! `/healthz` and `/readyz`: for supervisors; no token is needed.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::problem::{Kind, Problem};

/// How the daemon is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`.
    status: &'static str,
}

const OK: Health = Health { status: "ok" };

/// Whether the daemon answers.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()),
    responses((status = 200, body = Health)))]
pub(super) async fn healthz() -> Json<Health> {
    Json(OK)
}

/// Whether the daemon has attached to its interfaces and counts.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, body = Health),
        (status = 503, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Result<Json<Health>, Problem> {
    if api.is_ready() {
        return Ok(Json(OK));
    }
    Err(Problem::new(
        Kind::Unavailable,
        "the daemon has not attached to its interfaces yet",
    )
    .remedy("wait, or see the log and phalanx doctor"))
}
