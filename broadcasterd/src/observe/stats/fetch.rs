//! Reads the stats socket of the running daemon. It never starts a daemon, and connects to the bus itself only if no stats socket
//! answers, to learn why.

use crate::daemon::stats::model::{SCHEMA, Stats};
use crate::daemon::stats::route::Route;
use crate::exit::{Code, Failure};
use crate::observe::format::fit;
use crate::os::{self, StatsClient};
use broadcaster_protocol::endpoint::stats_socket;
use serde::Deserialize;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;
use system_broadcaster::{Candidate, ConnectError, Options};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

/// Time limit of one request, from connecting to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Size limit of an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Size limit of the head of an answer.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Columns of the server's own explanation in an error.
const REASON_COLUMNS_MAX: usize = 200;

/// Pause before connecting again to a socket that cannot take a connection at the moment.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Requests statistics from the daemon, each time on a new connection.
pub(crate) struct Client {
    options: Options,
    candidates: Vec<Candidate>,
    runtime: Runtime,
}

impl Client {
    /// A client for the bus of these options.
    pub(crate) fn new(options: Options) -> Result<Self, Failure> {
        let candidates = options.candidates()?;
        Ok(Self { options, candidates, runtime: Builder::new_current_thread().enable_all().build()? })
    }

    /// The current statistics.
    pub(crate) fn fetch(&self) -> Result<Stats, Failure> {
        parse(&self.text(Route::Json)?)
    }

    /// The current text of `route`.
    pub(crate) fn text(&self, route: Route) -> Result<String, Failure> {
        let mut failure = None;
        for candidate in &self.candidates {
            let socket = stats_socket(&candidate.socket);
            match self.runtime.block_on(request(TIMEOUT, &socket, route)) {
                Ok(text) => return Ok(text),
                Err(Problem::NotListening) => {}
                Err(problem) => failure = failure.or_else(|| Some(problem.at(&socket))),
            }
        }
        Err(failure.unwrap_or_else(|| self.explain_silence()))
    }

    /// Why no stats socket answers: there is no daemon, or one without a stats socket.
    fn explain_silence(&self) -> Failure {
        match self.options.daemon().status() {
            Ok(status) => Failure::new(
                Code::Failed,
                format!(
                    "the bus is served by process {} (version {}), which has no stats socket: it is a program that hosts the bus \
                     itself, or an older daemon; `broadcasterd status` shows what it can report",
                    status.pid, status.version
                ),
            ),
            Err(error @ ConnectError::NotRunning { .. }) => Failure::new(Code::NotRunning, error),
            Err(error) => error.into(),
        }
    }
}

/// Requests the statistics of the daemon at this bus socket, within `timeout`.
#[cfg(unix)]
pub(crate) fn fetch_within(timeout: Duration, bus: &Path) -> Result<Stats, Failure> {
    let socket = stats_socket(bus);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let text = runtime.block_on(request(timeout, &socket, Route::Json)).map_err(|problem| problem.at(&socket))?;
    parse(&text)
}

/// Parses the document of [`Route::Json`].
pub(crate) fn parse(text: &str) -> Result<Stats, Failure> {
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
    }
    let malformed = |error| Failure::new(Code::Failed, format!("cannot parse the daemon's statistics: {error}"));
    let Head { schema } = serde_json::from_str(text).map_err(malformed)?;
    if schema != SCHEMA {
        let sentence = format!(
            "the daemon's statistics have schema {schema}, and this command reads schema {SCHEMA}: use the broadcasterd of the \
             daemon's version"
        );
        return Err(Failure::new(Code::Failed, sentence));
    }
    serde_json::from_str(text).map_err(malformed)
}

/// Why a stats socket does not answer a request.
#[derive(Debug)]
enum Problem {
    NotListening,
    OtherUser {
        owner: u32,
    },
    TimedOut(Duration),
    /// 503, with the server's explanation.
    Busy(String),
    Status(u16),
    TooLong,
    Truncated,
    NotHttp,
    NotText,
    Connect(io::Error),
    Read(io::Error),
}

impl Problem {
    fn at(self, socket: &Path) -> Failure {
        let code = match self {
            Self::NotListening | Self::OtherUser { .. } | Self::TimedOut(_) | Self::Connect(_) => Code::Unreachable,
            Self::Busy(_)
            | Self::Status(_)
            | Self::TooLong
            | Self::Truncated
            | Self::NotHttp
            | Self::NotText
            | Self::Read(_) => Code::Failed,
        };
        Failure::new(code, FetchError { socket: socket.to_owned(), problem: self })
    }
}

/// A [`Problem`] and where it occurred.
#[derive(Debug)]
struct FetchError {
    socket: PathBuf,
    problem: Problem,
}

