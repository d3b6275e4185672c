//! Reads the stats socket of the running daemon. It never starts a daemon, and says hello on the bus only if no stats socket
//! answers, to learn why.

use super::http::Route;
use super::model::{SCHEMA, Stats};
use crate::exit::{Code, Failure};
use crate::os::{self, StatsClient};
use broadcaster_protocol::endpoint::{Candidate, stats_socket};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;
use system_broadcaster::{ConnectError, Options};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// How long it may take to be told the numbers.
const DEADLINE: Duration = Duration::from_secs(5);

/// Longest answer that is taken.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Before asking again where somebody listens who can not take one more at the moment.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Who asks the daemon for its numbers, once or again and again. Each time is a connection of its own.
pub(crate) struct Client {
    options: Options,
    candidates: Vec<Candidate>,
    runtime: Runtime,
}

impl Client {
    /// For the bus of these options.
    pub(crate) fn new(options: Options) -> Result<Self, Failure> {
        let candidates = options.candidates()?;
        Ok(Self { options, candidates, runtime: Builder::new_current_thread().enable_all().build()? })
    }

    /// The numbers now.
    pub(crate) fn fetch(&self) -> Result<Stats, Failure> {
        parse(&self.text(Route::Json)?)
    }

    /// What `route` tells now, as it is.
    pub(crate) fn text(&self, route: Route) -> Result<String, Failure> {
        let mut trouble = None;
        for candidate in &self.candidates {
            let socket = stats_socket(&candidate.socket);
            match self.runtime.block_on(ask_within(DEADLINE, &socket, route)) {
                Ok(text) => return Ok(text),
                Err(Trouble::Nobody) => {}
                Err(error) => trouble = trouble.or(Some((socket, error))),
            }
        }
        match trouble {
            Some((socket, error)) => Err(error.at(&socket)),
            None => Err(self.why_nobody_answers()),
        }
    }

    /// No stats socket answers: is there no daemon, or one without such a socket?
    fn why_nobody_answers(&self) -> Failure {
        match self.options.daemon().status() {
            Ok(status) => Failure::new(
                Code::Failed,
                format!(
                    "the bus is served by process {} (version {}), which has no stats socket: it is a program that hosts the \
                     bus itself, or an older daemon; `broadcasterd status` tells what it can tell",
                    status.pid, status.version
                ),
            ),
            Err(error @ ConnectError::NotRunning { .. }) => Failure::new(Code::NobodyThere, error),
            Err(error) => error.into(),
        }
    }
}

/// The document of [`Route::Json`].
pub(crate) fn parse(text: &str) -> Result<Stats, Failure> {
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
    }
    let not_ours = |error| Failure::new(Code::Failed, format!("the daemon's numbers can not be understood: {error}"));
    let Head { schema } = serde_json::from_str(text).map_err(not_ours)?;
    if schema != SCHEMA {
        let sentence = format!(
            "the daemon tells its numbers in schema {schema}, this command reads schema {SCHEMA}: use the broadcasterd of the \
             daemon's version"
        );
        return Err(Failure::new(Code::Failed, sentence));
    }
    serde_json::from_str(text).map_err(not_ours)
}

/// Why one stats socket does not tell the numbers.
#[derive(Debug)]
enum Trouble {
    /// Nobody listens there.
    Nobody,
    OtherUser {
        owner: u32,
    },
    TimedOut(Duration),
    Status(StatusCode),
    TooLong,
    NotText,
    Connect(io::Error),
    Http(Box<dyn std::error::Error + Send + Sync>),
}

impl Trouble {
    fn at(self, socket: &Path) -> Failure {
        let code = match self {
            Self::Nobody | Self::OtherUser { .. } | Self::TimedOut(_) | Self::Connect(_) => Code::Unreachable,
            Self::Status(_) | Self::TooLong | Self::NotText | Self::Http(_) => Code::Failed,
        };
        Failure::new(code, AskError { socket: socket.to_owned(), trouble: self })
    }
}

/// [`Trouble`], and where.
#[derive(Debug)]
struct AskError {
    socket: PathBuf,
    trouble: Trouble,
}

impl fmt::Display for AskError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = self.socket.display();
        match &self.trouble {
            Trouble::Nobody => write!(out, "nobody listens at {socket}"),
            Trouble::OtherUser { owner } => {
                let uid = os::uid();
                write!(out, "{socket} is served by uid {owner}, not by uid {uid}: it is not used")
            }
            Trouble::TimedOut(after) => {
                write!(out, "the daemon at {socket} has not told its numbers within {after:?}")
            }
            Trouble::Status(StatusCode::SERVICE_UNAVAILABLE) => {
                write!(out, "the daemon at {socket} tells its numbers to too many others; try again soon")
            }
            Trouble::Status(status) => write!(out, "the daemon at {socket} answers {status}"),
            Trouble::TooLong => write!(out, "the answer of {socket} has more than {ANSWER_BYTES_MAX} bytes"),
            Trouble::NotText => write!(out, "the answer of {socket} is not UTF-8"),
            Trouble::Connect(_) => write!(out, "cannot connect to {socket}"),
            Trouble::Http(_) => write!(out, "what answers at {socket} is not understood"),
        }
    }
}

impl std::error::Error for AskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.trouble {
            Trouble::Connect(error) => Some(error),
            Trouble::Http(error) => Some(&**error),
            _ => None,
        }
    }
}

async fn ask_within(deadline: Duration, socket: &Path, route: Route) -> Result<String, Trouble> {
    tokio::time::timeout(deadline, ask(socket, route)).await.map_err(|_| Trouble::TimedOut(deadline))?
}

