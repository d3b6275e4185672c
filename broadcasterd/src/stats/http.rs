//! The stats socket: a small HTTP/1.1 server that tells the daemon's numbers and changes nothing. On the thread of the bus it
//! only copies bytes; what is told is put into words on another thread.

use super::model::Stats;
use super::{metrics, process};
use crate::os::{self, StatsConn, StatsListener, is_ours};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Connections at once; a further one is told to come back later.
pub(crate) const CONNECTIONS_MAX: usize = 16;

/// Answers that are made or held in memory at once; a further request waits.
const ANSWERS_MAX: usize = 2;

/// How long a request waits while there are [`ANSWERS_MAX`] others.
const ANSWERS_WAIT: Duration = Duration::from_secs(5);

/// From the begin of a connection, or from an answer, to the end of the next request.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// From a request until its answer has been read by whoever asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What a request may have; the least that the HTTP library takes.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// After the system could not give us a connection, because there are too many open files for example.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What somebody hears who comes when there are [`CONNECTIONS_MAX`] others.
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 44\r\n\
    retry-after: 1\r\nconnection: close\r\n\r\ntoo many connections at once; try again soon";

const TEXT: &str = "text/plain; charset=utf-8";

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// The numbers, for monitoring systems.
    Metrics,
    /// The numbers, for programs.
    Json,
    /// Whether somebody answers.
    Health,
}

impl Route {
    pub(crate) const ALL: [Self; 3] = [Self::Metrics, Self::Json, Self::Health];

    /// Where it is.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/metrics",
            Self::Json => "/stats.json",
            Self::Health => "/healthz",
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Metrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Json => "application/json",
            Self::Health => TEXT,
        }
    }
}

