//! `/api/v1/flows`: 5-tuples at one hop.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use phalanx_engine::FlowId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::captures::PCAPNG;
use super::extract::{self, Id, Query};
use super::page::{Order, Window};
use super::problem::{Kind, Problem};
use super::select::{Ends, EndsQuery};
use super::show::{self, EndpointView, HopRef, SentView, State, TimesView};
use crate::capture::PromotedFlow;
use crate::view::{FlowEntry, View, protocol_name};

/// What to sort flows by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlowSort {
    /// When the first packet was seen.
    #[default]
    Opened,
    /// When the kernel last told of it.
    LastSeen,
    /// IP bytes of both sides.
    Bytes,
    /// Packets of both sides.
    Packets,
    /// Segments retransmitted by both sides.
    Retransmitted,
    /// Latest RTT, to the client and to the server together.
    Rtt,
    /// How long it lasts.
    Duration,
}

/// Which flows, in which order.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FlowQuery {
    /// Either end is in this address or prefix.
    #[param(example = "10.0.0.0/8")]
    address: Option<String>,
    /// The client is in this address or prefix.
    client: Option<String>,
    /// The server is in this address or prefix.
    server: Option<String>,
    /// Either end has this port.
    port: Option<u16>,
    /// Protocol by name or number.
    #[param(example = "tcp")]
    protocol: Option<String>,
    /// Name of the interface.
    interface: Option<String>,
    /// Id of the hop.
    hop: Option<String>,
    /// Id of the conversation.
    conversation: Option<String>,
    /// Open or closed ones only.
    #[param(inline)]
    state: Option<State>,
    /// What to sort by; `opened` where absent.
    #[param(inline)]
    sort: Option<FlowSort>,
    /// Which way; `desc` where absent.
    #[param(inline)]
    order: Option<Order>,
    /// How many at most; 100 where absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next` of the page before, with the same sort and order.
    cursor: Option<String>,
}

/// A flow: both directions of one 5-tuple at one hop.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FlowView {
    /// Its id, never used again while the daemon runs.
    pub id: String,
    /// The conversation that it is part of.
    pub conversation: String,
    /// Where it was seen.
    pub hop: HopRef,
    /// Protocol by name, or its number.
    pub protocol: String,
    /// Outermost VLAN id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The end that asks.
    pub client: EndpointView,
    /// The end that answers.
    pub server: EndpointView,
    /// How it was decided who is the client: `opener` (its first packet was seen), `listener`,
    /// `port`, `first_payload`, `order`.
    pub role_basis: &'static str,
    /// Open or closed.
    pub state: State,
    /// Why it ended: `fin`, `reset`, `idle`, `reused`, `hop_vanished`, `evicted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_reason: Option<&'static str>,
    /// When its first packet was seen.
    pub opened: String,
    /// When the kernel last told of it, or it ended.
    pub last_seen: String,
    /// From `opened` to `last_seen`, in seconds.
    pub duration_s: f64,
    /// What the client sent.
    pub client_sent: SentView,
    /// What the server sent.
    pub server_sent: SentView,
    /// From the hop to the client and back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_client: Option<TimesView>,
    /// From the hop to the server and back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_server: Option<TimesView>,
    /// SYN-ACK to ACK, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake_client_ms: Option<f64>,
    /// SYN to SYN-ACK, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake_server_ms: Option<f64>,
    /// Think time of the server, the path subtracted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think: Option<TimesView>,
    /// First answers of the server with the path in it, where the path is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<TimesView>,
    /// Updates of the kernel that were lost, with their samples.
    pub lost_update_count: u64,
}

/// A page of flows.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FlowPage {
    /// The flows.
    pub flows: Vec<FlowView>,
    /// Cursor of the page that follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Number of the last change in what is shown: where to join the stream.
    pub sequence: u64,
}

/// The ids that a flow must have.
struct Ids {
    hop: Option<u64>,
    conversation: Option<u64>,
}

impl FlowQuery {
    fn ends(&self) -> EndsQuery<'_> {
        EndsQuery {
            address: self.address.as_deref(),
            client: self.client.as_deref(),
            server: self.server.as_deref(),
            port: self.port,
            protocol: self.protocol.as_deref(),
        }
    }

    fn ids(&self) -> Result<Ids, Problem> {
        Ok(Ids {
            hop: extract::id_parameter("hop", self.hop.as_deref())?,
            conversation: extract::id_parameter("conversation", self.conversation.as_deref())?,
        })
    }

    fn fits(&self, ends: &Ends, ids: &Ids, entry: &FlowEntry) -> bool {
        ends.fit(&entry.endpoints, entry.protocol)
            && ids.hop.is_none_or(|hop| hop == u64::from(entry.hop.0))
            && ids
                .conversation
                .is_none_or(|wanted| wanted == entry.conversation.0)
            && self
                .state
                .is_none_or(|state| state == State::of(entry.closed.is_some()))
            && self.interface.as_deref().is_none_or(|interface| {
                entry
                    .hop_facts
                    .as_ref()
                    .is_some_and(|hop| *hop.interface == *interface)
            })
    }
}

