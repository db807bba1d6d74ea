//! Captures for a hub that an earlier process has left: those that broke off with it go on in their
//! file, those that had ended are delivered as they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use phalanx_engine::{Hop, HopId};

use super::super::plan::Plan;
use super::super::remains::Remains;
use super::super::view::{CaptureState, CaptureView, EndReason, Gap, Loss, LossKind};
use super::{Capture, Captures, Failure, Task, unwritten};
use crate::api::show::wall_time;

/// Restarts that a capture survives: each is a gap, which is told.
const GAP_COUNT_MAX: usize = 8;

/// What is done about an interface that is not watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The capture does not go on without it.
    AwaitIt,
    /// It has vanished: the capture goes on with the rest, if there is any.
    TellIt,
}

/// What is left of a capture.
#[derive(Debug)]
pub(crate) struct Salvaged {
    pub(crate) view: CaptureView,
    /// What its file holds, where it was cut to what is whole.
    remains: Option<Remains>,
}

impl Salvaged {
    /// Bytes of its file.
    pub(crate) const fn bytes(&self) -> u64 {
        self.view.bytes
    }

    /// Whether it had ended: then it does not go on.
    pub(crate) fn is_over(&self) -> bool {
        self.view.end_reason != Some(EndReason::DaemonStopped)
    }
}

impl Captures {
    /// What is left here of a hub's capture: where it broke off, cut to what is whole; none where
    /// nothing is. One that the hub has is deleted, so what has ended was not delivered.
    pub(crate) async fn salvage(&self, hub_id: &str) -> Option<Salvaged> {
        let is_left = |view: &CaptureView| {
            view.end_reason.is_some() && view.hub_id.as_deref() == Some(hub_id)
        };
        let mut left: Vec<CaptureView> = {
            let captures = self.lock();
            let views = captures.values().map(|capture| capture.view());
            let left = views.filter(|view| is_left(view));
            left.map(|view| view.clone()).collect()
        };
        // The latest first: those before it were of no use when it began.
        while let Some(view) = left.pop() {
            let may_be_torn = matches!(
                view.end_reason,
                Some(EndReason::DaemonStopped | EndReason::WriteFailed)
            );
            let salvaged = match may_be_torn {
                true => self.cut(view).await,
                false => Some(Salvaged {
                    view,
                    remains: None,
                }),
            };
            if salvaged.is_some() {
                return salvaged;
            }
        }
        None
    }

    /// Cuts the file of a capture that broke off to what is whole.
    async fn cut(&self, broken: CaptureView) -> Option<Salvaged> {
        let path = self.store.file(&broken.id);
        let read = move || {
            let remains = Remains::read(&path)?;
            remains.open(&path)?;
            anyhow::Ok(remains)
        };
        // Fails also where the runtime ends.
        let read = tokio::task::spawn_blocking(read).await.ok()?;
        let remains = match read {
            Ok(remains) => remains,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(
                    id = broken.id,
                    error,
                    "a capture that broke off is of no use"
                );
                return None;
            }
        };
        let view = CaptureView {
            bytes: remains.bytes,
            packets: remains.packets,
            ..broken
        };
        let kept = Arc::new(Capture::kept(view.clone()));
        self.lock().insert(view.id.clone(), kept);
        Some(Salvaged {
            view,
            remains: Some(remains),
        })
    }

    /// Goes on with a capture for so long, at its interfaces: what its file holds counts toward
    /// its limits.
    ///
    /// # Errors
    /// It had ended, was resumed too often, a limit is reached, its interfaces are not watched, or
    /// the kernel side or the disk refuses. What is left of it stays as it was.
    pub(crate) async fn resume(
        self: &Arc<Self>,
        salvaged: &Salvaged,
        duration: Duration,
        missing: Missing,
    ) -> Result<CaptureView, Failure> {
        let Salvaged { view, remains } = salvaged;
        let Some(remains) = remains.as_ref().filter(|_| !salvaged.is_over()) else {
            return Err(Failure::Limit("it had ended".to_owned()));
        };
        if view.gaps.len() >= GAP_COUNT_MAX {
            let most = format!("it broke off {GAP_COUNT_MAX} times before");
            return Err(Failure::Limit(most));
        }
        let mut wanted = view.request.clone().check(self.keeping.bytes_max)?;
        wanted.duration = duration;
        let plan = Plan::new(&wanted)?;
        let (hops, gone) = self.hops_of(view);
        if let Some(name) = gone.first()
            && (missing == Missing::AwaitIt || hops.is_empty())
        {
            return Err(Failure::Unavailable(format!("{name} is not watched")));
        }
        let guard = self.recording.lock().await;
        self.check_limits(&wanted, Some((&view.id, remains.bytes)))?;
        let task = Task {
            filters: self.number(plan.filters)?,
            wanted,
            hops,
        };
        let file = remains
            .open(&self.store.file(&view.id))
            .map_err(unwritten)?;
        let resumed = self.resumed(view, remains, gone);
        self.store.describe(&resumed).map_err(unwritten)?;
        let prepared = self.assemble(task, resumed, (file, Some(remains.clone())));
        let launched = self.launch(prepared).await;
        drop(guard);
        if launched.is_err() {
            let kept = Arc::new(Capture::kept(view.clone()));
            self.lock().insert(view.id.clone(), kept);
        }
        launched
    }

    /// The hops where a capture recorded, and the names of those that are not watched. What has
    /// come since is none of its own, as where it had not broken off.
    fn hops_of(&self, view: &CaptureView) -> (BTreeMap<HopId, Arc<Hop>>, Vec<String>) {
        let outlook = self.outlook.view();
        let hops = outlook.hops.iter();
        let hops = hops.map(|(id, hop)| (id, Arc::clone(&hop.facts)));
        let is_own = |hop: &Hop| view.interfaces.iter().any(|it| **it == *hop.interface);
        let hops: BTreeMap<_, _> = hops.filter(|(_, hop)| is_own(hop)).collect();
        // Namespaces may each have one of the same name.
        let mut there: Vec<&str> = hops.values().map(|hop| &*hop.interface).collect();
        let is_gone = |name: &&String| match there.iter().position(|it| *it == name.as_str()) {
            Some(index) => {
                there.swap_remove(index);
                false
            }
            None => true,
        };
        let gone = view.interfaces.iter().filter(is_gone).cloned().collect();
        (hops, gone)
    }

    /// A capture as it is shown once it goes on: with the gap, and without what has vanished.
    fn resumed(&self, view: &CaptureView, remains: &Remains, gone: Vec<String>) -> CaptureView {
        let mut view = view.clone();
        let gap = Gap {
            from: remains.last_ns.map_or(view.created.clone(), wall_time),
            until: wall_time(self.outlook.clock.wall_ns(crate::clock::now())),
        };
        view.losses
            .retain(|loss| loss.kind != LossKind::DaemonStopped);
        view.losses.push(Loss {
            kind: LossKind::Restarted,
            packets: 0,
            detail: gap.detail(),
        });
        view.gaps.push(gap);
        for name in gone {
            view.note_vanished(&name);
        }
        CaptureView {
            state: CaptureState::Running,
            end_reason: None,
            ended: None,
            ..view
        }
    }
}

#[cfg(test)]
#[path = "resume_tests.rs"]
mod tests;
