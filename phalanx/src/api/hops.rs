//! `/api/v1/hops`: where is observed, and how.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use phalanx_engine::Link;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::problem::Problem;
use crate::daemon::{HopState, HopStatus};
use crate::metrics::state_name;
use crate::view::HopEntry;

/// A hop: one interface of one network namespace of one host.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct HopView {
    /// Its id; absent where nothing is attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Name of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The network namespace: `own`, or as the user named it.
    pub namespace: String,
    /// Name of the interface.
    pub interface: String,
    /// Index of the interface in its namespace.
    pub ifindex: u32,
    /// What frames begin with: `ethernet`, `ip`, `loopback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<&'static str>,
    /// How packets in are seen: `xdp`, `xdp-generic`, `tcx`, `clsact`; empty: not at all.
    pub ingress: String,
    /// How packets out are seen: `tcx`, `clsact`; empty: not at all.
    pub egress: String,
    /// `running`; `quiet`: attached, no packet yet; `blind`: the interface counts packets but the
    /// programs do not see any; `failed`: nothing is attached.
    pub state: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Why this interface, and why these hooks.
    pub reason: String,
}

/// All hops.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HopList {
    /// The hops.
    pub hops: Vec<HopView>,
}

/// Lists the hops.
#[utoipa::path(get, path = "/api/v1/hops", tag = "daemon",
    responses((status = 200, body = HopList),
        (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(Shared(api): Shared<Arc<Api>>) -> Json<HopList> {
    let kernel = api.outlook.kernel();
    let view = api.outlook.view();
    let told = kernel.iter().flat_map(|kernel| &kernel.hops);
    let mut hops: Vec<HopView> = told
        .clone()
        .map(|status| show(status, status.hop.and_then(|hop| view.hops.get(hop))))
        .collect();
    let untold = view
        .hops
        .iter()
        .filter(|(id, _)| told.clone().all(|known| known.hop != Some(*id)));
    hops.extend(untold.map(|(_, entry)| show_untold(entry)));
    Json(HopList { hops })
}

fn show(status: &HopStatus, entry: Option<&HopEntry>) -> HopView {
    let failure = match &status.state {
        HopState::Failed(why) => Some(why.clone()),
        HopState::Quiet | HopState::Running | HopState::Blind => None,
    };
    HopView {
        id: status.hop.map(|hop| hop.0.to_string()),
        host: entry.map(|entry| entry.facts.host.to_string()),
        namespace: status.namespace.clone(),
        interface: status.interface.clone(),
        ifindex: status.ifindex,
        link: entry.map(|entry| link_name(entry.facts.link)),
        ingress: status.ingress.clone(),
        egress: status.egress.clone(),
        state: state_name(&status.state),
        failure,
        reason: status.reason.clone(),
    }
}

/// A hop that the engine knows and the daemon has not told the state of yet.
fn show_untold(entry: &HopEntry) -> HopView {
    let hop = &entry.facts;
    HopView {
        id: Some(hop.id.0.to_string()),
        host: Some(hop.host.to_string()),
        namespace: hop.namespace_name.as_deref().unwrap_or("own").to_owned(),
        interface: hop.interface.to_string(),
        ifindex: hop.ifindex,
        link: Some(link_name(hop.link)),
        state: "quiet",
        ..HopView::default()
    }
}

const fn link_name(link: Link) -> &'static str {
    match link {
        Link::Ethernet => "ethernet",
        Link::Ip => "ip",
        Link::Loopback => "loopback",
    }
}
