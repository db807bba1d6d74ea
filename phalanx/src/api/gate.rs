//! Who is let in: the checks of `Host` and `Origin`, and of the bearer token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};

use utoipa_axum::router::OpenApiRouter;

use super::Api;
use super::problem::{Kind, Problem};
use crate::auth::{Refusal, Role, is_loopback_host, is_same_origin};

/// Lets in who has at least `role`, and leaves the role with the request.
pub(super) fn guard(
    router: OpenApiRouter<Arc<Api>>,
    api: &Arc<Api>,
    role: Role,
) -> OpenApiRouter<Arc<Api>> {
    router.route_layer(from_fn_with_state((Arc::clone(api), role), check_role))
}

async fn check_role(
    State((api, needed)): State<(Arc<Api>, Role)>,
    mut request: Request,
    next: Next,
) -> Response {
    match authorize(&api, &request, needed) {
        Ok(role) => {
            request.extensions_mut().insert(role);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn authorize(api: &Api, request: &Request, needed: Role) -> Result<Role, Problem> {
    let role = api
        .access
        .role(text(request, &AUTHORIZATION))
        .map_err(|refusal| {
            let detail = match refusal {
                Refusal::Missing => "there is no authorization: Bearer TOKEN header",
                Refusal::Unknown => "the token is not known",
            };
            Problem::new(Kind::Unauthenticated, detail)
                .field("authorization")
                .remedy("send a token that the setting tokens names")
        })?;
    need(role, needed)
}

/// Checks that a role suffices, and gives it back.
///
/// # Errors
/// It does not.
pub fn need(role: Role, needed: Role) -> Result<Role, Problem> {
    if role >= needed {
        return Ok(role);
    }
    Err(Problem::new(
        Kind::Forbidden,
        format!("this needs the role {needed}, not {role}"),
    )
    .remedy(format!(
        "use a token with the role {needed}, or set local_role"
    )))
}

fn text<'a>(request: &'a Request, name: &HeaderName) -> Option<&'a str> {
    request
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
}

/// Turns away what a foreign page makes a browser send: names rebound to loopback, requests and
/// WebSockets across origins (no CORS rule holds for those).
pub(super) async fn check_origin(
    State(api): State<Arc<Api>>,
    request: Request,
    next: Next,
) -> Response {
    let host = text(&request, &HOST)
        .or_else(|| {
            request
                .uri()
                .authority()
                .map(axum::http::uri::Authority::as_str)
        })
        .unwrap_or_default();
    if api.is_loopback && !is_loopback_host(host) {
        return Problem::new(
            Kind::ForeignOrigin,
            format!("the host header says {host:?}"),
        )
        .field("host")
        .remedy("use http://127.0.0.1 or http://localhost")
        .into_response();
    }
    if let Some(origin) = request.headers().get(ORIGIN)
        && !origin
            .to_str()
            .is_ok_and(|origin| is_same_origin(origin, host))
    {
        return Problem::new(Kind::ForeignOrigin, "the origin header names another site")
            .field("origin")
            .remedy("use the API from its own pages or from outside a browser")
            .into_response();
    }
    next.run(request).await
}
