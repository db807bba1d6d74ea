//! `/api/v1/conversations`: exchanges end to end.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use phalanx_engine::{ConversationId, Endpoint, Features, Sides};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::extract::{self, Id, Query};
use super::page::{Order, Window};
use super::problem::{Kind, Problem};
use super::select::{Ends, EndsQuery};
use super::show::{self, EndpointView, HopRef, State};
use crate::view::{ConversationEntry, TranslationEntry, View, protocol_name};

/// What to sort conversations by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConversationSort {
    /// When the first packet was seen.
    #[default]
    Opened,
    /// When it last changed.
    Changed,
}

/// Which conversations, in which order.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConversationQuery {
    /// Either end is in this address or prefix.
    address: Option<String>,
    /// The client is in this address or prefix.
    client: Option<String>,
    /// The server is in this address or prefix.
    server: Option<String>,
    /// Either end has this port.
    port: Option<u16>,
    /// Protocol by name or number.
    protocol: Option<String>,
    /// Either end is this service.
    service: Option<String>,
    /// Id of the service pair.
    pair: Option<String>,
    /// Open or closed ones only.
    #[param(inline)]
    state: Option<State>,
    /// What to sort by; `opened` where absent.
    #[param(inline)]
    sort: Option<ConversationSort>,
    /// Which way; `desc` where absent.
    #[param(inline)]
    order: Option<Order>,
    /// How many at most; 100 where absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next` of the page before, with the same sort and order.
    cursor: Option<String>,
}

/// A conversation: the flows at all hops that are one exchange.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConversationView {
    /// Its id, never used again while the daemon runs.
    pub id: String,
    /// Protocol by name, or its number.
    pub protocol: String,
    /// The end that asks.
    pub client: EndpointView,
    /// The end that answers.
    pub server: EndpointView,
    /// Id of the service pair.
    pub pair: String,
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
    /// When it last changed, or ended.
    pub changed: String,
    /// The hops that saw it.
    pub path: Vec<HopRef>,
    /// What was measured, by name with the unit; what could not be measured is absent.
    pub features: BTreeMap<&'static str, f64>,
    /// Hosts whose connection tracking translates its addresses or ports (NAT); absent where none
    /// is known to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub translations: Vec<TranslationView>,
}

/// A host that translates a conversation, as its connection tracking says.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TranslationView {
    /// The host.
    pub host: String,
    /// The ends as the client's side of the host knows them.
    pub inside: EndsView,
    /// The ends as the server's side of the host knows them.
    pub outside: EndsView,
    /// Id of the conversation on the other side of the host, where it was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
}

/// Both ends of an exchange.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EndsView {
    /// The end that asks.
    pub client: EndpointView,
    /// The end that answers.
    pub server: EndpointView,
}

impl From<&Sides<Endpoint>> for EndsView {
    fn from(ends: &Sides<Endpoint>) -> Self {
        Self {
            client: EndpointView::new(ends.client, None),
            server: EndpointView::new(ends.server, None),
        }
    }
}

impl TranslationView {
    fn new(entry: &TranslationEntry, view: &View) -> Self {
        let beyond = view.conversations.beyond(entry);
        Self {
            host: entry.host.to_string(),
            inside: EndsView::from(&entry.translation.inside),
            outside: EndsView::from(&entry.translation.outside),
            conversation: beyond.map(|(id, _)| id.0.to_string()),
        }
    }
}

/// A page of conversations.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConversationPage {
    /// The conversations.
    pub conversations: Vec<ConversationView>,
    /// Cursor of the page that follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Number of the last change in what is shown: where to join the stream.
    pub sequence: u64,
}

