//! The names of the processes that are connected, from the system's process table. It reads files, so it never runs on the
//! thread of the bus.

use super::model::Connection;
use std::collections::BTreeMap;
use std::io::Read;

/// Longest name that is taken over; the kernel's own limit is 15.
const NAME_BYTES_MAX: u64 = 64;

/// Names the processes of these connections, as far as the system tells. A process that has ended is not named; if its id
/// was given to another one in the meantime, that one is.
pub(crate) fn name<'a>(connections: impl IntoIterator<Item = &'a mut Connection>) {
    let mut known: BTreeMap<u32, Option<String>> = BTreeMap::new();
    for connection in connections {
        let pid = connection.pid;
        connection.process = known.entry(pid).or_insert_with(|| name_of(pid)).clone();
    }
}

/// What `ps` calls the process. Where there is no `/proc`, as on macOS, there is no name.
fn name_of(pid: u32) -> Option<String> {
    if pid == 0 {
        return None;
    }
    let file = std::fs::File::open(format!("/proc/{pid}/comm")).ok()?;
    let mut name = Vec::new();
    file.take(NAME_BYTES_MAX).read_to_end(&mut name).ok()?;
    let name = String::from_utf8_lossy(&name);
    let name = name.strip_suffix('\n').unwrap_or(&name);
    // A process may call itself anything; a terminal or a log must not obey it.
    let name: String = name.chars().map(|char| if char.is_control() { '?' } else { char }).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn our_own_name_is_known_and_nobodys_is_not() {
        let program = std::env::current_exe().expect("a test is a program");
        let ours = name_of(std::process::id()).expect("we are there");
        let file = program.file_name().expect("a file").to_string_lossy().into_owned();
        assert!(file.starts_with(&ours), "{ours} is the beginning of {file}");
        assert_eq!((name_of(0), name_of(u32::MAX)), (None, None));
    }
}
