//! `/api/v1/agents`: the agents of a hub, and what is missing of what they told.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::problem::Problem;
use super::show;
use crate::hub::{AgentState, AgentStatus};

/// An agent of this hub.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AgentView {
    /// Its id, as in its certificate.
    pub id: String,
    /// What it is called, and the host of its hops: its host, or where an agent before it has that
    /// name, with a number.
    pub name: String,
    /// The host that it was enrolled for.
    pub host: String,
    /// Whether another agent was enrolled for a host of the same name.
    pub has_namesake: bool,
    /// `connected` or `away`.
    pub state: &'static str,
    /// Where its last session came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Boot id of its host: agents with the same one share a clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// When the hub took in its last batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heard: Option<String>,
    /// Its wall clock less the hub's when that batch was taken in, and less the time that the
    /// batch took to come.
    pub clock_offset_s: f64,
    /// Hops that it watches.
    pub hop_count: usize,
    /// The last batch of its process.
    pub sequence: u64,
    /// Updates and the like that its process has told.
    pub items: u64,
    /// Gaps in what it told: batches that it had to drop, or a process that was killed.
    pub gaps: u64,
    /// Batches that are missing in those gaps, where their number is known.
    pub lost_batches: u64,
    /// Updates and the like that are missing, where their number is known.
    pub lost_items: u64,
    /// Sessions that the hub ended because of what the agent sent, since the hub's start.
    pub refused_sessions: u64,
}

/// All agents.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AgentList {
    /// The agents, by name; none where this is no hub.
    pub agents: Vec<AgentView>,
}

/// Lists the agents of this hub.
#[utoipa::path(get, path = "/api/v1/agents", tag = "daemon",
    responses((status = 200, body = AgentList),
        (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(Shared(api): Shared<Arc<Api>>) -> Json<AgentList> {
    let agents = api.outlook.agents();
    let agents = agents.iter().map(|agent| view(&api, agent)).collect();
    Json(AgentList { agents })
}

fn view(api: &Api, agent: &AgentStatus) -> AgentView {
    let offset_s = show::seconds(agent.clock_offset_ns.unsigned_abs());
    AgentView {
        id: agent.agent.clone(),
        name: agent.name.clone(),
        host: agent.host.clone(),
        has_namesake: agent.has_namesake,
        state: match agent.state {
            AgentState::Connected => "connected",
            AgentState::Away => "away",
        },
        peer: agent.peer.clone(),
        version: agent.version.clone(),
        boot_id: agent.boot.map(boot_id),
        heard: agent
            .heard
            .map(|heard| show::time(&api.outlook.clock, heard)),
        clock_offset_s: if agent.clock_offset_ns < 0 {
            -offset_s
        } else {
            offset_s
        },
        hop_count: agent.hop_count,
        sequence: agent.sequence,
        items: agent.items,
        gaps: agent.gaps,
        lost_batches: agent.lost_batches,
        lost_items: agent.lost_items,
        refused_sessions: agent.refused,
    }
}

/// As Linux spells it.
pub(crate) fn boot_id(boot: u128) -> String {
    let digits = format!("{boot:032x}");
    let parts = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    parts.join("-")
}
