//! Asks the daemon's API from the shell: one request, one answer in JSON.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::api::client::{Address, Client};

/// Longest time for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks for a path and gives the answer.
///
/// # Errors
/// If the daemon cannot be reached, or answers with a problem: its words.
pub(super) fn get(address: &Address, path: &str) -> anyhow::Result<Value> {
    let client = Client::new(address)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::time::timeout(ANSWER_TIMEOUT, client.get(path))
            .await
            .context("the daemon did not answer within 10 s")?
    })
}
