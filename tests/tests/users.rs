//! What another user, and root in a user's environment, can and cannot do to the bus. Only root can run these tests.

#![cfg(unix)]

use broadcaster_tests::daemon::{Bus, program};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const PROBE: &str = env!("CARGO_BIN_EXE_bus-probe");

/// A user other than root.
const OTHER: u32 = 65534;

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: only root can become another user");
    }
    is_root
}

/// A directory that every user can enter.
fn open_directory() -> TempDir {
    let directory = tempfile::Builder::new().prefix("users-").tempdir_in("/tmp").expect("a temporary directory");
    set_mode(directory.path(), 0o755);
    directory
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("set");
}

/// A directory of this user.
fn directory_of(user: u32, path: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&path).expect("made");
    set_mode(&path, 0o700);
    chown(&path, Some(user), Some(user)).expect("given away");
    path
}

/// Copies the probe in another process: no thread of this one may have it open for writing when it runs.
fn copy_of_probe(copy: &Path) {
    assert!(Command::new("cp").arg(PROBE).arg(copy).status().expect("cp runs").success());
}

/// A program called `broadcasterd` in `directory` that leaves a file behind when it is run.
fn trap(directory: &Path, sprung: &Path) -> PathBuf {
    let trap = directory.join("broadcasterd");
    let script = "printf '#!/bin/sh\n: > %s\n' \"$2\" > \"$1\" && chmod 755 \"$1\"";
    let written = Command::new("/bin/sh").args(["-c", script, "sh"]).arg(&trap).arg(sprung).status();
    assert!(written.expect("sh runs").success());
    trap
}

/// `program` as another user.
fn as_other(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
    command
}

/// Runs a probe that sends once, as `command` has it, to its end.
fn first(command: &mut Command) -> String {
    let Output { stdout, .. } = command.args(["ping", "news"]).stdin(Stdio::null()).output().expect("the probe runs");
    String::from_utf8(stdout).expect("text")
}

#[test]
fn program_that_another_user_can_replace_is_not_run() {
    if !is_root() {
        return;
    }
    for (mode, owner) in [(0o1777, 0), (0o775, 0), (0o755, OTHER)] {
        let (bus, place) = (Bus::new(), open_directory());
        let (shared, sprung) = (place.path().join("shared"), place.path().join("sprung"));
        std::fs::create_dir(&shared).expect("made");
        let probe = shared.join("bus-probe");
        copy_of_probe(&probe);
        chown(trap(&shared, &sprung), Some(owner), None).expect("given away");
        set_mode(&shared, mode);
        let mut command = bus.command(&probe, &[]);
        let printed = first(command.env_remove("BROADCASTERD").env("PATH", &shared));
        assert!(!sprung.exists(), "the program of another user was run: {printed}");
        assert_eq!(printed, "ready\n", "the probe hosts the bus instead");
    }
}

#[test]
fn set_user_id_program_starts_nothing_and_ignores_the_environment() {
    if !is_root() {
        return;
    }
    let place = open_directory();
    let sprung = directory_of(OTHER, place.path().join("marks")).join("sprung");
    let trap = trap(place.path(), &sprung);
    let probe = place.path().join("bus-probe");
    copy_of_probe(&probe);
    set_mode(&probe, 0o4755);
    let socket = place.path().join("bus.sock");
    let mut command = as_other(&probe);
    let printed =
        first(command.env("BROADCASTERD", trap).env("BROADCASTER_SOCKET", &socket).env("HOME", "/nonexistent"));
    assert!(!sprung.exists(), "the caller's program was run with root's rights: {printed}");
    // Root may have a bus of its own, and then that is the one.
    assert!(printed.contains("more rights than its caller") || printed == "ready\n", "{printed}");
    assert!(!printed.contains(place.path().to_str().expect("text")), "the caller's path is not used: {printed}");
    assert!(!socket.exists());
}

#[test]
fn root_in_the_environment_of_a_user_leaves_nothing_of_roots_there() {
    if !is_root() {
        return;
    }
    let place = open_directory();
    let home = directory_of(OTHER, place.path().join("home"));
    let runtime = directory_of(OTHER, place.path().join("run"));
    let environment = |command: &mut Command| {
        command.env("HOME", &home).env("XDG_RUNTIME_DIR", &runtime).env("BROADCASTERD", program());
        command.env_remove("BROADCASTER_SOCKET").env_remove("XDG_STATE_HOME");
    };
    // `sudo -E broadcasterd run`, for as long as it lasts.
    let mut sudo = Command::new(program());
    environment(&mut sudo);
    let mut sudo = sudo.args(["run", "--idle-exit", "1s"]).stdout(Stdio::null()).spawn().expect("it runs");
    sudo.wait().expect("it ends");
    for directory in [&home, &runtime] {
        let foreign =
            entries(directory).into_iter().find(|path| path.symlink_metadata().expect("there").uid() != OTHER);
        assert_eq!(foreign, None, "root has left this with the user");
    }
    let mut user = as_other(Path::new(PROBE));
    environment(&mut user);
    assert_eq!(first(&mut user), "ready\n", "the user is not locked out");
}

#[test]
fn root_makes_no_directory_for_a_given_path_in_the_directory_of_a_user() {
    if !is_root() {
        return;
    }
    let (bus, place) = (Bus::new(), open_directory());
    let home = directory_of(OTHER, place.path().join("home"));
    let socket = home.join("a/b/bus.sock");
    let output = bus.run(&["run", "--socket", socket.to_str().expect("text")]);
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && printed.contains("belongs to uid 65534, not to uid 0"), "{printed}");
    assert!(entries(&home).is_empty());
}

#[test]
fn squatter_of_the_short_place_is_named() {
    if !is_root() {
        return;
    }
    let place = open_directory();
    let home = directory_of(0, place.path().join("h".repeat(90)));
    let command = |arguments: &[&str]| {
        let mut command = Command::new(program());
        command.args(arguments).env_clear().env("HOME", &home).env("BROADCASTERD", program()).stdin(Stdio::null());
        command
    };
    let mut daemon = broadcaster_tests::daemon::Process::spawn(command(&["run"]).stdout(Stdio::piped()));
    let line = daemon.line();
    let socket = PathBuf::from(line.strip_prefix("listening on ").expect("it listens"));
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.wait(), Some(0));
    if !socket.starts_with("/tmp") {
        return eprintln!("SKIPPED: {} exists, so that no short place is used", socket.display());
    }
    let directory = socket.parent().expect("a directory");
    chown(directory, Some(OTHER), None).expect("squatted");
    let output = command(&["start"]).output().expect("it runs");
    let printed = String::from_utf8_lossy(&output.stderr);
    std::fs::remove_dir_all(directory).expect("removed");
    assert!(!output.status.success(), "{printed}");
    for part in [directory.to_str().expect("text"), "belongs to uid 65534", "set BROADCASTER_SOCKET"] {
        assert!(printed.contains(part), "{part:?} is not in {printed:?}");
    }
}

/// Everything below this directory.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(entries(&path));
        }
        found.push(path);
    }
    found
}
