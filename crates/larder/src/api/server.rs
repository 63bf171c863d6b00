//! The daemon's side of the control API.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::net::UnixListener;

use super::cache_types::{
    CacheStats, DiskUse, ListRequest, PinRequest, Pinned, PruneRequest, Pruned, VerifyRequest,
};
use super::owner::OwnerOnly;
use super::types::{
    Mount, MountRequest, Records, ReplaceRequest, Replacing, Status, StopRequest, TraceRequest, UmountRequest,
};
use super::{routes, stream};
use crate::daemon::Daemon;
use crate::daemon::stand_in::StandIn;
use crate::errors::{Kind, Report, told};

/// Largest request: two paths and a name.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Answers callers through `router` until `until` is done; calls under way are answered first.
///
/// # Errors
///
/// When the listener fails.
pub async fn serve(
    listener: UnixListener,
    router: Router,
    until: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(OwnerOnly(listener), router).with_graceful_shutdown(until).await
}

/// The endpoints of somebody who stands in for a worker: to be seen, to make way, to end.
pub fn stand_in(stand_in: Arc<StandIn>) -> Router {
    let status = |State(stand_in): State<Arc<StandIn>>| blocking(move || Ok(stand_in.status()));
    let replace = |State(stand_in): State<Arc<StandIn>>, Json(request): Json<ReplaceRequest>| {
        blocking(move || stand_in.replace(&request))
    };
    let stop = |State(stand_in): State<Arc<StandIn>>, Json(request): Json<StopRequest>| {
        blocking(move || stand_in.stop(request.lazy))
    };
    let other = |State(stand_in): State<Arc<StandIn>>| async move { Failure(stand_in.refusal()) };
    Router::new()
        .route(routes::STATUS, get(status))
        .route(routes::REPLACE, post(replace))
        .route(routes::STOP, post(stop))
        .fallback(other)
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(stand_in)
}

/// The endpoints of a worker.
pub fn worker(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route(routes::STATUS, get(status))
        .route(routes::MOUNTS, post(mount).delete(umount))
        .route(routes::RECORDS, get(records))
        .route(routes::CACHE_OBJECTS, post(cache_objects))
        .route(routes::CACHE_USAGE, get(cache_usage))
        .route(routes::CACHE_STATS, get(cache_stats))
        .route(routes::CACHE_PRUNE, post(cache_prune))
        .route(routes::CACHE_PIN, post(cache_pin))
        .route(routes::CACHE_VERIFY, post(cache_verify))
        .route(routes::TRACE, post(trace))
        .route(routes::REPLACE, post(replace))
        .route(routes::STOP, post(stop))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(daemon)
}

type Answer<T> = Result<Json<T>, Failure>;

async fn status(State(daemon): State<Arc<Daemon>>) -> Json<Status> {
    Json(daemon.status())
}

async fn mount(State(daemon): State<Arc<Daemon>>, Json(request): Json<MountRequest>) -> Answer<Mount> {
    // A caller who hangs up must not leave a mount half made: the work goes on without the connection.
    finish(async move { daemon.mount(request).await }).await
}

async fn umount(State(daemon): State<Arc<Daemon>>, Json(request): Json<UmountRequest>) -> Answer<()> {
    finish(async move { daemon.umount(&request.path, request.lazy).await }).await
}

async fn records(State(daemon): State<Arc<Daemon>>, Path(id): Path<String>) -> Answer<Records> {
    Ok(Json(daemon.records(&id)?))
}

async fn cache_objects(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<ListRequest>,
) -> Result<Response, Failure> {
    let answer = stream::lines(move |lines| {
        daemon.with_inventory(|inventory| inventory.list(&request, |object| lines.push(&object)))
    });
    Ok(answer.await?)
}

async fn cache_usage(State(daemon): State<Arc<Daemon>>) -> Answer<DiskUse> {
    blocking(move || daemon.with_inventory(|inventory| inventory.disk_use())).await
}

async fn cache_stats(State(daemon): State<Arc<Daemon>>) -> Answer<CacheStats> {
    blocking(move || daemon.cache_stats()).await
}

async fn cache_prune(State(daemon): State<Arc<Daemon>>, Json(request): Json<PruneRequest>) -> Answer<Pruned> {
    blocking(move || daemon.with_inventory(|inventory| inventory.prune(&request))).await
}

async fn cache_pin(State(daemon): State<Arc<Daemon>>, Json(request): Json<PinRequest>) -> Answer<Pinned> {
    blocking(move || daemon.with_inventory(|inventory| inventory.pin(&request))).await
}

async fn cache_verify(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<VerifyRequest>,
) -> Result<Response, Failure> {
    let answer = stream::lines(move |lines| daemon.verify(&request, &mut |line| lines.push_now(&line)));
    Ok(answer.await?)
}

async fn trace(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<TraceRequest>,
) -> Result<Response, Failure> {
    Ok(stream::trace(daemon.subscribe(request)?))
}

async fn replace(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<ReplaceRequest>,
) -> Answer<Replacing> {
    blocking(move || daemon.replace(&request)).await
}

async fn stop(State(daemon): State<Arc<Daemon>>, Json(request): Json<StopRequest>) -> Answer<()> {
    finish(async move { daemon.stop(request.lazy).await }).await
}

async fn unknown(uri: axum::http::Uri) -> Failure {
    Failure(told(
        Kind::NotFound,
        format!("{}: no such endpoint", uri.path()),
        "the daemon may be older than the command",
    ))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Answer<T> {
    finish(async move { tokio::task::spawn_blocking(work).await? }).await
}

async fn finish<T: Send + 'static>(
    work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> Answer<T> {
    match tokio::spawn(work).await {
        Ok(result) => Ok(Json(result?)),
        Err(panic) => Err(Failure(anyhow::anyhow!("the daemon failed inside: {panic}"))),
    }
}

/// An error on its way to the caller.
struct Failure(anyhow::Error);

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let report = Report::of(&self.0);
        tracing::info!(error = %report.error, caused_by = ?report.caused_by, "api_failed");
        let status = match report.kind {
            Kind::BadRequest => StatusCode::BAD_REQUEST,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(report)).into_response()
    }
}
