//! The stats socket: a small, read-only HTTP/1.1 server for the daemon's statistics. The thread of the bus only moves bytes;
//! pages are rendered on another thread.

use super::pages::{IntoStats, Pages};
use super::service::{ANSWER_TIMEOUT, ANSWERS_MAX, StatsService};
use crate::os::{self, StatsConn, StatsListener, is_same_user};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Connections at once; further ones are answered 503 and closed.
pub(crate) const CONNECTIONS_MAX: usize = 16;

/// Time from the start of a connection, or from an answer, until the next request is complete.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Size limit of a request head; the smallest that the HTTP library accepts.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// Pause after a failed accept, for example without a free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The answer to a connection beyond [`CONNECTIONS_MAX`].
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 73\r\n\
    retry-after: 1\r\nconnection: close\r\n\r\n\
    all 16 connections to the stats socket are in use; close one or try again";

/// Serves every client of the same user on `listener` until the future is dropped. It sleeps while there is no client.
///
/// `source` takes a snapshot on this thread, or returns `None` once the daemon has stopped; what it returns becomes statistics on
/// another thread. Must run on a `LocalRuntime`.
pub(crate) async fn serve_all<S>(mut listener: StatsListener, source: S)
where
    S: Fn() -> Option<IntoStats> + 'static,
{
    let pages = Pages::new(source);
    let answers = Arc::new(Semaphore::new(ANSWERS_MAX));
    let mut connections = JoinSet::new();
    loop {
        match accept(&mut listener, &mut connections).await {
            Ok(stream) if !is_same_user(&stream) => tracing::warn!("refused a stats connection of another user"),
            Ok(stream) if connections.len() >= CONNECTIONS_MAX => {
                // The buffer of a new connection is empty, so the answer fits.
                let _ = stream.try_write(BUSY);
            }
            Ok(stream) => {
                connections.spawn_local(serve(stream, Rc::clone(&pages), Arc::clone(&answers)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a stats connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for the next connection, and reaps those that have ended meanwhile.
async fn accept(listener: &mut StatsListener, connections: &mut JoinSet<()>) -> io::Result<StatsConn> {
    poll_fn(|cx| {
        while let Poll::Ready(Some(_)) = connections.poll_join_next(cx) {}
        os::poll_accept_stats(listener, cx)
    })
    .await
}

/// Serves one connection until it ends or times out.
async fn serve<S>(stream: StatsConn, pages: Rc<Pages<S>>, answers: Arc<Semaphore>)
where
    S: Fn() -> Option<IntoStats> + 'static,
{
    let due = Rc::new(Cell::new(Instant::now() + REQUEST_TIMEOUT + ANSWER_TIMEOUT));
    let service = StatsService { pages, answers, due };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(REQUEST_BYTES_MAX)
        // A client may close its sending half behind its last request.
        .half_close(true)
        // Keeps each answer in one piece, so that its permit is held until it is written and no other answer begins before.
        .writev(true);
    let mut connection =
        pin!(http.serve_connection(TokioIo::new(stream), service_fn(|request| service.answer(request))));
    let mut alarm = pin!(tokio::time::sleep_until(service.due.get()));
    poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if alarm.deadline() != service.due.get() {
            alarm.as_mut().reset(service.due.get());
        }
        alarm.as_mut().poll(cx)
    })
    .await;
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::metrics;
    use super::super::model::Stats;
    use super::super::pages::REUSE_FOR;
    use super::super::route::Route;
    use super::super::service::ANSWERS_WAIT;
    use super::*;
    use crate::daemon::stats::sample;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::JoinHandle;

    /// Runs a test in virtual time, which advances when nothing else is left to do.
    fn run(test: impl Future<Output = ()>) {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(test);
    }

    /// Counts the snapshots that are taken.
    type Snapshots = Rc<Cell<usize>>;

    fn source_of(stats: Stats) -> (Snapshots, impl Fn() -> Option<IntoStats> + 'static) {
        let snapshots = Snapshots::default();
        let count = Rc::clone(&snapshots);
        let source = move || -> Option<IntoStats> {
            count.set(count.get() + 1);
            let stats = stats.clone();
            Some(Box::new(move || stats))
        };
        (snapshots, source)
    }

    /// A client of the service, and what the service does for it.
    struct Client {
        stream: UnixStream,
        snapshots: Snapshots,
        served: JoinHandle<()>,
    }

    fn client(stats: Stats) -> Client {
        client_sharing(stats, &Arc::new(Semaphore::new(ANSWERS_MAX)))
    }

    fn client_sharing(stats: Stats, answers: &Arc<Semaphore>) -> Client {
        let (stream, served) = UnixStream::pair().expect("sockets");
        let (snapshots, source) = source_of(stats);
        let served = tokio::task::spawn_local(serve(served, Pages::new(source), Arc::clone(answers)));
        Client { stream, snapshots, served }
    }

    impl Client {
        async fn send(&mut self, text: &str) {
            self.stream.write_all(text.as_bytes()).await.expect("the service reads");
        }

        /// Everything until the connection is closed.
        async fn rest(&mut self) -> String {
            let mut bytes = Vec::new();
            // Closing with unread input resets the connection, behind what was written before.
            if let Err(error) = self.stream.read_to_end(&mut bytes).await {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
            String::from_utf8(bytes).expect("text")
        }

        async fn exchange(&mut self, request: &str) -> String {
            self.send(request).await;
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
            let answer = client(sample::stats()).exchange(&get("/stats.json")).await;
            let (head, body) = split(&answer);
            assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: application/json\r\n"), "{head}");
            assert_eq!(serde_json::from_str::<Stats>(body).expect("the schema"), sample::stats());

            let answer = client(sample::stats()).exchange(&get("/metrics?from=somewhere")).await;
            let (head, body) = split(&answer);
            let wanted = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
            assert!(head.contains(wanted), "{head}");
            assert_eq!(body, metrics::render(sample::stats()).expect("text"));

            let answer = client(sample::stats()).exchange(&get("/healthz")).await;
            assert!(split(&answer).0.starts_with("HTTP/1.1 200 "), "{answer}");
            assert_eq!(split(&answer).1, "ok\n");
        });
    }

    #[test]
    fn json_names_the_processes() {
        run(async {
            let mut stats = sample::stats();
            stats.connections[0].pid = std::process::id();
            let answer = client(stats).exchange(&get("/stats.json")).await;
            let parsed: Stats = serde_json::from_str(split(&answer).1).expect("the schema");
            assert_eq!(parsed.connections[0].process.is_some(), cfg!(target_os = "linux"));
            assert_eq!(parsed.connections[1].process, None);
        });
    }

    #[test]
    fn head_is_the_same_without_a_body() {
        run(async {
            for route in Route::ALL {
                let whole = client(sample::stats()).exchange(&get(route.path())).await;
                let mut client = client(sample::stats());
                let answer = client.exchange(&get(route.path()).replace("GET", "HEAD")).await;
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
    fn unknown_path_lists_the_routes_and_wrong_method_lists_the_allowed_ones() {
        run(async {
            for path in ["/", "/metrics/", "/stats", "/../metrics"] {
                let mut client = client(sample::stats());
                let answer = client.exchange(&get(path)).await;
                assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
                assert!(Route::ALL.iter().all(|route| split(&answer).1.contains(route.path())), "{answer}");
                assert_eq!(client.snapshots.get(), 0);
            }
            for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
                let mut client = client(sample::stats());
                let answer = client.exchange(&get("/metrics").replace("GET", method)).await;
                assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
                assert_eq!(client.snapshots.get(), 0);
            }
        });
    }

    #[test]
    fn connection_may_send_several_requests() {
        run(async {
            let mut client = client(sample::stats());
            let again = get("/healthz").replace("connection: close\r\n", "");
            let answer = client.exchange(&format!("{again}{again}{}", get("/healthz"))).await;
            assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 3, "{answer}");
        });
    }

    #[test]
    fn request_body_is_not_read_and_ends_the_connection() {
        run(async {
            let mut client = client(sample::stats());
            let request =
                "GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n";
            let answer = client.exchange(request).await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close\r\n"), "{answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "a body is not a request: {answer}");
            assert_eq!(client.snapshots.get(), 0);
        });
    }

    #[test]
    fn oversize_headers_and_garbage_end_the_connection() {
        run(async {
            let long = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(2 * REQUEST_BYTES_MAX));
            let mut one = client(sample::stats());
            let answer = one.exchange(&long).await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
            assert_eq!(one.snapshots.get(), 0);
            for garbage in ["\0\0\0\0\x10\0\0\0\r\n\r\n", "GET\r\n\r\n", "hello\n\n", "GET /metrics HTTP/9.9\r\n\r\n"] {
                let mut client = client(sample::stats());
                let answer = client.exchange(garbage).await;
                assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{garbage:?}: {answer}");
                assert_eq!(client.snapshots.get(), 0);
                client.served.await.expect("the task does not panic");
            }
        });
    }

    #[test]
    fn incomplete_request_times_out() {
        run(async {
            for beginning in
                ["", "GET /metrics HTTP/1.1\r\nhost: x\r\n", "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /"]
            {
                let mut client = client(sample::stats());
                let began = Instant::now();
                client.exchange(beginning).await;
                let took = began.elapsed();
                assert!(took >= REQUEST_TIMEOUT && took < 2 * REQUEST_TIMEOUT, "{beginning:?} after {took:?}");
            }
        });
    }

    #[test]
    fn client_that_does_not_read_is_closed_and_its_answer_dropped() {
        run(async {
            let answers = Arc::new(Semaphore::new(ANSWERS_MAX));
            let mut client = client_sharing(many_channels(), &answers);
            let began = Instant::now();
            client.send(&get("/stats.json")).await;
            (&mut client.served).await.expect("the task ends");
            assert_eq!(began.elapsed().as_secs(), ANSWER_TIMEOUT.as_secs());
            assert_eq!(answers.available_permits(), ANSWERS_MAX, "its permit is released");
            assert!(serde_json::from_str::<Stats>(split(&client.rest().await).1).is_err(), "the answer was cut off");
        });
    }

    #[test]
    fn pipelined_requests_do_not_pile_up_answers() {
        run(async {
            let mut client = client(many_channels());
            client.send(&get("/stats.json").replace("connection: close\r\n", "").repeat(50)).await;
            tokio::time::sleep(ANSWER_TIMEOUT / 2).await;
            assert!((1..=2).contains(&client.snapshots.get()), "{} answers were made", client.snapshots.get());
        });
    }

    #[test]
    fn request_waits_for_other_answers_and_is_then_answered_503() {
        run(async {
            let answers = Arc::new(Semaphore::new(1));
            let mut holder = client_sharing(many_channels(), &answers);
            holder.send(&get("/stats.json")).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut late = client_sharing(sample::stats(), &answers);
            let began = Instant::now();
            let answer = late.exchange(&get("/metrics")).await;
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1\r\n"), "{answer}");
            assert_eq!(began.elapsed().as_secs(), ANSWERS_WAIT.as_secs());
            assert!(client_sharing(sample::stats(), &answers).exchange(&get("/healthz")).await.ends_with("ok\n"));

            let mut patient = client_sharing(sample::stats(), &answers);
            patient.send(&get("/metrics")).await;
            assert!(serde_json::from_str::<Stats>(split(&holder.rest().await).1).is_ok(), "it was only slow");
            assert!(patient.rest().await.starts_with("HTTP/1.1 200 "), "the permit was free again");
        });
    }

    #[test]
    fn connection_beyond_the_limit_is_answered_503_and_the_others_stay() {
        run(async {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("stats.sock");
            let listener = UnixListener::bind(&path).expect("bound");
            let server = tokio::task::spawn_local(serve_all(listener, source_of(sample::stats()).1));
            let mut streams = Vec::new();
            for _ in 0..=CONNECTIONS_MAX {
                streams.push(UnixStream::connect(&path).await.expect("connected"));
            }
            let mut answer = String::new();
            let mut last = streams.pop().expect("one beyond the limit");
            last.read_to_string(&mut answer).await.expect("text");
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(split(&answer).0.contains(&format!("content-length: {}\r\n", split(&answer).1.len())), "{answer}");

            for stream in &mut streams {
                let mut answer = String::new();
                stream.write_all(get("/healthz").as_bytes()).await.expect("written");
                stream.read_to_string(&mut answer).await.expect("text");
                assert!(answer.ends_with("ok\n"), "{answer}");
            }
            let mut answer = String::new();
            let mut next = UnixStream::connect(&path).await.expect("connected");
            next.write_all(get("/healthz").as_bytes()).await.expect("written");
            next.read_to_string(&mut answer).await.expect("text");
            assert!(answer.ends_with("ok\n"), "closed connections have made room: {answer}");

            streams.push(UnixStream::connect(&path).await.expect("connected"));
            server.abort();
            assert!(server.await.expect_err("the service never ends by itself").is_cancelled());
            answer.clear();
            let left = streams.last_mut().expect("one").read_to_string(&mut answer).await;
            assert!(left.is_err() || answer.is_empty(), "connections end with the service");
        });
    }

    #[test]
    fn requests_within_a_quarter_of_a_second_share_one_snapshot() {
        run(async {
            let (again, last) = (get("/metrics").replace("connection: close\r\n", ""), get("/stats.json"));
            let (snapshots, source) = source_of(sample::stats());
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("stats.sock");
            let listener = UnixListener::bind(&path).expect("bound");
            tokio::task::spawn_local(serve_all(listener, source));
            for wanted in 1..=2 {
                let mut clients = Vec::new();
                for _ in 0..2 {
                    let mut stream = UnixStream::connect(&path).await.expect("connected");
                    stream.write_all((again.repeat(20) + &last).as_bytes()).await.expect("written");
                    clients.push(stream);
                }
                for stream in &mut clients {
                    let mut answers = String::new();
                    stream.read_to_string(&mut answers).await.expect("text");
                    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 21);
                }
                assert_eq!(snapshots.get(), wanted, "snapshots for 42 requests");
                tokio::time::sleep(REUSE_FOR).await;
            }
        });
    }

    #[test]
    fn client_that_closes_its_sending_half_gets_the_whole_answer() {
        run(async {
            for version in ["HTTP/1.0", "HTTP/1.1"] {
                let mut client = client(many_channels());
                client.send(&format!("GET /stats.json {version}\r\n\r\n")).await;
                client.stream.shutdown().await.expect("half closed");
                let answer = client.rest().await;
                assert!(answer.contains(" 200 OK\r\n"), "{version}: {answer:?}");
                assert!(serde_json::from_str::<Stats>(split(&answer).1).is_ok(), "{version}: the answer is incomplete");
            }
        });
    }
}
