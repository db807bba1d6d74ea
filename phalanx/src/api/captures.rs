//! `/api/v1/captures`: recording jobs and their files.

use std::io::SeekFrom;
use std::sync::Arc;

use axum::body::{Body as HttpBody, Bytes};
use axum::extract::State as Shared;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http_body_util::channel::{Channel, Sender};
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::extract::{Body, Id, Query};
use super::gate;
use super::problem::{Kind, Problem};
use super::recorder::Recorder;
use super::redacted::Download;
use crate::auth::Role;
use crate::capture::{BadField, CaptureRequest, CaptureView, Failure, Shape};

/// Media type of pcapng files.
pub(super) const PCAPNG: &str = "application/x-pcapng";

/// Bytes of a file that are read at once.
const CHUNK_SIZE: usize = 64 << 10;

/// Chunks of a download that wait for a slow client.
const CHUNK_COUNT_MAX: usize = 4;

/// All captures.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CaptureList {
    /// The captures, the latest first.
    pub captures: Vec<CaptureView>,
}

/// How to download.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FileQuery {
    /// Go on until the capture ends, with packets as they come.
    #[serde(default)]
    follow: bool,
    /// With stand-ins in place of addresses, and without payload: what there is by now.
    #[param(inline)]
    redact: Option<Redact>,
}

/// Longest name of a conversation in bytes: a hop's name and a number.
const CONVERSATION_LENGTH_MAX: usize = 300;

/// Which report.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReportQuery {
    /// How it is written; `json` where absent.
    #[serde(default)]
    #[param(inline)]
    format: Shape,
    /// One conversation by its name in the report, such as `tcp-17`; the worst ones where absent.
    #[param(max_length = 300)]
    conversation: Option<String>,
}

impl Shape {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Svg => "image/svg+xml",
            Self::Html => "text/html; charset=utf-8",
            Self::Text => "text/plain; charset=utf-8",
        }
    }
}

impl ReportQuery {
    fn conversation(&self) -> Result<Option<&str>, Problem> {
        let Some(text) = self.conversation.as_deref() else {
            return Ok(None);
        };
        let is_name =
            (1..=CONVERSATION_LENGTH_MAX).contains(&text.len()) && !text.contains(char::is_control);
        match is_name {
            true => Ok(Some(text)),
            false => Err(Problem::invalid(
                "conversation",
                "it is no name of a conversation",
                "the JSON report has the names as id, such as web-1/tcp-17",
            )),
        }
    }
}

/// What a download does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Redact {
    /// Neither addresses nor payload.
    Addresses,
}

impl Api {
    fn captures(&self) -> Result<&Recorder, Problem> {
        self.captures.as_ref().map_err(|why| {
            Problem::new(Kind::Unavailable, format!("captures cannot be kept: {why}"))
                .remedy("set capture_directory to a directory that the daemon can write")
        })
    }
}

impl From<BadField> for Problem {
    fn from(bad: BadField) -> Self {
        let problem = Self::invalid(bad.field, bad.detail, bad.remedy);
        match bad
            .position
            .and_then(|position| u32::try_from(position).ok())
        {
            Some(position) => problem.at(position),
            None => problem,
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Field(bad) => bad.into(),
            Failure::Limit(detail) => Self::new(Kind::LimitReached, detail)
                .remedy("wait for a capture to end, stop one, or ask for less"),
            Failure::DiskFull(detail) => Self::new(Kind::DiskFull, detail)
                .field("max_bytes")
                .remedy("ask for fewer bytes, delete captures, or free the disk"),
            Failure::Unknown => Self::new(Kind::NotFound, "there is no such capture")
                .field("id")
                .remedy("see /api/v1/captures; old captures are deleted by age and size"),
            Failure::Running => Self::new(Kind::Conflict, "the capture runs")
                .remedy("stop it first: POST /api/v1/captures/{id}/stop"),
            Failure::Unavailable(detail) => Self::new(Kind::Unavailable, detail)
                .remedy("see /api/v1/status and the log of the daemon"),
        }
    }
}

