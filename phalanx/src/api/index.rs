//! The page at `/`: links, without scripts.

use axum::response::Html;

const PAGE: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<title>Phalanx</title>
<style>body{font:16px/1.6 system-ui,sans-serif;max-width:40em;margin:3em auto;padding:0 1em}</style>
<h1>Phalanx</h1>
<p>What this host sees of its network.</p>
<ul>
<li><a href=\"/metrics\">/metrics</a>: for Prometheus</li>
<li><a href=\"/api/v1/status\">/api/v1/status</a>: the daemon and its losses</li>
<li><a href=\"/api/v1/hops\">/api/v1/hops</a>: where it observes</li>
<li><a href=\"/api/v1/pairs\">/api/v1/pairs</a>: which services talk to which</li>
<li><a href=\"/api/v1/conversations\">/api/v1/conversations</a>: exchanges end to end</li>
<li><a href=\"/api/v1/flows\">/api/v1/flows</a>: 5-tuples at one interface</li>
<li><a href=\"/api/v1/captures\">/api/v1/captures</a>: recording jobs and their files</li>
<li><a href=\"/api/openapi.json\">/api/openapi.json</a>: all of the API</li>
<li><a href=\"/healthz\">/healthz</a>, <a href=\"/readyz\">/readyz</a>: for supervisors</li>
</ul>
</html>
";

pub(super) async fn page() -> Html<&'static str> {
    Html(PAGE)
}
