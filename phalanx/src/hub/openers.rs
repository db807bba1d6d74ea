//! [`Openers`]: what unpacks batches, shared by all sessions: one for each that unpacks at once,
//! which are as many as there are threads.

use std::sync::{Mutex, PoisonError};

use tonic::Status;

use crate::link::protocol::Batch;
use crate::link::{Opened, Opener};

/// What unpacks batches and is not in use.
#[derive(Debug, Default)]
pub(crate) struct Openers(Mutex<Vec<Opener>>);

impl Openers {
    /// Unpacks a batch and checks all of it.
    pub(crate) fn open(&self, batch: &Batch) -> Result<Opened, Status> {
        let idle = self.lock().pop();
        let mut opener = match idle {
            Some(opener) => opener,
            None => Opener::new().map_err(|error| Status::unavailable(error.to_string()))?,
        };
        let opened = opener.open(batch);
        self.lock().push(opener);
        opened.map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Opener>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
