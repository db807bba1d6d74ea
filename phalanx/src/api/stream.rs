//! `/api/v1/stream`: the changes as they come, over a WebSocket.
//!
//! A reader is never waited for: one that does not take its messages is dropped with a reason,
//! one that falls behind the replay buffer is told the range that it missed.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior};
use utoipa::IntoParams;

use super::Api;
use super::change::{self, KINDS};
use super::extract::Query;
use super::problem::{Kind, Problem};
use crate::stream::{Next, Stream};

/// Readers at once.
pub const READER_COUNT_MAX: usize = 32;

/// Longest time that a reader may take for one message.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a reader is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Silence after which a reader is gone: two pings without an answer.
const SILENCE_MAX: Duration = Duration::from_secs(50);

/// Largest message from a reader in bytes; none is expected.
const MESSAGE_SIZE_MAX: usize = 4 << 10;

/// The places of readers.
pub type Places = Arc<Semaphore>;

/// Where to start, and what to send.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamQuery {
    /// Number of the last change that the client has; the next one follows. Absent: from now on.
    after: Option<u64>,
    /// Id of the stream that `after` belongs to, from its `hello`.
    stream: Option<String>,
    /// Kinds of change to send, separated by commas; all where absent.
    #[param(example = "flow_opened,flow_closed")]
    kinds: Option<String>,
}

/// Follows the changes over a WebSocket: a `hello`, then `change`s in order, and a `gap` for each
/// range that is lost.
#[utoipa::path(get, path = "/api/v1/stream", tag = "stream", params(StreamQuery),
    responses((status = 101, description = "The WebSocket follows"),
        (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn follow(
    Shared(api): Shared<Arc<Api>>,
    Query(query): Query<StreamQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    match prepare(&api, &query, upgrade) {
        Ok((upgrade, kinds, place)) => upgrade
            .max_message_size(MESSAGE_SIZE_MAX)
            .max_frame_size(MESSAGE_SIZE_MAX)
            .on_upgrade(move |socket| async move {
                Follower {
                    api: &api,
                    socket,
                    kinds,
                    place,
                }
                .run(&query)
                .await;
            }),
        Err(problem) => problem.into_response(),
    }
}

type Prepared = (WebSocketUpgrade, Vec<&'static str>, OwnedSemaphorePermit);

fn prepare(
    api: &Api,
    query: &StreamQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Prepared, Problem> {
    let kinds = parse_kinds(query.kinds.as_deref())?;
    let upgrade = upgrade.map_err(|rejection| {
        Problem::new(Kind::UpgradeRequired, rejection.body_text())
            .field("upgrade")
            .remedy("connect with a WebSocket client, to ws://…/api/v1/stream")
    })?;
    let place = Arc::clone(&api.stream_places)
        .try_acquire_owned()
        .map_err(|_| {
            Problem::new(
                Kind::LimitReached,
                format!("{READER_COUNT_MAX} clients follow the stream, no more may"),
            )
            .remedy("close one of them")
        })?;
    Ok((upgrade, kinds, place))
}

fn parse_kinds(text: Option<&str>) -> Result<Vec<&'static str>, Problem> {
    let Some(text) = text else {
        return Ok(Vec::new());
    };
    let known = |name: &str| KINDS.iter().copied().find(|kind| *kind == name);
    text.split(',')
        .map(|name| {
            known(name.trim()).ok_or_else(|| {
                Problem::invalid(
                    "kinds",
                    format!("{name:?} is no kind of change"),
                    format!("choose from {}", KINDS.join(", ")),
                )
            })
        })
        .collect()
}

struct Follower<'a> {
    api: &'a Api,
    socket: WebSocket,
    kinds: Vec<&'static str>,
    #[expect(dead_code, reason = "gives its place back when it is dropped")]
    place: OwnedSemaphorePermit,
}

/// Why a reader is served no longer.
enum Parting {
    /// It has gone.
    Left,
    /// It does not take its messages, or does not answer.
    TooSlow,
}

impl Follower<'_> {
    async fn run(mut self, query: &StreamQuery) {
        let daemon = self.api.outlook.metrics.daemon();
        daemon.stream_clients.inc();
        let parting = self.follow(query).await;
        daemon.stream_clients.dec();
        if matches!(parting, Parting::TooSlow) {
            daemon.stream_dropped.with_label_values(&["too_slow"]).inc();
            let frame = CloseFrame {
                code: close_code::AGAIN,
                reason: "too slow: resume with after= and read faster, or choose kinds=".into(),
            };
            let _ = tokio::time::timeout(
                Duration::from_secs(1),
                self.socket.send(Message::Close(Some(frame))),
            )
            .await;
        }
    }

    async fn follow(&mut self, query: &StreamQuery) -> Parting {
        let stream = &self.api.outlook.stream;
        let after = match self.greet(stream, query).await {
            Ok(after) => after,
            Err(parting) => return parting,
        };
        let mut reader = stream.reader(after);
        let mut ping = tokio::time::interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            let sent = tokio::select! {
                next = reader.next() => self.send_next(next).await,
                message = self.socket.recv() => match message {
                    Some(Ok(Message::Close(_)) | Err(_)) | None => Err(Parting::Left),
                    Some(Ok(_)) => {
                        heard = Instant::now();
                        Ok(())
                    }
                },
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        Err(Parting::TooSlow)
                    } else {
                        self.send(Message::Ping(Vec::new().into())).await
                    }
                }
            };
            if let Err(parting) = sent {
                return parting;
            }
        }
    }

    /// Says which stream this is, and finds where to start.
    async fn greet(&mut self, stream: &Stream, query: &StreamQuery) -> Result<u64, Parting> {
        let latest = stream.latest();
        let hello = json!({"type": "hello", "stream": stream.id(), "sequence": latest});
        self.send_json(&hello).await?;
        let Some(after) = query.after else {
            return Ok(latest);
        };
        let is_other = query.stream.as_deref().is_some_and(|id| id != stream.id());
        if is_other || after > latest {
            let gap = json!({"type": "gap", "reason": "restarted", "first": 1, "last": latest});
            self.send_json(&gap).await?;
            return Ok(latest);
        }
        Ok(after)
    }

    async fn send_next(&mut self, next: Next) -> Result<(), Parting> {
        match next {
            Next::Gap { first, last } => {
                let gap = json!({"type": "gap", "reason": "behind", "first": first, "last": last});
                self.send_json(&gap).await
            }
            Next::Changes(changes) => {
                for change in changes {
                    let kind = change::kind_name(&change.kind);
                    if self.kinds.is_empty() || self.kinds.contains(&kind) {
                        let shown = change::show(&change, &self.api.outlook.clock);
                        self.send_json(&shown).await?;
                    }
                }
                Ok(())
            }
        }
    }

    async fn send_json(&mut self, value: &serde_json::Value) -> Result<(), Parting> {
        self.send(Message::Text(value.to_string().into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Parting> {
        match tokio::time::timeout(SEND_TIMEOUT, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Parting::Left),
            Err(_) => Err(Parting::TooSlow),
        }
    }
}
