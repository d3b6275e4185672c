//! Answers the requests of one stats connection. It never renders a page itself.

use super::pages::{IntoStats, Moment, Pages};
use super::route::Route;
use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Answers being rendered or written at once; further requests wait.
pub(super) const ANSWERS_MAX: usize = 2;

/// How long a request waits while [`ANSWERS_MAX`] others are being answered.
pub(super) const ANSWERS_WAIT: Duration = Duration::from_secs(5);

/// Time from a request until the client has read the answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

const TEXT: &str = "text/plain; charset=utf-8";

/// Answers the requests of one connection.
pub(super) struct StatsService<S> {
    /// Shared by all connections.
    pub(super) pages: Rc<Pages<S>>,
    /// Shared by all connections.
    pub(super) answers: Arc<Semaphore>,
    /// When the connection is closed, whatever it is doing.
    pub(super) due: Rc<Cell<Instant>>,
}

impl<S: Fn() -> Option<IntoStats> + 'static> StatsService<S> {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        self.due.set(Instant::now() + ANSWER_TIMEOUT);
        let mut response = self.respond(request.method(), request.uri().path()).await;
        if !request.body().is_end_stream() {
            // The body is not read, so the next request cannot be found.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let Some(route) = Route::ALL.into_iter().find(|route| route.path() == path) else {
            let routes = Route::ALL.map(Route::path).join("\n");
            return plain(StatusCode::NOT_FOUND, format!("no such page; the pages are:\n{routes}\n"));
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "the pages are read-only: use GET or HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let page = match route {
            Route::Metrics => Moment::metrics,
            Route::Json => Moment::json,
            Route::Health => return plain(StatusCode::OK, "ok\n"),
        };
        let permit = Arc::clone(&self.answers).acquire_owned();
        let Ok(Ok(permit)) = tokio::time::timeout(ANSWERS_WAIT, permit).await else {
            return unavailable("other answers are still being written; try again in a second\n");
        };
        let Some(moment) = self.pages.now() else { return unavailable("the daemon is stopping\n") };
        let text = match tokio::task::spawn_blocking(move || page(&moment)).await {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => return failed(&error),
            Err(error) => return failed(&error),
        };
        let body = Bytes::from_owner(Held { text, _permit: permit });
        response(StatusCode::OK, route.content_type(), body)
    }
}

/// An answer being written. Its permit is released with its last byte.
struct Held {
    text: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, TEXT, text.into())
}

fn unavailable(why: &'static str) -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, why);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn failed(why: &dyn fmt::Display) -> Response<Full<Bytes>> {
    tracing::error!(%why, "cannot render the statistics");
    plain(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot render the statistics: {why}\n"))
}
