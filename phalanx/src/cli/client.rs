//! A client of the daemon's API: one request, one answer in JSON.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{AUTHORIZATION, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Longest time for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer in bytes: a page of flows is below 2 MiB.
const ANSWER_SIZE_MAX: usize = 16 << 20;

/// Where the daemon is.
#[derive(Args, Clone, Debug)]
pub struct ClientArguments {
    /// Address of the daemon's API.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:7070",
        env = "PHALANX_LISTEN"
    )]
    pub api: String,
    /// Token, where the daemon asks for one.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "PHALANX_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
}

impl ClientArguments {
    /// Asks for a path and gives the answer.
    ///
    /// # Errors
    /// If the daemon cannot be reached, or answers with a problem: its words.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            tokio::time::timeout(ANSWER_TIMEOUT, self.ask(path))
                .await
                .with_context(|| format!("{}: no answer within 10 s", self.api))?
        })
    }

    async fn ask(&self, path: &str) -> anyhow::Result<Value> {
        let stream = TcpStream::connect(&self.api).await.with_context(|| {
            format!(
                "reach the daemon at {}: is phalanx up running? --api names another",
                self.api
            )
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = hyper::Request::get(path).header(HOST, &self.api);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let answer = sender
            .send_request(request.body(Empty::<bytes::Bytes>::new())?)
            .await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_SIZE_MAX)
            .collect()
            .await;
        let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
        let value: Value = serde_json::from_slice(&body)
            .with_context(|| format!("{}: the answer is not JSON; is it a phalanx?", self.api))?;
        if status.is_success() {
            return Ok(value);
        }
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        bail!("{}: {} {}", self.api, text("detail"), text("remedy"))
    }
}
