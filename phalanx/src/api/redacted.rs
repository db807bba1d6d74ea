//! The file of a capture as it may be handed on, redacted while it is sent, with a key that nobody
//! ever knows.

use std::fs::File;
use std::io::Read as _;

use axum::body::Bytes;
use http_body_util::channel::Sender;
use tokio::task::spawn_blocking;

use super::problem::{Kind, Problem};
use crate::capture_file::CaptureFile;
use crate::redaction::{Addresses, Export, Key, Payload, Pseudonyms, Redactor};

/// A download on its way.
pub(super) struct Download(Export<Vec<u8>>);

/// What one step of a download gives.
enum Step {
    /// Bytes to send, and what is left.
    More(Vec<u8>, Box<Download>),
    /// The last bytes.
    End(Vec<u8>),
}

impl Download {
    /// Begins to redact the first `whole` bytes of a file.
    pub(super) async fn begin(file: File, whole: u64) -> Result<Self, Problem> {
        let failed = |detail: String| {
            Problem::new(Kind::Unavailable, format!("redact the capture: {detail}"))
                .remedy("a capture that has just begun has no file yet; or see the log")
        };
        let begun = spawn_blocking(move || {
            let capture = CaptureFile::from_reader("the capture", file.take(whole))?;
            let pseudonyms = Pseudonyms::new(&Key::draw()?, false);
            let addresses = Addresses::Replaced(Box::new(pseudonyms));
            let redactor = Redactor::new(addresses, Payload::Cut);
            anyhow::Ok(Self(Export::new(capture, redactor, Vec::new(), false)?))
        });
        match begun.await {
            Ok(Ok(download)) => Ok(download),
            Ok(Err(error)) => Err(failed(format!("{error:#}"))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Sends all of it. No thread waits for a slow client: each step ends before it is sent.
    pub(super) async fn send(self, mut sender: Sender<Bytes, std::io::Error>) {
        let mut download = Box::new(self);
        loop {
            let step = match spawn_blocking(move || download.step()).await {
                Ok(Ok(step)) => step,
                Ok(Err(error)) => return sender.abort(std::io::Error::other(error)),
                Err(error) => return sender.abort(error.into()),
            };
            let (bytes, rest) = match step {
                Step::More(bytes, rest) => (bytes, Some(rest)),
                Step::End(bytes) => (bytes, None),
            };
            if sender.send_data(bytes.into()).await.is_err() {
                return;
            }
            match rest {
                Some(rest) => download = rest,
                None => return,
            }
        }
    }

    fn step(mut self: Box<Self>) -> anyhow::Result<Step> {
        if self.0.step()? {
            let bytes = std::mem::take(self.0.output_mut());
            return Ok(Step::More(bytes, self));
        }
        Ok(Step::End(self.0.finish()?.output))
    }
}
