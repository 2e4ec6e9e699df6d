//! `/metrics`, on a listener of its own: it asks nobody who they are.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE, header::HeaderValue,
    server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, io, sync::Arc, time::Duration};
use supervisor::{JobFate, JobSpec, Metrics, Spawner, Stage};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

/// Connections at a time.
const CONNECTIONS: usize = 16;
/// How long a connection lasts at most: a scraper comes again.
const LIFETIME: Duration = Duration::from_secs(60);

/// Takes connections in.
pub(super) async fn accept(listener: Arc<TcpListener>, metrics: Metrics, spawner: Spawner) -> Result<(), io::Error> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let Ok((socket, _)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let metrics = metrics.clone();
        let spec =
            JobSpec::new("registry-scrape").on_error(JobFate::Ignore).on_panic(JobFate::Ignore).stage(Stage::Base);
        spawner.spawn_job(spec, move |_| async move {
            serve(socket, metrics).await;
            drop(place);
            Ok::<(), Infallible>(())
        });
    }
}

async fn serve(socket: TcpStream, metrics: Metrics) {
    let handle = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
    // A scraper that breaks off has only itself to blame.
    let _ended_in_order = timeout(LIFETIME, builder.serve_connection(TokioIo::new(socket), handle)).await.is_ok();
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, text, media_type) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, metrics.encode(), Metrics::MEDIA_TYPE),
        (&Method::GET, "/health") => (StatusCode::OK, "ok\n".to_owned(), "text/plain"),
        _ => (StatusCode::NOT_FOUND, "expected /metrics or /health\n".to_owned(), "text/plain"),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
