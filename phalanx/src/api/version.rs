//! `/api/v1/version`.

use axum::Json;
use phalanx_common::abi::ABI_VERSION;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;

/// What is running.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Version {
    /// The version of Phalanx.
    version: &'static str,
    /// The version of the API; raised by a change that breaks clients.
    api: u32,
    /// The version of the contract with the kernel programs.
    kernel_abi: u32,
}

/// The version in words for `--version` and metrics.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is running.
#[utoipa::path(get, path = "/api/v1/version", tag = "daemon",
    responses((status = 200, body = Version),
        (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn version() -> Json<Version> {
    Json(Version {
        version: VERSION,
        api: 1,
        kernel_abi: ABI_VERSION,
    })
}
