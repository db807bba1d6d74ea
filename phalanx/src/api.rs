//! The HTTP API: one router over the views, the metrics and the captures, with one file for each
//! resource. It reads what was folded from the engine's changes, never the engine itself.
//!
//! **Invariant:** each error, whoever finds it, is a [`problem::Problem`]. Deliberately absent:
//! CORS (no foreign page may read this API) and cookies.

pub mod agents;
pub mod captures;
mod change;
pub mod client;
pub mod conversations;
pub mod extract;
#[cfg(test)]
pub(crate) mod fixture;
pub mod flows;
pub mod gate;
pub mod health;
pub mod hops;
pub mod index;
pub mod metrics;
pub mod page;
pub mod pairs;
pub mod problem;
pub(crate) mod recorder;
mod redacted;
mod select;
pub mod serve;
pub mod service;
pub mod show;
pub mod status;
pub mod stream;
pub mod version;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::recorder::Recorder;
use crate::auth::{Access, Role};
use crate::capture::PromotedPackets;
use crate::view::Outlook;

/// What the handlers share.
#[derive(Debug)]
pub struct Api {
    /// Who may do what.
    pub access: Access,
    /// Whether the API listens on loopback only: then `Host` must name loopback.
    pub is_loopback: bool,
    /// Places for readers of the stream.
    pub stream_places: stream::Places,
    /// The captures; or why none can be kept.
    pub(crate) captures: Result<Recorder, String>,
    /// The packets of promoted flows.
    pub promoted: Arc<PromotedPackets>,
    /// What is shown.
    pub outlook: Arc<Outlook>,
}

impl Api {
    /// Whether the daemon has attached: its kernel side has told of itself.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.outlook.kernel().is_some()
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Phalanx",
        description = "What one host sees of its network: flows, conversations, service pairs, \
            captures. All times are RFC 3339 in UTC; durations are in seconds, rates in units \
            per second, sizes in bytes.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        contact(),
        version = "1"
    ),
    components(schemas(problem::Problem)),
    modifiers(&BearerToken)
)]
struct Document;

struct BearerToken;

impl utoipa::Modify for BearerToken {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{
            Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
        };
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", scheme);
        document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(
            "token",
            [],
        )]);
    }
}

/// The routes by the role that they need, with their documentation.
fn routes(api: &Arc<Api>) -> (Router<Arc<Api>>, utoipa::openapi::OpenApi) {
    let open = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz));
    let viewer = OpenApiRouter::new()
        .routes(routes!(metrics::get))
        .routes(routes!(version::version))
        .routes(routes!(status::get))
        .routes(routes!(agents::list))
        .routes(routes!(hops::list))
        .routes(routes!(flows::list))
        .routes(routes!(flows::get))
        .routes(routes!(conversations::list))
        .routes(routes!(conversations::get))
        .routes(routes!(pairs::list))
        .routes(routes!(stream::follow))
        .routes(routes!(captures::list))
        .routes(routes!(captures::get));
    let operator = OpenApiRouter::new()
        .routes(routes!(captures::create))
        .routes(routes!(captures::stop))
        .routes(routes!(captures::delete))
        .routes(routes!(captures::file))
        .routes(routes!(captures::report))
        .routes(routes!(flows::packets));
    open.merge(gate::guard(viewer, api, Role::Viewer))
        .merge(gate::guard(operator, api, Role::Operator))
        .split_for_parts()
}

/// The OpenAPI document, as it is served and checked in.
#[must_use]
pub fn document(api: &Arc<Api>) -> utoipa::openapi::OpenApi {
    routes(api).1
}

/// The whole of what is served.
pub fn router(api: &Arc<Api>) -> Router {
    let (router, document) = routes(api);
    let document = Arc::new(document);
    let pages = Router::new().route("/", get(index::page)).route(
        "/api/openapi.json",
        get(move || serve_document(Arc::clone(&document))),
    );
    router
        .merge(pages)
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::map_response_with_state(Arc::clone(api), finish))
        .layer(middleware::from_fn_with_state(
            Arc::clone(api),
            gate::check_origin,
        ))
        .with_state(Arc::clone(api))
}

async fn serve_document(document: Arc<utoipa::openapi::OpenApi>) -> Response {
    axum::Json(&*document).into_response()
}

/// Counts the answer, and adds headers that keep browsers from guessing, framing and caching.
async fn finish(State(api): State<Arc<Api>>, mut response: Response) -> Response {
    let class = match response.status().as_u16() {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    api.outlook
        .metrics
        .daemon()
        .http_requests
        .with_label_values(&[class])
        .inc();
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A report runs a script, in a world of its own.
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ));
    headers.insert(
        HeaderName::from_static("referrer-policy"),
        HeaderValue::from_static("no-referrer"),
    );
    response
}

#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod tests;