impl fmt::Display for FetchError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = self.socket.display();
        match &self.problem {
            Problem::NotListening => write!(out, "no process listens on {socket}"),
            Problem::OtherUser { owner } => {
                let uid = os::uid();
                write!(out, "{socket} is served by uid {owner}, not by uid {uid}: it is not used")
            }
            Problem::TimedOut(after) => write!(out, "the daemon at {socket} has not answered within {after:?}"),
            Problem::Busy(reason) => write!(out, "the stats service at {socket} is busy: {reason}"),
            Problem::Status(status) => write!(out, "the stats service at {socket} answers with status {status}"),
            Problem::TooLong => write!(out, "the answer of {socket} exceeds {ANSWER_BYTES_MAX} bytes"),
            Problem::Truncated => write!(out, "the answer of {socket} is incomplete"),
            Problem::NotHttp => write!(out, "the answer of {socket} is not HTTP"),
            Problem::NotText => write!(out, "the answer of {socket} is not UTF-8"),
            Problem::Connect(_) => write!(out, "cannot connect to {socket}"),
            Problem::Read(_) => write!(out, "cannot read from {socket}"),
        }
    }
}

impl std::error::Error for FetchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Connect(error) | Problem::Read(error) => Some(error),
            _ => None,
        }
    }
}

async fn request(timeout: Duration, socket: &Path, route: Route) -> Result<String, Problem> {
    let exchange = async {
        let stream = connect(socket).await?;
        let owner = os::stats_owner(&stream).map_err(Problem::Connect)?;
        if owner != os::uid() {
            return Err(Problem::OtherUser { owner });
        }
        exchange(stream, route).await
    };
    tokio::time::timeout(timeout, exchange).await.map_err(|_| Problem::TimedOut(timeout))?
}

/// Connects to the stats socket. The caller limits the time.
async fn connect(socket: &Path) -> Result<StatsClient, Problem> {
    loop {
        match os::connect_stats(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => match error.kind() {
                // Nothing can listen on a path that is too long for a socket.
                ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::InvalidInput => {
                    return Err(Problem::NotListening);
                }
                ErrorKind::WouldBlock | ErrorKind::Interrupted => tokio::time::sleep(BUSY_PAUSE).await,
                _ => return Err(Problem::Connect(error)),
            },
        }
    }
}

/// Sends one request and reads its answer, up to the announced length.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, route: Route) -> Result<String, Problem> {
    let request = format!("GET {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", route.path());
    // A busy service answers and closes before it reads. Its answer is there even if this fails.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let body = loop {
        if let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if answer.len() > HEAD_BYTES_MAX || read_more(&mut stream, &mut answer).await? == 0 {
            return Err(Problem::NotHttp);
        }
    };
    let head = Head::parse(&answer[..body - 4]).ok_or(Problem::NotHttp)?;
    if head.length > ANSWER_BYTES_MAX {
        return Err(Problem::TooLong);
    }
    while answer.len() - body < head.length {
        if read_more(&mut stream, &mut answer).await? == 0 {
            return Err(Problem::Truncated);
        }
    }
    answer.drain(..body);
    answer.truncate(head.length);
    let text = String::from_utf8(answer).map_err(|_| Problem::NotText)?;
    match head.status {
        200 => Ok(text),
        503 => Err(Problem::Busy(fit(text.trim(), REASON_COLUMNS_MAX))),
        status => Err(Problem::Status(status)),
    }
}

async fn read_more(stream: &mut (impl AsyncRead + Unpin), answer: &mut Vec<u8>) -> Result<usize, Problem> {
    stream.read_buf(answer).await.map_err(Problem::Read)
}

/// What matters of the head of an answer.
struct Head {
    status: u16,
    length: usize,
}

impl Head {
    fn parse(head: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
        let (_version, rest) = lines.next()?.strip_prefix("HTTP/1.")?.split_once(' ')?;
        let status = rest.split(' ').next()?.parse().ok()?;
        let mut headers = lines.filter_map(|line| line.split_once(':'));
        let (_, length) = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
        Some(Self { status, length: length.trim().parse().ok()? })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::daemon::stats::{http, sample};
    use std::os::unix::net::UnixListener;
    use tempfile::TempDir;
    use tokio::runtime::LocalOptions;

    /// A directory with a stats socket that `serve` serves, and the path of the bus socket beside it.
    fn served_by(serve: impl FnOnce(UnixListener) + Send + 'static) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("stats.sock")).expect("bound");
        let bus = directory.path().join("bus.sock");
        std::thread::spawn(move || serve(listener));
        (directory, bus)
    }

    fn answer_with(answer: impl Into<Vec<u8>>) -> impl FnOnce(UnixListener) + Send + 'static {
        let answer = answer.into();
        move |listener| {
            let (mut stream, _) = listener.accept().expect("a client connects");
            let mut request = [0; 1024];
            let _ = io::Read::read(&mut stream, &mut request);
            let _ = io::Write::write_all(&mut stream, &answer);
        }
    }

