//! The launchd agent of a user: one property list with the socket that launchd listens on. It never requests a daemon that runs
//! permanently.

use super::order::{Order, Wanted, failed};
use super::steps::{Action, Found, MARK, Steps, look, run};
use crate::exit::Failure;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const LABEL: &str = "com.system-broadcaster.broadcasterd";

const TEMPLATE: &str = include_str!("../../packaging/launchd/com.system-broadcaster.broadcasterd.plist");

pub(super) fn install(order: &Order<'_>, wanted: &Wanted) -> Result<(), Failure> {
    let steps = Steps::new(order.dry_run);
    let socket = socket()?;
    let text = text(&wanted.program, &socket).map_err(failed)?;
    let path = own_path()?;
    let found = look(&path)?;
    let loaded = is_loaded();
    let current = matches!(&found, Found::Ours(old) if *old == text);
    if current {
        steps.note(format_args!("{} is already up to date", path.display()))?;
    } else {
        steps.write(&path, &text)?;
    }
    if loaded && current {
        return steps.note(format_args!("{LABEL} is already loaded"));
    }
    if !wanted.now {
        let then = "launchd listens from the next login on; `broadcasterd install --now` starts it now";
        return steps.note(format_args!("{then}"));
    }
    if loaded {
        steps.command(Action::Unload, LABEL, &mut launchctl("bootout", &[&service()]))?;
    } else if let Some(pid) = order.running() {
        // launchd does not replace a socket that is being served.
        if !order.dry_run {
            order.options.daemon().stop()?;
        }
        steps.note(format_args!("process {pid}, the previous daemon, stops: each listener reports one gap"))?;
    }
    if !order.dry_run {
        make_room(&socket)?;
    }
    let plist = path.as_os_str();
    steps.command(Action::Load, LABEL, &mut launchctl("bootstrap", &[OsStr::new(&domain()), plist]))
}

pub(super) fn uninstall(order: &Order<'_>) -> Result<(), Failure> {
    let steps = Steps::new(order.dry_run);
    let path = own_path()?;
    let found = look(&path)?;
    let loaded = is_loaded();
    if loaded {
        steps.command(Action::Unload, LABEL, &mut launchctl("bootout", &[&service()]))?;
        let then = "after delivering what was sent; programs that use the bus start a daemon themselves";
        steps.note(format_args!("the daemon stops {then}"))?;
    }
    if found != Found::Nothing {
        steps.remove(&path)?;
    } else if !loaded {
        steps.note(format_args!("not installed: nothing to undo"))?;
    }
    Ok(())
}

pub(super) fn restart(order: &Order<'_>) -> Result<bool, Failure> {
    if order.named {
        return Ok(false);
    }
    // Without an agent that runs, launchd does not manage the daemon.
    let Ok(printed) = run(&mut launchctl("print", &[&service()])) else { return Ok(false) };
    if !printed.lines().any(|line| line.trim() == "state = running") {
        return Ok(false);
    }
    let service = service();
    let again = [OsStr::new("-k"), service.as_ref()];
    Steps::new(order.dry_run).command(Action::Restart, LABEL, &mut launchctl("kickstart", &again))?;
    Ok(true)
}

fn launchctl(verb: &str, arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new("launchctl");
    command.arg(verb).args(arguments);
    command
}

/// The domain of the user's graphical session, which contains agents.
fn domain() -> String {
    format!("gui/{}", rustix::process::geteuid().as_raw())
}

fn service() -> String {
    format!("{}/{LABEL}", domain())
}

fn is_loaded() -> bool {
    run(&mut launchctl("print", &[&service()])).is_ok()
}

fn own_path() -> Result<PathBuf, Failure> {
    match directories::BaseDirs::new() {
        Some(directories) => Ok(directories.home_dir().join("Library/LaunchAgents").join(format!("{LABEL}.plist"))),
        None => Err(failed("no directory for the agent: set HOME to an absolute path".to_owned())),
    }
}

/// The first socket that clients try.
fn socket() -> Result<PathBuf, Failure> {
    let candidates = system_broadcaster::Options::new().candidates()?;
    match candidates.into_iter().next() {
        Some(first) => Ok(first.socket),
        None => Err(failed("no directory for the socket: set HOME to an absolute path".to_owned())),
    }
}

/// launchd neither creates the directory nor removes a stale socket.
fn make_room(socket: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
    if let Some(directory) = socket.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| failed(format!("cannot create {}: {error}", directory.display())))?;
    }
    if std::fs::symlink_metadata(socket).is_ok_and(|it| it.file_type().is_socket()) {
        std::fs::remove_file(socket).map_err(|error| failed(format!("cannot remove {}: {error}", socket.display())))?;
    }
    Ok(())
}

/// The property list with `program` as the daemon, listening on `socket`.
fn text(program: &Path, socket: &Path) -> Result<String, String> {
    let (program, socket) = (escaped(program)?, escaped(socket)?);
    // Each placeholder is replaced in its own line: a path may contain the text of the other placeholder.
    let filled: Vec<_> = TEMPLATE
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("<!-- A template"))
        .map(|line| match line.trim() {
            "<string>@PROGRAM@</string>" => line.replace("@PROGRAM@", &program),
            "<string>@SOCKET@</string>" => line.replace("@SOCKET@", &socket),
            _ => line.to_owned(),
        })
        .collect();
    let (declaration, rest) = filled.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    Ok(format!("{declaration}<!-- {MARK} -->\n{}", rest.concat()))
}

/// A path as XML text.
fn escaped(path: &Path) -> Result<String, String> {
    let refused = |why| format!("the path {path:?} {why}, which a property list cannot contain: choose another place");
    let text = path.to_str().ok_or_else(|| refused("is not UTF-8"))?;
    if text.chars().any(|character| character.is_control() || matches!(character, '\u{fffe}' | '\u{ffff}')) {
        return Err(refused("contains a control character"));
    }
    Ok(text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn property_list_names_program_and_socket() {
        let text = text(Path::new("/opt/a & b/broadcasterd"), Path::new("/Users/<u>/@PROGRAM@/bus.sock"))
            .expect("usable paths");
        assert!(text.contains("<string>/opt/a &amp; b/broadcasterd</string>\n        <string>run</string>"), "{text}");
        assert!(text.contains("<string>/Users/&lt;u&gt;/@PROGRAM@/bus.sock</string>"), "{text}");
        assert!(!text.contains("@SOCKET@") && !text.contains("A template"), "{text}");
        assert_eq!(text.lines().nth(1), Some(format!("<!-- {MARK} -->").as_str()));
    }

    #[test]
    fn agent_is_on_demand_private_and_has_descriptors() {
        let text = text(Path::new("/p"), Path::new("/s")).expect("usable paths");
        let words: String = text.split_whitespace().collect();
        for part in [
            "<key>RunAtLoad</key><false/>",
            "<key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>",
            "<key>SockPathMode</key><integer>384</integer>",
            "<key>NumberOfFiles</key><integer>16384</integer>",
            &format!("<key>Label</key><string>{LABEL}</string>"),
        ] {
            assert!(words.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn path_that_a_property_list_cannot_contain_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        for path in [&b"/a\nb"[..], b"/a\x01", b"/\xff"] {
            let sentence = escaped(Path::new(OsStr::from_bytes(path))).expect_err("refused");
            assert!(sentence.contains("choose another place"), "{sentence}");
        }
    }
}