/// Begins a capture.
#[utoipa::path(post, path = "/api/v1/captures", tag = "captures", request_body = CaptureRequest,
    responses(
        (status = 201, body = CaptureView, headers(("location" = String))),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    Shared(api): Shared<Arc<Api>>,
    Extension(role): Extension<Role>,
    Body(request): Body<CaptureRequest>,
) -> Result<Response, Problem> {
    if request.snaplen > 0 {
        gate::need(role, Role::Admin).map_err(|problem| {
            problem.field("snaplen").remedy(
                "leave snaplen out to capture headers, use a token with the role admin, \
                 or set local_role",
            )
        })?;
    }
    let view = api.captures()?.create(request).await?;
    let location = format!("/api/v1/captures/{}", view.id);
    let mut response = (StatusCode::CREATED, Json(view)).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// Lists captures.
#[utoipa::path(get, path = "/api/v1/captures", tag = "captures",
    responses((status = 200, body = CaptureList),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(Shared(api): Shared<Arc<Api>>) -> Result<Json<CaptureList>, Problem> {
    Ok(Json(CaptureList {
        captures: api.captures()?.list(),
    }))
}

/// Shows a capture.
#[utoipa::path(get, path = "/api/v1/captures/{id}", tag = "captures",
    params(("id" = String, Path, description = "Id of the capture")),
    responses((status = 200, body = CaptureView),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn get(
    Shared(api): Shared<Arc<Api>>,
    Id(id): Id,
) -> Result<Json<CaptureView>, Problem> {
    Ok(Json(api.captures()?.get(&id)?))
}

/// Stops a capture; its file is kept.
#[utoipa::path(post, path = "/api/v1/captures/{id}/stop", tag = "captures",
    params(("id" = String, Path, description = "Id of the capture")),
    responses((status = 200, body = CaptureView),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn stop(
    Shared(api): Shared<Arc<Api>>,
    Id(id): Id,
) -> Result<Json<CaptureView>, Problem> {
    Ok(Json(api.captures()?.stop(&id).await?))
}

/// Deletes a capture and its file.
#[utoipa::path(delete, path = "/api/v1/captures/{id}", tag = "captures",
    params(("id" = String, Path, description = "Id of the capture")),
    responses((status = 204),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete(
    Shared(api): Shared<Arc<Api>>,
    Id(id): Id,
) -> Result<StatusCode, Problem> {
    api.captures()?.delete(&id)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Downloads the file of a capture, pcapng.
#[utoipa::path(get, path = "/api/v1/captures/{id}/file", tag = "captures",
    params(("id" = String, Path, description = "Id of the capture"), FileQuery),
    responses((status = 200, body = Vec<u8>, content_type = "application/x-pcapng"),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn file(
    Shared(api): Shared<Arc<Api>>,
    Extension(role): Extension<Role>,
    Id(id): Id,
    Query(query): Query<FileQuery>,
) -> Result<Response, Problem> {
    let captures = api.captures()?;
    if query.redact.is_none() {
        need_for_payload(role, &captures.get(&id)?).map_err(|problem| {
            problem.field("redact").remedy(
                "add redact=addresses for the headers alone, use a token with the role admin, \
                 or set local_role",
            )
        })?;
    }
    let (path, flushed) = captures.file(&id)?;
    let file = File::open(&path).await.map_err(|error| {
        Problem::new(
            Kind::Unavailable,
            format!("open the file of capture {id}: {error}"),
        )
        .remedy("see the log of the daemon")
    })?;
    let (sender, channel) = Channel::<Bytes, std::io::Error>::new(CHUNK_COUNT_MAX);
    let suffix = match query.redact {
        None => {
            tokio::spawn(send(file, flushed, query.follow, sender));
            ""
        }
        Some(Redact::Addresses) => {
            if query.follow {
                return Err(Problem::invalid(
                    "follow",
                    "a capture is redacted as far as it goes by now",
                    "leave follow out, or wait for its end",
                ));
            }
            let whole = *flushed.borrow();
            let download = Download::begin(file.into_std().await, whole).await?;
            tokio::spawn(download.send(sender));
            "-redacted"
        }
    };
    let mut response = Response::new(HttpBody::new(channel));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PCAPNG));
    let name = format!("attachment; filename=\"phalanx-{id}{suffix}.pcapng\"");
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

/// Reports what a capture shows, once it has ended: its conversations, what was lost and delayed
/// between the hops that saw them, and their packets one by one.
#[utoipa::path(get, path = "/api/v1/captures/{id}/report", tag = "captures",
    params(("id" = String, Path, description = "Id of the capture"), ReportQuery),
    responses(
        (status = 200, content(
            (serde_json::Value = "application/json"),
            (String = "image/svg+xml"),
            (String = "text/html"),
            (String = "text/plain"))),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn report(
    Shared(api): Shared<Arc<Api>>,
    Extension(role): Extension<Role>,
    Id(id): Id,
    Query(query): Query<ReportQuery>,
) -> Result<Response, Problem> {
    let captures = api.captures()?;
    need_for_payload(role, &captures.get(&id)?)?;
    let conversation = query.conversation()?;
    let report = captures.report(&id, query.format, conversation).await;
    let report = report.map_err(|failure| match failure {
        // It could not be read, or has not what was asked for.
        Failure::Unavailable(detail) => Problem::new(Kind::Conflict, detail)
            .remedy("see the losses of the capture, and the conversations of its JSON report"),
        other => other.into(),
    })?;
    let read = |error: std::io::Error| {
        Problem::new(Kind::Unavailable, format!("read the report: {error}"))
    };
    let whole = report.metadata().map_err(read)?.len();
    let (sender, channel) = Channel::<Bytes, std::io::Error>::new(CHUNK_COUNT_MAX);
    let (_, size) = watch::channel(whole);
    tokio::spawn(send(File::from_std(report), size, false, sender));
    let mut response = Response::new(HttpBody::new(channel));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static(query.format.media_type());
    headers.insert(CONTENT_TYPE, kind);
    // The page runs its own script, and that may do nothing with the API.
    let alone = HeaderValue::from_static(
        "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; \
         style-src 'unsafe-inline'; img-src data:",
    );
    headers.insert(CONTENT_SECURITY_POLICY, alone);
    Ok(response)
}

/// What holds payload is for admins.
fn need_for_payload(role: Role, view: &CaptureView) -> Result<(), Problem> {
    if view.request.snaplen > 0 {
        gate::need(role, Role::Admin).map_err(|problem| {
            problem.remedy("use a token with the role admin, or set local_role")
        })?;
    }
    Ok(())
}

/// Sends what is whole of a file, and goes on while it grows where that is wanted.
async fn send(
    mut file: File,
    mut flushed: watch::Receiver<u64>,
    should_follow: bool,
    mut sender: Sender<Bytes, std::io::Error>,
) {
    let mut sent = 0;
    loop {
        let whole = *flushed.borrow_and_update();
        match copy(&mut file, sent, whole, &mut sender).await {
            Ok(true) => sent = whole,
            Ok(false) => return,
            Err(error) => return sender.abort(error),
        }
        // The sending half goes when the capture has ended.
        if !should_follow || flushed.changed().await.is_err() && *flushed.borrow() == sent {
            return;
        }
    }
}

/// Sends a range of a file; false where the client has gone.
async fn copy(
    file: &mut File,
    from: u64,
    to: u64,
    sender: &mut Sender<Bytes, std::io::Error>,
) -> std::io::Result<bool> {
    file.seek(SeekFrom::Start(from)).await?;
    let mut rest = file.take(to.saturating_sub(from));
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_SIZE);
        if (&mut rest)
            .take(CHUNK_SIZE as u64)
            .read_to_end(&mut chunk)
            .await?
            == 0
        {
            return Ok(true);
        }
        if sender.send_data(chunk.into()).await.is_err() {
            return Ok(false);
        }
    }
}
