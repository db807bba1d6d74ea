//! `/api/v1/pairs`: which services talk to which.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use phalanx_engine::{PairId, Quantiles};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::extract::Query;
use super::page::{Order, Window};
use super::problem::Problem;
use super::select;
use super::show::{self, QuantilesView, SentView};
use crate::view::{PairEntry, protocol_name};

/// What to sort pairs by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairSort {
    /// IP bytes of both sides.
    #[default]
    Bytes,
    /// Segments retransmitted by both sides.
    Retransmitted,
    /// Attempts to connect that failed.
    Failed,
    /// When it last changed.
    Changed,
}

/// Which pairs, in which order.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PairQuery {
    /// Name of the client's service.
    client: Option<String>,
    /// Name of the server's service.
    server: Option<String>,
    /// Port of the server.
    port: Option<u16>,
    /// Protocol by name or number.
    protocol: Option<String>,
    /// What to sort by; `bytes` where absent.
    #[param(inline)]
    sort: Option<PairSort>,
    /// Which way; `desc` where absent.
    #[param(inline)]
    order: Option<Order>,
    /// How many at most; 100 where absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next` of the page before, with the same sort and order.
    cursor: Option<String>,
}

/// A service pair.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PairView {
    /// Its id.
    pub id: String,
    /// Service of the client; its address where no name is known.
    pub client: String,
    /// Service of the server; its address where no name is known.
    pub server: String,
    /// Port of the server.
    pub port: u16,
    /// Protocol by name, or its number.
    pub protocol: String,
    /// When it last changed.
    pub changed: String,
    /// Conversations that are open.
    pub conversations_open: u64,
    /// Conversations opened so far.
    pub conversations_opened: u64,
    /// Attempts to connect that failed so far.
    pub attempts_failed: u64,
    /// What the client sent.
    pub client_sent: SentView,
    /// What the server sent.
    pub server_sent: SentView,
    /// To the client and back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_client: Option<QuantilesView>,
    /// To the server and back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_server: Option<QuantilesView>,
    /// The client's part of handshakes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake_client: Option<QuantilesView>,
    /// The server's part of handshakes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake_server: Option<QuantilesView>,
    /// Think time of the server; with the path in it where the path is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think: Option<QuantilesView>,
}

/// A page of pairs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PairPage {
    /// The pairs.
    pub pairs: Vec<PairView>,
    /// Cursor of the page that follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Number of the last change in what is shown: where to join the stream.
    pub sequence: u64,
}

impl PairSort {
    const fn key(self, entry: &PairEntry) -> u64 {
        let (client, server) = (&entry.totals.client, &entry.totals.server);
        match self {
            Self::Bytes => client.bytes.saturating_add(server.bytes),
            Self::Retransmitted => client
                .retransmitted_packets
                .saturating_add(server.retransmitted_packets),
            Self::Failed => entry.attempt_failed_count,
            Self::Changed => entry.changed.0,
        }
    }
}

/// Lists service pairs.
#[utoipa::path(get, path = "/api/v1/pairs", tag = "traffic", params(PairQuery),
    responses((status = 200, body = PairPage),
        (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    Shared(api): Shared<Arc<Api>>,
    Query(query): Query<PairQuery>,
) -> Result<Json<PairPage>, Problem> {
    let window = Window::new(query.limit, query.cursor.as_deref(), query.order)?;
    let protocol = query
        .protocol
        .as_deref()
        .map(select::protocol)
        .transpose()?;
    let sort = query.sort.unwrap_or_default();
    let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|it| it == name);
    let view = api.outlook.view();
    let entries = view
        .pairs
        .iter()
        .filter(|(_, entry)| {
            is(&query.client, &entry.key.client)
                && is(&query.server, &entry.key.server)
                && query.port.is_none_or(|port| port == entry.key.port)
                && protocol.is_none_or(|protocol| protocol == entry.key.protocol)
        })
        .map(|(id, entry)| (u64::from(id.0), sort.key(entry), (id, entry)));
    let page = window.page(entries, |_, (id, entry)| show(&api, id, entry));
    Ok(Json(PairPage {
        pairs: page.items,
        next: page.next,
        sequence: view.sequence,
    }))
}

fn show(api: &Api, id: PairId, entry: &PairEntry) -> PairView {
    let summary = &entry.summary;
    let times = |quantiles: &Option<Quantiles>| quantiles.as_ref().map(QuantilesView::new);
    PairView {
        id: id.0.to_string(),
        client: entry.key.client.to_string(),
        server: entry.key.server.to_string(),
        port: entry.key.port,
        protocol: protocol_name(entry.key.protocol).into_owned(),
        changed: show::time(&api.outlook.clock, entry.changed),
        conversations_open: summary.conversations_open,
        conversations_opened: summary.conversations_opened,
        attempts_failed: entry.attempt_failed_count,
        client_sent: SentView::from(&entry.totals.client),
        server_sent: SentView::from(&entry.totals.server),
        rtt_client: times(&summary.rtt.client),
        rtt_server: times(&summary.rtt.server),
        handshake_client: times(&summary.handshake.client),
        handshake_server: times(&summary.handshake.server),
        think: times(&summary.think),
    }
}