impl ConversationQuery {
    fn ends(&self) -> EndsQuery<'_> {
        EndsQuery {
            address: self.address.as_deref(),
            client: self.client.as_deref(),
            server: self.server.as_deref(),
            port: self.port,
            protocol: self.protocol.as_deref(),
        }
    }

    fn fits(&self, ends: &Ends, pair: Option<u64>, entry: &ConversationEntry) -> bool {
        ends.fit(&entry.endpoints, entry.protocol)
            && pair.is_none_or(|pair| pair == u64::from(entry.pair.0))
            && self
                .state
                .is_none_or(|state| state == State::of(entry.closed.is_some()))
            && self.service.as_deref().is_none_or(|name| {
                *entry.services.client.name == *name || *entry.services.server.name == *name
            })
    }
}

/// Lists conversations.
#[utoipa::path(get, path = "/api/v1/conversations", tag = "traffic", params(ConversationQuery),
    responses((status = 200, body = ConversationPage),
        (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    Shared(api): Shared<Arc<Api>>,
    Query(query): Query<ConversationQuery>,
) -> Result<Json<ConversationPage>, Problem> {
    let window = Window::new(query.limit, query.cursor.as_deref(), query.order)?;
    let ends = query.ends().parse()?;
    let pair = extract::id_parameter("pair", query.pair.as_deref())?;
    let sort = query.sort.unwrap_or_default();
    let view = api.outlook.view();
    let key = |entry: &ConversationEntry| match sort {
        ConversationSort::Opened => entry.opened.0,
        ConversationSort::Changed => entry.changed.0,
    };
    let entries = view
        .conversations
        .iter()
        .filter(|(_, entry)| query.fits(&ends, pair, entry))
        .map(|(id, entry)| (id.0, key(entry), entry));
    let page = window.page(entries, |id, entry| {
        show(&api, &view, ConversationId(id), entry)
    });
    Ok(Json(ConversationPage {
        conversations: page.items,
        next: page.next,
        sequence: view.sequence,
    }))
}

/// Shows one conversation.
#[utoipa::path(get, path = "/api/v1/conversations/{id}", tag = "traffic",
    params(("id" = String, Path, description = "Id of the conversation")),
    responses((status = 200, body = ConversationView),
        (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn get(
    Shared(api): Shared<Arc<Api>>,
    Id(id): Id,
) -> Result<Json<ConversationView>, Problem> {
    let conversation = ConversationId(extract::id(&id, "conversation")?);
    let view = api.outlook.view();
    let entry = view.conversations.get(conversation).ok_or_else(|| {
        Problem::new(Kind::NotFound, format!("there is no conversation {id}"))
            .field("id")
            .remedy("closed ones are forgotten after a while; /api/v1/conversations lists others")
    })?;
    Ok(Json(show(&api, &view, conversation, entry)))
}

fn show(api: &Api, view: &View, id: ConversationId, entry: &ConversationEntry) -> ConversationView {
    let clock = &api.outlook.clock;
    ConversationView {
        id: id.0.to_string(),
        protocol: protocol_name(entry.protocol).into_owned(),
        client: EndpointView::new(entry.endpoints.client, Some(&entry.services.client)),
        server: EndpointView::new(entry.endpoints.server, Some(&entry.services.server)),
        pair: entry.pair.0.to_string(),
        role_basis: show::role_name(entry.role_basis),
        state: State::of(entry.closed.is_some()),
        close_reason: entry.closed.map(|(reason, _)| show::close_name(reason)),
        opened: show::time(clock, entry.opened),
        changed: show::time(clock, entry.changed),
        path: entry
            .path
            .iter()
            .map(|hop| HopRef::new(*hop, view))
            .collect(),
        features: measured(&entry.features),
        translations: entry
            .translations()
            .map(|it| TranslationView::new(it, view))
            .collect(),
    }
}

/// The features that were measured, by name.
pub(super) fn measured(features: &Features) -> BTreeMap<&'static str, f64> {
    Features::NAMES
        .iter()
        .zip(features.values())
        .filter_map(|(name, value)| Some((*name, value.filter(|value| value.is_finite())?)))
        .collect()
}