    /// The daemon's own service.
    fn stats_service(listener: UnixListener) {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(async {
            listener.set_nonblocking(true).expect("a socket");
            let listener = tokio::net::UnixListener::from_std(listener).expect("a socket");
            http::serve_all(listener, || Some(Box::new(sample::stats))).await;
        });
    }

    fn client(bus: &Path) -> Client {
        Client::new(Options::new().socket(bus)).expect("a client")
    }

    fn sentence(failure: Result<impl Sized, Failure>) -> String {
        failure.err().expect("it fails").to_string()
    }

    #[test]
    fn statistics_are_fetched_as_often_as_requested() {
        let (_directory, bus) = served_by(stats_service);
        let client = client(&bus);
        for _ in 0..50 {
            assert_eq!(client.fetch().expect("an answer"), sample::stats());
        }
        assert!(client.text(Route::Metrics).expect("an answer").ends_with("# EOF\n"));
    }

    #[test]
    fn missing_daemon_is_an_error_of_its_own() {
        let directory = tempfile::tempdir().expect("a directory");
        let bus = directory.path().join("bus.sock");
        let failure = client(&bus).fetch().expect_err("no daemon runs");
        assert_eq!(failure.code(), Code::NotRunning, "{failure}");
        assert!(!bus.exists(), "a daemon was started");
    }

    #[test]
    fn a_later_schema_is_refused_with_both_numbers() {
        let message = sentence(parse(r#"{"schema": 7, "all": "different"}"#));
        assert!(message.contains("schema 7") && message.contains("schema 1"), "{message}");
        assert!(sentence(parse("{}")).contains("missing field `schema`"));
        assert!(sentence(parse(r#"{"schema": 1}"#)).contains("missing field `daemon`"));
    }

    #[test]
    fn invalid_answer_is_an_error_that_names_the_socket() {
        let long = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{{", ANSWER_BYTES_MAX + 1);
        for (answer, wanted) in [
            ("hello\n", "is not HTTP"),
            ("", "is not HTTP"),
            ("HTTP/1.1 200 OK\r\n\r\n", "is not HTTP"),
            ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "is not HTTP"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{", "is incomplete"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\u{7f}", "cannot parse"),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "status 404"),
            ("HTTP/1.1 503 Busy\r\ncontent-length: 9\r\n\r\ntoo\x1b[2Jbad", "is busy: too\u{fffd}[2Jb"),
            (&long, "exceeds 67108864 bytes"),
        ] {
            let (directory, bus) = served_by(answer_with(answer));
            let message = sentence(client(&bus).fetch());
            assert!(message.contains(wanted), "{answer:?}: {message}");
            let path = directory.path().join("stats.sock").display().to_string();
            assert!(message.contains(&path) || wanted == "cannot parse", "{message}");
        }
    }

    #[test]
    fn silent_daemon_times_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("stats.sock");
        let _silent = UnixListener::bind(&path).expect("bound");
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        let problem = runtime.block_on(request(TIMEOUT, &path, Route::Json)).expect_err("no answer");
        let failure = problem.at(&path);
        assert_eq!(failure.code(), Code::Unreachable);
        assert!(failure.to_string().contains("within 5s"), "{failure}");
    }

    #[test]
    fn busy_service_is_reported_with_the_remedy() {
        let (_directory, bus) = served_by(stats_service);
        let stats = stats_socket(&bus);
        let _idle: Vec<_> = (0..http::CONNECTIONS_MAX)
            .map(|_| std::os::unix::net::UnixStream::connect(&stats).expect("connected"))
            .collect();
        let failure = client(&bus).fetch().expect_err("it is busy");
        assert_eq!(failure.code(), Code::Failed);
        let message = failure.to_string();
        assert!(message.contains("is busy") && message.contains("all 16 connections"), "{message}");
        assert!(message.contains("close one"), "{message}");
    }

    /// A service without room answers as soon as it accepts, and may have closed before the request is written.
    #[test]
    fn answer_before_the_request_is_understood() {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (client, mut server) = tokio::net::UnixStream::pair().expect("sockets");
            let busy = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull";
            server.write_all(busy).await.expect("written");
            drop(server);
            let problem = exchange(client, Route::Json).await.expect_err("no statistics");
            assert!(matches!(&problem, Problem::Busy(reason) if reason == "full"), "{problem:?}");
        });
    }
}