/// Answers everybody who connects to `listener` and is of our own user, for ever. It sleeps while nobody is connected.
///
/// `source` is called on this thread, once for each answer; it takes a picture, or none if the daemon is at its end. What it
/// gives back makes the numbers of that, on another thread. Must run on a `LocalRuntime`.
pub(crate) async fn serve_all<S, P>(mut listener: StatsListener, source: S)
where
    S: Fn() -> Option<P> + Clone + 'static,
    P: FnOnce() -> Stats + Send + 'static,
{
    let answers = Arc::new(Semaphore::new(ANSWERS_MAX));
    let mut connections = JoinSet::new();
    loop {
        match accept(&mut listener, &mut connections).await {
            Ok(stream) if !is_ours(&stream) => tracing::warn!("a stats connection of another user was refused"),
            Ok(stream) if connections.len() >= CONNECTIONS_MAX => {
                // It takes what fits at once, which is all: nothing was written before.
                let _ = stream.try_write(BUSY);
            }
            Ok(stream) => {
                connections.spawn_local(serve(stream, source.clone(), Arc::clone(&answers)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a stats connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The next connection; meanwhile those that have ended are let go of.
async fn accept(listener: &mut StatsListener, connections: &mut JoinSet<()>) -> io::Result<StatsConn> {
    poll_fn(|cx| {
        while let Poll::Ready(Some(_)) = connections.poll_join_next(cx) {}
        os::poll_accept_stats(listener, cx)
    })
    .await
}

/// Answers one connection until it ends or has taken too long.
async fn serve<S, P>(stream: StatsConn, source: S, answers: Arc<Semaphore>)
where
    S: Fn() -> Option<P>,
    P: FnOnce() -> Stats + Send + 'static,
{
    let desk = Desk { source, answers, due: Rc::new(Cell::new(Instant::now() + REQUEST_WITHIN + ANSWER_WITHIN)) };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .max_buf_size(REQUEST_BYTES_MAX)
        // Each answer stays one piece: it counts as held until it is written, and no other one is begun before.
        .writev(true);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service_fn(|request| desk.answer(request))));
    let mut alarm = pin!(tokio::time::sleep_until(desk.due.get()));
    poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if alarm.deadline() != desk.due.get() {
            alarm.as_mut().reset(desk.due.get());
        }
        alarm.as_mut().poll(cx)
    })
    .await;
}

/// Where the requests of one connection are answered.
struct Desk<S> {
    source: S,
    /// Shared by all connections.
    answers: Arc<Semaphore>,
    /// When the connection is closed, whatever happens.
    due: Rc<Cell<Instant>>,
}

impl<S, P> Desk<S>
where
    S: Fn() -> Option<P>,
    P: FnOnce() -> Stats + Send + 'static,
{
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        self.due.set(Instant::now() + ANSWER_WITHIN);
        let mut response = self.respond(request.method(), request.uri().path()).await;
        if !request.body().is_end_stream() {
            // Nobody will read it.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let Some(route) = Route::ALL.into_iter().find(|route| route.path() == path) else {
            let routes = Route::ALL.map(Route::path).join("\n");
            return plain(StatusCode::NOT_FOUND, format!("there is no such page; there are:\n{routes}\n"));
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "it can be read only: use GET or HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let render = match route {
            Route::Metrics => metrics::render,
            Route::Json => json,
            Route::Health => return plain(StatusCode::OK, "ok\n"),
        };
        let answers = Arc::clone(&self.answers).acquire_owned();
        let Ok(Ok(place)) = tokio::time::timeout(ANSWERS_WAIT, answers).await else {
            return unavailable("too many answers are on their way; try again soon\n");
        };
        let Some(picture) = (self.source)() else { return unavailable("the daemon is at its end\n") };
        let text = match tokio::task::spawn_blocking(move || render(picture())).await {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => return failed(&*error),
            Err(error) => return failed(&error),
        };
        let body = Bytes::from_owner(Held { text, _place: place });
        page(StatusCode::OK, route.content_type(), body)
    }
}

/// `GET /stats.json`. The names of the processes are looked up here.
fn json(mut stats: Stats) -> Result<String, Box<dyn Error + Send + Sync>> {
    process::name(&mut stats.connections);
    Ok(serde_json::to_string(&stats)?)
}

/// An answer on its way, which gives its place up when its last byte is written.
struct Held {
    text: String,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

fn page(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    page(status, TEXT, text.into())
}

fn unavailable(why: &'static str) -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, why);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn failed(why: &dyn Error) -> Response<Full<Bytes>> {
    tracing::error!(%why, "cannot tell the numbers");
    plain(StatusCode::INTERNAL_SERVER_ERROR, format!("the numbers could not be told: {why}\n"))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::stats::sample;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::JoinHandle;

    /// Runs a test in virtual time: it passes when nothing else is left to do.
    fn run(test: impl Future<Output = ()>) {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(test);
    }

    /// What one side of the tests is: the reader's end, and how often the numbers were asked for.
    struct Reader {
        stream: UnixStream,
        asked: Rc<Cell<usize>>,
        served: JoinHandle<()>,
    }

    fn reader(stats: Stats) -> Reader {
        reader_among(stats, &Arc::new(Semaphore::new(ANSWERS_MAX)))
    }

    fn reader_among(stats: Stats, answers: &Arc<Semaphore>) -> Reader {
        let (stream, served) = UnixStream::pair().expect("sockets");
        let asked = Rc::new(Cell::new(0));
        let source = {
            let asked = Rc::clone(&asked);
            move || {
                asked.set(asked.get() + 1);
                let stats = stats.clone();
                Some(move || stats)
            }
        };
        let served = tokio::task::spawn_local(serve(served, source, Arc::clone(answers)));
        Reader { stream, asked, served }
    }

    impl Reader {
        async fn say(&mut self, text: &str) {
            self.stream.write_all(text.as_bytes()).await.expect("it takes it");
        }

        /// All that comes until the connection is closed.
        async fn rest(&mut self) -> String {
            let mut bytes = Vec::new();
            // A close with something unread is a reset, after what was written before.
            if let Err(error) = self.stream.read_to_end(&mut bytes).await {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
            String::from_utf8(bytes).expect("text")
        }

        async fn exchange(&mut self, request: &str) -> String {
            self.say(request).await;
            self.rest().await
        }
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    }

    fn split(answer: &str) -> (&str, &str) {
        answer.split_once("\r\n\r\n").expect("head and body")
    }

    /// An answer that no socket takes at once.
    fn many_channels() -> Stats {
        let mut stats = sample::stats();
        stats.channels = (0..50_000).map(|n| sample::channel(&format!("news.{n}"), n)).collect();
        stats
    }

    #[test]
    fn each_route_answers_in_its_format() {
        run(async {
            let answer = reader(sample::stats()).exchange(&get("/stats.json")).await;
            let (head, body) = split(&answer);
            assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: application/json\r\n"), "{head}");
            assert_eq!(serde_json::from_str::<Stats>(body).expect("the schema"), sample::stats());

            let answer = reader(sample::stats()).exchange(&get("/metrics?from=somewhere")).await;
            let (head, body) = split(&answer);
            let wanted = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
            assert!(head.contains(wanted), "{head}");
            assert_eq!(body, metrics::render(sample::stats()).expect("text"));

            let answer = reader(sample::stats()).exchange(&get("/healthz")).await;
            assert!(split(&answer).0.starts_with("HTTP/1.1 200 "), "{answer}");
            assert_eq!(split(&answer).1, "ok\n");
        });
    }

    #[test]
    fn json_names_the_processes_that_are_there() {
        run(async {
            let mut stats = sample::stats();
            stats.connections[0].pid = std::process::id();
            let answer = reader(stats).exchange(&get("/stats.json")).await;
            let told: Stats = serde_json::from_str(split(&answer).1).expect("the schema");
            assert_eq!(told.connections[0].process.is_some(), cfg!(target_os = "linux"));
            assert_eq!(told.connections[1].process, None);
        });
    }

    #[test]
    fn head_is_the_same_without_a_body() {
        run(async {
            for route in Route::ALL {
                let whole = reader(sample::stats()).exchange(&get(route.path())).await;
                let mut reader = reader(sample::stats());
                let answer = reader.exchange(&get(route.path()).replace("GET", "HEAD")).await;
                let without_date = |head: &str| {
                    head.lines().filter(|line| !line.starts_with("date:")).map(str::to_owned).collect::<Vec<_>>()
                };
                assert_eq!(without_date(split(&answer).0), without_date(split(&whole).0));
                assert!(split(&whole).0.contains(&format!("content-length: {}", split(&whole).1.len())), "{whole}");
                assert_eq!(split(&answer).1, "");
            }
        });
    }

    #[test]
    fn other_paths_are_told_the_routes_and_other_methods_what_is_allowed() {
        run(async {
            for path in ["/", "/metrics/", "/stats", "/../metrics"] {
                let mut reader = reader(sample::stats());
                let answer = reader.exchange(&get(path)).await;
                assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
                assert!(Route::ALL.iter().all(|route| split(&answer).1.contains(route.path())), "{answer}");
                assert_eq!(reader.asked.get(), 0);
            }
            for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
                let mut reader = reader(sample::stats());
                let answer = reader.exchange(&get("/metrics").replace("GET", method)).await;
                assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
                assert_eq!(reader.asked.get(), 0);
            }
        });
    }

    #[test]
    fn one_connection_may_ask_again() {
        run(async {
            let mut reader = reader(sample::stats());
            let again = get("/healthz").replace("connection: close\r\n", "");
            let answer = reader.exchange(&format!("{again}{again}{}", get("/healthz"))).await;
            assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 3, "{answer}");
        });
    }

    #[test]
    fn a_body_is_not_read_and_ends_the_connection() {
        run(async {
            let mut reader = reader(sample::stats());
            let request =
                "GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n";
            let answer = reader.exchange(request).await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close\r\n"), "{answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "what is in a body is no request: {answer}");
            assert_eq!(reader.asked.get(), 0);
        });
    }

    #[test]
    fn oversize_headers_and_garbage_end_the_connection() {
        run(async {
            let long = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(2 * REQUEST_BYTES_MAX));
            let mut one = reader(sample::stats());
            let answer = one.exchange(&long).await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
            assert_eq!(one.asked.get(), 0);
            for garbage in ["\0\0\0\0\x10\0\0\0\r\n\r\n", "GET\r\n\r\n", "hello\n\n", "GET /metrics HTTP/9.9\r\n\r\n"] {
                let mut reader = reader(sample::stats());
                let answer = reader.exchange(garbage).await;
                assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{garbage:?}: {answer}");
                assert_eq!(reader.asked.get(), 0);
                reader.served.await.expect("it ends without a panic");
            }
        });
    }

    #[test]
    fn a_request_that_does_not_come_to_its_end_is_not_waited_for() {
        run(async {
            for beginning in
                ["", "GET /metrics HTTP/1.1\r\nhost: x\r\n", "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /"]
            {
                let mut reader = reader(sample::stats());
                let began = Instant::now();
                reader.exchange(beginning).await;
                let took = began.elapsed();
                assert!(took >= REQUEST_WITHIN && took < 2 * REQUEST_WITHIN, "{beginning:?} after {took:?}");
            }
        });
    }

    #[test]
    fn a_reader_that_does_not_read_is_left_and_its_answer_forgotten() {
        run(async {
            let answers = Arc::new(Semaphore::new(ANSWERS_MAX));
            let mut reader = reader_among(many_channels(), &answers);
            let began = Instant::now();
            reader.say(&get("/stats.json")).await;
            (&mut reader.served).await.expect("it ends");
            assert_eq!(began.elapsed().as_secs(), ANSWER_WITHIN.as_secs());
            assert_eq!(answers.available_permits(), ANSWERS_MAX, "its answer holds no place any more");
            assert!(serde_json::from_str::<Stats>(split(&reader.rest().await).1).is_err(), "the answer was cut off");
        });
    }

    #[test]
    fn a_pipeline_of_requests_is_no_pile_of_answers() {
        run(async {
            let mut reader = reader(many_channels());
            reader.say(&get("/stats.json").replace("connection: close\r\n", "").repeat(50)).await;
            tokio::time::sleep(ANSWER_WITHIN / 2).await;
            assert!((1..=2).contains(&reader.asked.get()), "{} answers were made", reader.asked.get());
        });
    }

    #[test]
    fn a_request_waits_a_while_for_others_and_is_then_told_to_come_again() {
        run(async {
            let answers = Arc::new(Semaphore::new(1));
            let mut holder = reader_among(many_channels(), &answers);
            holder.say(&get("/stats.json")).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut late = reader_among(sample::stats(), &answers);
            let began = Instant::now();
            let answer = late.exchange(&get("/metrics")).await;
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1\r\n"), "{answer}");
            assert_eq!(began.elapsed().as_secs(), ANSWERS_WAIT.as_secs());
            assert!(reader_among(sample::stats(), &answers).exchange(&get("/healthz")).await.ends_with("ok\n"));

            let mut patient = reader_among(sample::stats(), &answers);
            patient.say(&get("/metrics")).await;
            assert!(serde_json::from_str::<Stats>(split(&holder.rest().await).1).is_ok(), "it was only slow");
            assert!(patient.rest().await.starts_with("HTTP/1.1 200 "), "the place was free again");
        });
    }

    #[test]
    fn one_connection_too_many_is_told_so_and_the_others_stay() {
        run(async {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("stats.sock");
            let listener = UnixListener::bind(&path).expect("bound");
            let server = tokio::task::spawn_local(serve_all(listener, || Some(sample::stats)));
            let mut streams = Vec::new();
            for _ in 0..=CONNECTIONS_MAX {
                streams.push(UnixStream::connect(&path).await.expect("connected"));
            }
            let mut said = String::new();
            let mut last = streams.pop().expect("one too many");
            last.read_to_string(&mut said).await.expect("text");
            assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
            assert!(split(&said).0.contains(&format!("content-length: {}\r\n", split(&said).1.len())), "{said}");

            for stream in &mut streams {
                let mut said = String::new();
                stream.write_all(get("/healthz").as_bytes()).await.expect("written");
                stream.read_to_string(&mut said).await.expect("text");
                assert!(said.ends_with("ok\n"), "{said}");
            }
            let mut said = String::new();
            let mut next = UnixStream::connect(&path).await.expect("connected");
            next.write_all(get("/healthz").as_bytes()).await.expect("written");
            next.read_to_string(&mut said).await.expect("text");
            assert!(said.ends_with("ok\n"), "those who left have made room: {said}");

            streams.push(UnixStream::connect(&path).await.expect("connected"));
            server.abort();
            assert!(server.await.expect_err("it never ends by itself").is_cancelled());
            said.clear();
            let left = streams.last_mut().expect("one").read_to_string(&mut said).await;
            assert!(left.is_err() || said.is_empty(), "its connections end with it");
        });
    }
}
