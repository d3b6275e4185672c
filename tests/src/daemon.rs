//! Real daemons and clients as processes, each on a bus of its own in a directory of its own. Readiness is a line on a
//! pipe; whatever a test starts ends with it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use system_broadcaster::Options;
use tempfile::TempDir;

/// How long a process test may take before it is taken for hung.
const WATCHDOG: Duration = Duration::from_secs(240);

/// The `broadcasterd` of this build, built if it is not; or the one that `BROADCASTER_TEST_PROGRAM` names, where a test can not
/// build anything.
///
/// # Panics
///
/// If it can not be built.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(program) = std::env::var_os("BROADCASTER_TEST_PROGRAM") {
            return std::path::absolute(program).expect("a path");
        }
        // A test runs as <target>/<profile>/deps/<name>.
        let test = std::env::current_exe().expect("a test is a program");
        let profile = test.ancestors().nth(2).expect("cargo's layout").to_owned();
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "--package", "broadcasterd", "--bin", "broadcasterd"]);
        build.current_dir(env!("CARGO_MANIFEST_DIR")).arg("--target-dir");
        build.arg(profile.parent().expect("cargo's layout"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "broadcasterd does not build");
        profile.join("broadcasterd")
    })
}

/// A bus that nobody else uses.
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
    /// A bus without a daemon.
    ///
    /// # Panics
    ///
    /// If there is no temporary directory.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("bus-").tempdir().expect("a temporary directory");
        Self { directory, _watchdog: Watchdog::new() }
    }

    /// The directory of socket and lock.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The socket, or the pipe that is named after the directory.
    ///
    /// # Panics
    ///
    /// If the directory's name is no text.
    pub fn socket(&self) -> PathBuf {
        if cfg!(windows) {
            let name =
                self.directory().file_name().and_then(OsStr::to_str).expect("a temporary directory has a plain name");
            return format!(r"\\.\pipe\broadcaster-test-{name}").into();
        }
        self.directory().join("bus.sock")
    }

    /// The directory of the user's settings, which need not be there.
    pub fn config_home(&self) -> PathBuf {
        self.directory().join("config")
    }

    /// How a client in this process connects: to a running daemon only.
    pub fn options(&self) -> Options {
        Options::new().socket(self.socket()).autostart(false).embedded(false)
    }

    /// A command on this bus, with this build's daemon to start if one is needed, and none of the settings of whoever runs
    /// the tests.
    pub fn command(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.env("BROADCASTER_SOCKET", self.socket()).env("BROADCASTERD", self::program());
        command.env("XDG_CONFIG_HOME", self.config_home());
        for variable in
            ["BROADCASTER_NO_AUTOSTART", "BROADCASTERD_CONFIG", "BROADCASTERD_IDLE_EXIT", "BROADCASTERD_LOG"]
        {
            command.env_remove(variable);
        }
        command
    }

    /// A daemon in the foreground that is ready.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub fn start(&self) -> Process {
        let mut daemon = Process::spawn(&mut self.command(program(), &["run", "--log", "warn"]));
        let line = daemon.line();
        assert!(line.starts_with("listening on"), "the daemon says {line:?}");
        daemon
    }

    /// Runs `broadcasterd` with these arguments to its end.
    ///
    /// # Panics
    ///
    /// If it can not be run.
    pub fn run(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = self.command(program(), arguments);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command.output().expect("broadcasterd runs")
    }
}

/// A daemon that started itself ends with the test.
impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.options().deadline(Duration::from_secs(2)).daemon().stop();
    }
}

/// A child process that is killed when the test lets go of it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts `command`, whose stdin and stdout are pipes.
    ///
    /// # Panics
    ///
    /// If it can not be started.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        Self { child, stdin, stdout }
    }

    /// The next line of its output; empty at its end.
    ///
    /// # Panics
    ///
    /// If it can not be read.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the output can be read");
        line.trim_end().to_owned()
    }

    /// Reads its diagnostics, which must be a pipe, up to a line that begins like this. What comes later is dropped.
    ///
    /// # Panics
    ///
    /// If there is no such line.
    pub fn expect_error_line(&mut self, wanted: &str) {
        let mut stderr = BufReader::new(self.child.stderr.take().expect("stderr is a pipe"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("the diagnostics can be read");
        assert!(line.starts_with(wanted), "it says {line:?}");
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    }

    /// All the output that is left.
    ///
    /// # Panics
    ///
    /// If it can not be read.
    pub fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("the output can be read");
        rest
    }

    /// Tells it a line.
    ///
    /// # Panics
    ///
    /// If it does not listen.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("stdin is a pipe"), "{line}").expect("it listens");
    }

    /// Ends its input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, and waits until it has ended.
    ///
    /// # Panics
    ///
    /// If it can not be waited for.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("it is our child");
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// If it is gone.
    #[cfg(unix)]
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("the process is there");
    }

    /// Waits until it ends, and returns its exit code, if it was not a signal that ended it.
    ///
    /// # Panics
    ///
    /// If it can not be waited for.
    pub fn wait(&mut self) -> Option<i32> {
        self.stdin = None;
        self.child.wait().expect("it is our child").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends a test run that hangs, since no call of ours may.
#[derive(Debug)]
struct Watchdog(#[allow(dead_code)] Sender<()>);

impl Watchdog {
    fn new() -> Self {
        let (alive, dropped) = channel::<()>();
        std::thread::spawn(move || {
            if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = dropped.recv_timeout(WATCHDOG) {
                eprintln!("a process test hangs: no end after {WATCHDOG:?}");
                std::process::abort();
            }
        });
        Self(alive)
    }
}
