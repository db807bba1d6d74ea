//! [`Recorder`]: who takes the captures that the API is asked for, this host or a hub's agents.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::capture::{CaptureRequest, CaptureView, Captures, Failure, Shape, StudyError};
use crate::hub::capture::PathCaptures;

/// Who takes captures.
#[derive(Clone, Debug)]
pub(crate) enum Recorder {
    /// This host.
    Here(Arc<Captures>),
    /// The agents of this hub.
    Agents(Arc<PathCaptures>),
}

impl Recorder {
    pub(super) async fn create(&self, request: CaptureRequest) -> Result<CaptureView, Failure> {
        match self {
            Self::Here(captures) => captures.create(request).await,
            Self::Agents(captures) => captures.create(request).await,
        }
    }

    pub(super) fn list(&self) -> Vec<CaptureView> {
        match self {
            Self::Here(captures) => captures.list(),
            Self::Agents(captures) => captures.list(),
        }
    }

    pub(super) fn get(&self, id: &str) -> Result<CaptureView, Failure> {
        match self {
            Self::Here(captures) => captures.get(id),
            Self::Agents(captures) => captures.get(id),
        }
    }

    pub(super) async fn stop(&self, id: &str) -> Result<CaptureView, Failure> {
        match self {
            Self::Here(captures) => captures.stop(id).await,
            Self::Agents(captures) => captures.stop(id).await,
        }
    }

    pub(super) fn delete(&self, id: &str) -> Result<(), Failure> {
        match self {
            Self::Here(captures) => captures.delete(id),
            Self::Agents(captures) => captures.delete(id),
        }
    }

    /// The file of a capture, how much of it is whole, and whether it grows still.
    pub(super) fn file(&self, id: &str) -> Result<(PathBuf, watch::Receiver<u64>), Failure> {
        match self {
            Self::Here(captures) => captures.file(id),
            Self::Agents(captures) => captures.file(id),
        }
    }

    /// The report of a capture that has ended.
    pub(super) async fn report(
        &self,
        id: &str,
        shape: Shape,
        conversation: Option<&str>,
    ) -> Result<File, Failure> {
        let (sources, study) = match self {
            Self::Here(captures) => (captures.sources(id)?, &captures.study),
            Self::Agents(captures) => (captures.sources(id)?, &captures.study),
        };
        if sources.is_empty() {
            return Err(Failure::Unavailable("no host gave any packet".to_owned()));
        }
        let report = study.report(&sources, shape, conversation).await;
        report.map_err(|error| match error {
            StudyError::Busy => Failure::Limit(error.to_string()),
            StudyError::Failed(error) => Failure::Unavailable(format!("{error:#}")),
        })
    }
}
