//! Real daemons and clients as processes. Each test has its own bus in its own directory.
//!
//! A process signals readiness by a line on a pipe. All processes of a test end with the test.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use system_broadcaster::Options;
use tempfile::TempDir;

/// A process test that takes longer has hung.
const WATCHDOG: Duration = Duration::from_secs(240);

/// The `broadcasterd` of this build. It is built if necessary.
///
/// `BROADCASTER_TEST_PROGRAM` names another one, for environments in which a test cannot build anything.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(program) = std::env::var_os("BROADCASTER_TEST_PROGRAM") {
            return std::path::absolute(program).expect("BROADCASTER_TEST_PROGRAM is a path");
        }
        build(&["--package", "broadcasterd", "--bin", "broadcasterd"]).join("broadcasterd")
    })
}

/// An example program of the client, of this build. The examples are built if necessary.
pub fn example(name: &str) -> PathBuf {
    static EXAMPLES: OnceLock<PathBuf> = OnceLock::new();
    // With the features that they have in a test run of the workspace, so that nothing is built twice.
    EXAMPLES.get_or_init(|| build(&["--workspace", "--examples"]).join("examples")).join(name)
}

/// Builds what `arguments` select, with the profile of this test. Returns the directory of the profile.
fn build(arguments: &[&str]) -> PathBuf {
    // The path of a test is <target>/<profile>/deps/<name>.
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.ancestors().nth(2).expect("cargo's layout").to_owned();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet"]).args(arguments);
    build.current_dir(env!("CARGO_MANIFEST_DIR")).arg("--target-dir");
    build.arg(profile.parent().expect("cargo's layout"));
    build.args(["--profile", if profile.ends_with("release") { "release" } else { "test" }]);
    assert!(build.status().expect("cargo runs").success(), "cargo build {arguments:?} fails");
    profile
}

/// A bus that only one test uses. Dropping it stops its daemon.
#[derive(Debug)]
pub struct Bus {
    directory: TempDir,
    _watchdog: Watchdog,
}

impl Default for Bus {
    fn default() -> Self {
        Self::new()
    }
}

impl Bus {
    /// Creates a bus without a daemon.
    pub fn new() -> Self {
        program(); // what it takes to build it does not count as a test that hangs
        let directory = tempfile::Builder::new().prefix("bus-").tempdir().expect("a temporary directory");
        Self { directory, _watchdog: Watchdog::new() }
    }

    /// The directory of the socket and the lock file.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The socket; on Windows, the pipe, which is named after the directory.
    pub fn socket(&self) -> PathBuf {
        if cfg!(windows) {
            let name = self
                .directory()
                .file_name()
                .and_then(OsStr::to_str)
                .expect("the name of a temporary directory is UTF-8");
            return format!(r"\\.\pipe\broadcaster-test-{name}").into();
        }
        self.directory().join("bus.sock")
    }

    /// The directory of the user's settings, which may not exist.
    pub fn config_home(&self) -> PathBuf {
        self.directory().join("config")
    }

    /// Options for clients in this process. They connect to a running daemon and never start one.
    pub fn options(&self) -> Options {
        Options::new().socket(self.socket()).autostart(false).embedded(false)
    }

    /// A command that uses this bus, and that starts this build's daemon if it needs one.
    ///
    /// The settings of the user who runs the tests have no effect on it.
    pub fn command(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.env("BROADCASTER_SOCKET", self.socket()).env("BROADCASTERD", self::program());
        command.env("XDG_CONFIG_HOME", self.config_home());
        for variable in [
            "BROADCASTER_NO_AUTOSTART",
            "BROADCASTER_SHARED_MEMORY",
            "BROADCASTERD_CONFIG",
            "BROADCASTERD_IDLE_EXIT",
            "BROADCASTERD_LOG",
        ] {
            command.env_remove(variable);
        }
        command
    }

    /// Starts a daemon in the foreground, and waits until it is ready.
    pub fn start(&self) -> Process {
        let mut daemon = Process::spawn(&mut self.command(program(), &["run", "--log", "warn"]));
        let line = daemon.line();
        assert!(line.starts_with("listening on"), "output of the daemon: {line:?}");
        daemon
    }

    /// Runs `broadcasterd` with `arguments`, and waits for it to exit.
    pub fn run(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = self.command(program(), arguments);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command.output().expect("broadcasterd runs")
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        // A client may have started a daemon.
        let _ = self.options().timeout(Duration::from_secs(2)).daemon().stop();
    }
}

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts `command`, whose standard output must be a pipe.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("standard output is a pipe"));
        Self { child, stdin, stdout }
    }

    /// The next line of its output, without the line break. Empty at the end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the output can be read");
        line.trim_end().to_owned()
    }

    /// Expects that its first line of diagnostics starts with `prefix`. The rest is discarded.
    pub fn expect_error_line(&mut self, prefix: &str) {
        let mut stderr = BufReader::new(self.child.stderr.take().expect("standard error is a pipe"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("standard error can be read");
        assert!(line.starts_with(prefix), "expected {prefix:?}, got {line:?}");
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    }

    /// Whether there is output to read, which may take so long to come. At the end there is.
    #[cfg(unix)]
    pub fn has_line(&self, patience: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = Timespec::try_from(patience).expect("a short time");
        let mut output = [PollFd::new(self.stdout.get_ref(), PollFlags::IN)];
        !self.stdout.buffer().is_empty() || poll(&mut output, Some(&timeout)).expect("waited") > 0
    }

    /// All remaining output.
    pub fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("the output can be read");
        rest
    }

    /// Writes a line to its standard input.
    pub fn write_line(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("standard input is an open pipe"), "{line}").expect("the line is written");
    }

    /// Writes a line to its standard input, unless it has ended.
    pub fn try_write_line(&mut self, line: &str) {
        let _ = writeln!(self.stdin.as_mut().expect("standard input is an open pipe"), "{line}");
    }

    /// What it answers to a line; `None` if it has ended, or does not answer within `patience`.
    #[cfg(unix)]
    pub fn ask(&mut self, request: &str, patience: Duration) -> Option<String> {
        self.try_write_line(request);
        self.has_line(patience).then(|| self.line()).filter(|line| !line.is_empty())
    }

    /// Its standard input, for another thread.
    pub fn take_input(&mut self) -> ChildStdin {
        self.stdin.take().expect("standard input is an open pipe")
    }

    /// Closes its standard input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, and waits until it has exited.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("a child can be waited for");
    }

    /// Sends it a signal.
    #[cfg(unix)]
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("the process exists");
    }

    /// Waits until it exits, and returns the signal that ended it, if one did.
    #[cfg(unix)]
    pub fn wait_for_signal(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        self.child.wait().expect("a child can be waited for").signal()
    }

    /// Closes its standard input, waits until it exits, and returns its exit code. `None` if a signal ended it.
    pub fn wait(&mut self) -> Option<i32> {
        self.stdin = None;
        self.child.wait().expect("a child can be waited for").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Aborts a test run that hangs.
#[derive(Debug)]
struct Watchdog(#[allow(dead_code)] Sender<()>);

impl Watchdog {
    fn new() -> Self {
        let (alive, dropped) = channel::<()>();
        std::thread::spawn(move || {
            if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = dropped.recv_timeout(WATCHDOG) {
                eprintln!("a process test hangs: still running after {WATCHDOG:?}");
                std::process::abort();
            }
        });
        Self(alive)
    }
}
