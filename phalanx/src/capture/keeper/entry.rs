//! A capture of the list, as it stands now.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use phalanx_engine::HopId;
use tokio::sync::watch;

use super::super::age::Age;
use super::super::job::Progress;
use super::super::view::CaptureView;
use super::{Capture, Running};
use crate::clock::Reading;

impl Capture {
    pub(super) fn kept(view: CaptureView) -> Self {
        let (_, flushed) = watch::channel(view.bytes);
        let ended = Age::at(
            view.ended.as_ref().unwrap_or(&view.created),
            Reading::take(),
        );
        Self {
            view: Mutex::new(view),
            progress: Arc::default(),
            flushed,
            running: Mutex::new(None),
            ended: ended.into(),
        }
    }

    pub(super) fn view(&self) -> MutexGuard<'_, CaptureView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The capture as it stands now.
    pub(super) fn show(&self) -> CaptureView {
        let is_running = self.running().is_some();
        let mut view = self.view().clone();
        if is_running {
            self.overlay(&mut view);
        }
        view
    }

    pub(super) fn overlay(&self, view: &mut CaptureView) {
        view.packets = Progress::load(&self.progress.packets);
        view.bytes = Progress::load(&self.progress.bytes);
        view.filtered_out = Progress::load(&self.progress.filtered_out);
        if let Some(lookback) = &mut view.lookback {
            let past = &self.progress.past;
            let past = past.lock().unwrap_or_else(PoisonError::into_inner);
            for hop in &mut lookback.hops {
                hop.packets = past.get(&HopId(hop.hop)).copied().unwrap_or_default();
            }
            lookback.packets = past.values().sum();
        }
    }
}
