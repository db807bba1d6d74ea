//! What is told of a capture, in the API and beside its file.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::request::CaptureRequest;
use crate::lookback::Covered;
use crate::metrics::DaemonMetrics;

/// How a capture stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CaptureState {
    /// It records.
    Running,
    /// It ended and holds all that it should.
    Complete,
    /// It ended, or runs still, and something is missing: see `losses`.
    Partial,
}

impl CaptureState {
    /// The state as metrics spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Partial => "partial",
        }
    }
}

/// Why a capture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its time was over.
    Duration,
    /// It had its packets.
    MaxPackets,
    /// Its file had its size.
    MaxBytes,
    /// Somebody stopped it.
    Stopped,
    /// The file could not be written any further.
    WriteFailed,
    /// All of its interfaces vanished.
    InterfacesVanished,
    /// The daemon ended before it did.
    DaemonStopped,
}

/// What is missing from a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// The ring of the kernel was full while this capture ran; some of these packets may belong to
    /// others.
    RingFull,
    /// The daemon or the capture's own queue was full.
    QueueFull,
    /// Packets of the time before the request were lost on their way, or left before they were
    /// read; some of them may belong to others.
    Lookback,
    /// Too little of the packet was captured to evaluate the filter.
    Undecided,
    /// An interface vanished.
    InterfaceVanished,
    /// The disk is full.
    DiskFull,
    /// The file could not be written.
    WriteFailed,
    /// The daemon ended while the capture ran: the end of the file may be missing.
    DaemonStopped,
    /// The daemon was restarted while the capture ran: see `gaps`.
    Restarted,
    /// A host's part ended before the others', by a limit of its own or by somebody there.
    EndedEarly,
    /// A host did not deliver, or not all of it.
    HostAway,
    /// A host does not take this capture.
    HostRefused,
    /// The packets of the hosts could not be put together.
    NotMerged,
}

/// Something that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Loss {
    /// What.
    pub kind: LossKind,
    /// How many packets; 0 where that is not known.
    pub packets: u64,
    /// In words.
    pub detail: String,
}

/// A time in which nothing was recorded, by the clock of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gap {
    /// The last packet before it; where there is none, the beginning of the capture.
    pub from: String,
    /// When recording went on.
    pub until: String,
}

/// Which part of the filter is checked where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// What the kernel checks: any of these, on whole flows.
    pub kernel: Vec<String>,
    /// What the daemon checks on each record besides; absent where the kernel's part says it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_space: Option<String>,
    /// The same in words.
    pub explanation: String,
}

/// A capture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CaptureView {
    /// Its id.
    pub id: String,
    /// How it stands.
    pub state: CaptureState,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    /// What was asked for.
    pub request: CaptureRequest,
    /// Which part of the filter is checked where.
    pub plan: PlanView,
    /// The interfaces that it records.
    pub interfaces: Vec<String>,
    /// When it began.
    pub created: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// What it holds of the time before the request, where it looks back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookback: Option<Covered>,
    /// Packets in the file.
    pub packets: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Records of the kernel that the rest of the filter left out.
    pub filtered_out: u64,
    /// What is missing.
    pub losses: Vec<Loss>,
    /// Where the daemon was restarted while it recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// Which agent it is for and what the hub calls it, as `AGENT/ID`, where a hub asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub_id: Option<String>,
    /// What each host gave, with a hub.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPart>,
    /// Where to get the file (pcapng).
    pub file: String,
}

impl CaptureView {
    /// The last gap ends: recording goes on from this time.
    pub(crate) fn end_gap(&mut self, until: String) {
        let told = |loss: &&mut Loss| loss.kind == LossKind::Restarted;
        let loss = self.losses.iter_mut().rev().find(told);
        if let Some((gap, loss)) = self.gaps.last_mut().zip(loss) {
            gap.until = until;
            loss.detail = gap.detail();
        }
    }

    /// An interface has vanished: it is told once.
    pub(super) fn note_vanished(&mut self, name: &str) {
        let detail = format!("{name} vanished");
        if !self.losses.iter().any(|loss| loss.detail == detail) {
            self.losses.push(Loss {
                kind: LossKind::InterfaceVanished,
                packets: 0,
                detail,
            });
        }
    }
}

/// What one host gave to a capture of a hub.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostPart {
    /// Name of the host.
    pub host: String,
    /// Id of its agent.
    pub agent: String,
    /// What its agent calls its part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<String>,
    /// Boot id of the host: hosts with the same one share a clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// How its part stands.
    pub state: CaptureState,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    /// Since when its agent is away, while its part is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away_since: Option<String>,
    /// The interfaces that it records.
    pub interfaces: Vec<String>,
    /// When it began, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// How far its clock was ahead of the hub's then, in seconds, the way of a message included.
    pub clock_offset_s: f64,
    /// What it holds of the time before the request, where it looks back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookback: Option<Covered>,
    /// Packets in its file.
    pub packets: u64,
    /// Bytes of it that the hub has.
    pub bytes: u64,
    /// Records of its kernel that the rest of the filter left out.
    pub filtered_out: u64,
    /// What is missing of its part.
    pub losses: Vec<Loss>,
    /// Where its agent was restarted while it recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

impl Gap {
    /// In nanoseconds since 1970; none where a time is none.
    pub(crate) fn ns(&self) -> Option<(i64, i64)> {
        let ns = |text: &str| {
            let time: jiff::Timestamp = text.parse().ok()?;
            i64::try_from(time.as_nanosecond()).ok()
        };
        Some((ns(&self.from)?, ns(&self.until)?))
    }

    /// In words.
    pub(crate) fn detail(&self) -> String {
        let Self { from, until } = self;
        format!("nothing was recorded from {from} to {until}: the daemon was restarted")
    }
}

impl CaptureView {
    /// Bytes that it takes on disk: its parts, and once it has ended its file.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let parts: u64 = self.hosts.iter().map(|host| host.bytes).sum();
        let is_merged = self.hosts.is_empty() || self.state != CaptureState::Running;
        parts + if is_merged { self.bytes } else { 0 }
    }
}

/// Captures in the order in which they are listed.
pub(crate) fn latest_first(views: impl Iterator<Item = CaptureView>) -> Vec<CaptureView> {
    let mut views: Vec<_> = views.collect();
    views.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| b.id.cmp(&a.id)));
    views
}

/// Tells the metrics of all captures.
pub(crate) fn count_captures(metrics: &DaemonMetrics, views: &[CaptureView]) {
    for state in [
        CaptureState::Running,
        CaptureState::Complete,
        CaptureState::Partial,
    ] {
        let count = views.iter().filter(|view| view.state == state).count();
        let gauge = metrics.captures.with_label_values(&[state.name()]);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let bytes: u64 = views.iter().map(CaptureView::disk_bytes).sum();
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    metrics.capture_disk.set(bytes);
}
