//! A capture: a scoped recording job, from its request to its file.
//!
//! A request is checked field by field; what of its filter fits 5-tuples goes to the kernel, all of
//! it is evaluated again on each record. A thread of its own writes each file; what was lost on the
//! way is part of the capture's state. **Invariant:** an acknowledged capture is listed until its
//! file is deleted, also after a restart, and says whether it is whole.

mod age;
mod job;
mod keeper;
mod past;
mod place;
mod plan;
mod promoted;
mod remains;
mod request;
mod store;
mod study;
mod translated;
mod view;

pub(crate) use age::Age;
pub(crate) use job::{link_type, retag, tag_beside};
pub use keeper::{Captures, Failure};
pub(crate) use keeper::{Missing, Salvaged};
pub(crate) use plan::{plan_of, recording_filters};
pub use promoted::{PROMOTED_COUNT_MAX, PromotedFlow, PromotedPacket, PromotedPackets};
pub(crate) use request::{BYTES_DEFAULT, BYTES_MIN, INTERFACE_COUNT_MAX};
pub use request::{BadField, CaptureRequest, DURATION_MAX_S, Wanted};
pub use store::Keeping;
pub(crate) use store::Store;
pub(crate) use study::{Shape, Source, Study, StudyError};
pub use view::{CaptureState, CaptureView, EndReason, Gap, HostPart, Loss, LossKind, PlanView};
pub(crate) use view::{count_captures, latest_first};

/// Captures that run at once.
pub const RUNNING_COUNT_MAX: usize = 8;

/// Captures that are kept, whatever their size.
pub const KEPT_COUNT_MAX: usize = 1_000;

/// Batches of records that wait for the thread of one capture; full: they are dropped and counted.
const QUEUE_COUNT_MAX: usize = 64;