async fn ask(socket: &Path, route: Route) -> Result<String, Trouble> {
    let stream = connect(socket).await?;
    let owner = os::stats_owner(&stream).map_err(Trouble::Connect)?;
    if owner != os::uid() {
        return Err(Trouble::OtherUser { owner });
    }
    let http = |error: hyper::Error| Trouble::Http(error.into());
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // It ends with this function.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get(route.path()).header(HOST, "localhost").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| Trouble::Http(error.into()))?;
    let response = requests.send_request(request).await.map_err(http)?;
    if response.status() != StatusCode::OK {
        return Err(Trouble::Status(response.status()));
    }
    // The length that is announced, if one is; `Limited` counts the rest.
    if usize::try_from(response.body().size_hint().lower()).is_ok_and(|len| len > ANSWER_BYTES_MAX) {
        return Err(Trouble::TooLong);
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| {
        let too_long = error.is::<http_body_util::LengthLimitError>();
        if too_long { Trouble::TooLong } else { Trouble::Http(error) }
    })?;
    String::from_utf8(body.to_bytes().into()).map_err(|_| Trouble::NotText)
}

/// Connects, or finds that nobody listens. The caller has the deadline.
async fn connect(socket: &Path) -> Result<StatsClient, Trouble> {
    loop {
        match os::connect_stats(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => match error.kind() {
                // A path that is too long for a socket is none.
                ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::InvalidInput => {
                    return Err(Trouble::Nobody);
                }
                ErrorKind::WouldBlock | ErrorKind::Interrupted => tokio::time::sleep(BUSY_PAUSE).await,
                _ => return Err(Trouble::Connect(error)),
            },
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::stats::{http, sample};
    use std::os::unix::net::UnixListener;
    use tempfile::TempDir;
    use tokio::runtime::LocalOptions;

    /// A directory with a stats socket, and what it says to the first who asks.
    fn socket_that(serve: impl FnOnce(UnixListener) + Send + 'static) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("stats.sock")).expect("bound");
        let bus = directory.path().join("bus.sock");
        std::thread::spawn(move || serve(listener));
        (directory, bus)
    }

    fn answer_with(answer: impl Into<Vec<u8>>) -> impl FnOnce(UnixListener) + Send + 'static {
        let answer = answer.into();
        move |listener| {
            let (mut stream, _) = listener.accept().expect("somebody asks");
            let mut request = [0; 1024];
            let _ = io::Read::read(&mut stream, &mut request);
            let _ = io::Write::write_all(&mut stream, &answer);
        }
    }

    fn client(bus: &Path) -> Client {
        Client::new(Options::new().socket(bus)).expect("a client")
    }

    fn sentence(failure: Result<impl Sized, Failure>) -> String {
        failure.err().expect("it fails").to_string()
    }

    #[test]
    fn numbers_are_fetched_as_they_were_told_as_often_as_wanted() {
        let (_directory, bus) = socket_that(|listener| {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            runtime.expect("a runtime").block_on(async {
                listener.set_nonblocking(true).expect("a socket");
                let listener = tokio::net::UnixListener::from_std(listener).expect("a socket");
                http::serve_all(listener, || Some(sample::stats)).await;
            });
        });
        let client = client(&bus);
        for _ in 0..50 {
            assert_eq!(client.fetch().expect("told"), sample::stats());
        }
        assert!(client.text(Route::Metrics).expect("told").ends_with("# EOF\n"));
    }

    #[test]
    fn no_daemon_is_told_apart() {
        let directory = tempfile::tempdir().expect("a directory");
        let bus = directory.path().join("bus.sock");
        let failure = client(&bus).fetch().expect_err("nobody is there");
        assert_eq!(failure.code(), Code::NobodyThere, "{failure}");
        assert!(!bus.exists(), "none was started");
    }

    #[test]
    fn a_later_schema_is_refused_with_both_numbers() {
        let said = sentence(parse(r#"{"schema": 7, "all": "different"}"#));
        assert!(said.contains("schema 7") && said.contains("schema 1"), "{said}");
        assert!(sentence(parse("{}")).contains("missing field `schema`"));
        assert!(sentence(parse(r#"{"schema": 1}"#)).contains("missing field `daemon`"));
    }

    #[test]
    fn what_does_not_tell_numbers_is_an_error_that_names_the_socket() {
        let long = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{{", ANSWER_BYTES_MAX + 1);
        for (answer, wanted) in [
            ("hello\n", "is not understood"),
            ("", "is not understood"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{", "is not understood"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n\u{7f}", "can not be understood"),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "answers 404"),
            ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "too many others"),
            (&long, "more than 67108864 bytes"),
        ] {
            let (directory, bus) = socket_that(answer_with(answer));
            let said = sentence(client(&bus).fetch());
            assert!(said.contains(wanted), "{answer:?}: {said}");
            let path = directory.path().join("stats.sock").display().to_string();
            assert!(said.contains(&path) || wanted == "can not be understood", "{said}");
        }
    }

    #[test]
    fn a_daemon_that_does_not_answer_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("stats.sock");
        let _silent = UnixListener::bind(&path).expect("bound");
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        let trouble = runtime.block_on(ask_within(DEADLINE, &path, Route::Json)).expect_err("nobody answers");
        let failure = trouble.at(&path);
        assert_eq!(failure.code(), Code::Unreachable);
        assert!(failure.to_string().contains("within 5s"), "{failure}");
    }
}