impl FlowSort {
    fn key(self, entry: &FlowEntry) -> u64 {
        match self {
            Self::Opened => entry.opened.0,
            Self::LastSeen => entry.last_seen().0,
            Self::Bytes => entry.total(|half| half.bytes),
            Self::Packets => entry.total(|half| half.packets),
            Self::Retransmitted => entry.total(|half| u64::from(half.retransmitted_packets)),
            Self::Rtt => u64::from(entry.rtt.client.last_us) + u64::from(entry.rtt.server.last_us),
            Self::Duration => entry.last_seen().since_ns(entry.opened),
        }
    }
}

/// Lists flows.
#[utoipa::path(get, path = "/api/v1/flows", tag = "traffic", params(FlowQuery),
    responses((status = 200, body = FlowPage),
        (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    Shared(api): Shared<Arc<Api>>,
    Query(query): Query<FlowQuery>,
) -> Result<Json<FlowPage>, Problem> {
    let window = Window::new(query.limit, query.cursor.as_deref(), query.order)?;
    let ends = query.ends().parse()?;
    let ids = query.ids()?;
    let sort = query.sort.unwrap_or_default();
    let view = api.outlook.view();
    let entries = view
        .flows
        .iter()
        .filter(|(_, entry)| query.fits(&ends, &ids, entry))
        .map(|(id, entry)| (id.0, sort.key(entry), entry));
    let page = window.page(entries, |id, entry| show(&api, &view, FlowId(id), entry));
    Ok(Json(FlowPage {
        flows: page.items,
        next: page.next,
        sequence: view.sequence,
    }))
}

/// Shows one flow.
#[utoipa::path(get, path = "/api/v1/flows/{id}", tag = "traffic",
    params(("id" = String, Path, description = "Id of the flow")),
    responses((status = 200, body = FlowView),
        (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn get(
    Shared(api): Shared<Arc<Api>>,
    Id(id): Id,
) -> Result<Json<FlowView>, Problem> {
    let flow = FlowId(extract::id(&id, "flow")?);
    let view = api.outlook.view();
    let entry = view.flows.get(flow).ok_or_else(|| unknown(&id))?;
    Ok(Json(show(&api, &view, flow, entry)))
}

fn unknown(id: &str) -> Problem {
    Problem::new(Kind::NotFound, format!("there is no flow {id}"))
        .field("id")
        .remedy("closed flows are forgotten after a while; /api/v1/flows lists the others")
}

/// Downloads the headers of a flow's packets since it turned sick, pcapng. It is empty where the
/// flow did not, where promotion is off, or where later packets of others took the room.
#[utoipa::path(get, path = "/api/v1/flows/{id}/packets", tag = "traffic",
    params(("id" = String, Path, description = "Id of the flow")),
    responses((status = 200, body = Vec<u8>, content_type = "application/x-pcapng"),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn packets(
    Shared(api): Shared<Arc<Api>>,
    Id(id): Id,
) -> Result<Response, Problem> {
    let flow = FlowId(extract::id(&id, "flow")?);
    let (wanted, hop) = {
        let view = api.outlook.view();
        let entry = view.flows.get(flow).ok_or_else(|| unknown(&id))?;
        let wanted = PromotedFlow {
            id: flow.0,
            hop: entry.hop,
            ends: [entry.endpoints.client, entry.endpoints.server],
            protocol: entry.protocol,
            vlan: entry.vlan,
            incarnation: entry.incarnation,
        };
        (wanted, entry.hop_facts.clone())
    };
    let file = api
        .promoted
        .pcapng(&wanted, hop.as_ref(), &api.outlook.clock);
    let file = file.map_err(|error| {
        Problem::new(
            Kind::Unavailable,
            format!("write the packets of flow {id}: {error}"),
        )
        .remedy("see the log of the daemon")
    })?;
    let mut response = file.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PCAPNG));
    let name = format!("attachment; filename=\"phalanx-flow-{id}.pcapng\"");
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

fn show(api: &Api, view: &View, id: FlowId, entry: &FlowEntry) -> FlowView {
    let clock = &api.outlook.clock;
    let services = view
        .conversations
        .get(entry.conversation)
        .map(|found| &found.services);
    let hop = HopRef {
        id: entry.hop.0.to_string(),
        interface: entry
            .hop_facts
            .as_ref()
            .map(|hop| hop.interface.to_string()),
    };
    FlowView {
        id: id.0.to_string(),
        conversation: entry.conversation.0.to_string(),
        hop,
        protocol: protocol_name(entry.protocol).into_owned(),
        vlan: (entry.vlan != 0).then_some(entry.vlan),
        client: EndpointView::new(entry.endpoints.client, services.map(|found| &*found.client)),
        server: EndpointView::new(entry.endpoints.server, services.map(|found| &*found.server)),
        role_basis: show::role_name(entry.role_basis),
        state: State::of(entry.closed.is_some()),
        close_reason: entry.closed.map(|(reason, _)| show::close_name(reason)),
        opened: show::time(clock, entry.opened),
        last_seen: show::time(clock, entry.last_seen()),
        duration_s: show::seconds(entry.last_seen().since_ns(entry.opened)),
        client_sent: SentView::from(&entry.totals.client),
        server_sent: SentView::from(&entry.totals.server),
        rtt_client: TimesView::new(&entry.rtt.client),
        rtt_server: TimesView::new(&entry.rtt.server),
        handshake_client_ms: entry.handshake_us.client.map(show::milliseconds),
        handshake_server_ms: entry.handshake_us.server.map(show::milliseconds),
        think: TimesView::new(&entry.think),
        response: TimesView::new(&entry.response),
        lost_update_count: entry.lost_update_count,
    }
}
