//! The names of connected processes, from the system's process table. It reads files and never runs on the thread of the bus.

use super::model::Connection;
use std::collections::BTreeMap;
use std::io::Read;

/// Size limit of a name; the kernel's own is 15 bytes.
const NAME_BYTES_MAX: u64 = 64;

/// Names the processes of these connections where the system knows them. A process that has ended has no name; if its id has been
/// reused, the new process's name is used.
pub(crate) fn name<'a>(connections: impl IntoIterator<Item = &'a mut Connection>) {
    let mut known: BTreeMap<u32, Option<String>> = BTreeMap::new();
    for connection in connections {
        let pid = connection.pid;
        connection.process = known.entry(pid).or_insert_with(|| name_of(pid)).clone();
    }
}

/// The name that `ps` shows. There is none without `/proc`, as on macOS.
fn name_of(pid: u32) -> Option<String> {
    if pid == 0 {
        return None;
    }
    let file = std::fs::File::open(format!("/proc/{pid}/comm")).ok()?;
    let mut name = Vec::new();
    file.take(NAME_BYTES_MAX).read_to_end(&mut name).ok()?;
    let name = String::from_utf8_lossy(&name);
    let name = name.strip_suffix('\n').unwrap_or(&name);
    // A process chooses its own name; it must not control a terminal or a log.
    let name: String = name.chars().map(|char| if char.is_control() { '?' } else { char }).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn name_of_this_process_is_known_and_of_a_missing_one_is_not() {
        let program = std::env::current_exe().expect("a test is a program");
        let ours = name_of(std::process::id()).expect("this process exists");
        let file = program.file_name().expect("a file").to_string_lossy().into_owned();
        assert!(file.starts_with(&ours), "{ours} is the beginning of {file}");
        assert_eq!((name_of(0), name_of(u32::MAX)), (None, None));
    }
}
