//! How many connections fit into a limit of open files. It never asks for the limit.

/// Files that the daemon has open beside its connections, at most: its standard ones, lock and socket of each candidate, the stats sockets
/// with their clients, the watch, the spare one and the runtime's own.
const OTHERS: u64 = 48;

/// How many connections a daemon may have with this limit of open files, where `None` is no limit; at least 1.
///
/// A connection has one file, and a second one while it is full. A quarter of what is left is for those: more full connections than that
/// wait for one another. Without this bound the last connections would be refused by the system, when it is too late to give a reason.
pub fn connections_within(descriptors: Option<u64>) -> usize {
    let Some(descriptors) = descriptors else { return usize::MAX };
    let left = descriptors.saturating_sub(OTHERS);
    usize::try_from(left - left / 4).unwrap_or(usize::MAX).max(1)
}

/// How many connections a program that hosts the bus may have with this limit of open files: half of the files are for the bus, with room
/// for those that it opens itself and for full connections; at least a quarter are connections.
///
/// The other half is the program's. Its limit is not raised on its behalf: children inherit it, and code that uses `select` fails with
/// descriptors above 1023.
pub fn connections_of_host(descriptors: usize) -> usize {
    let half = u64::try_from(descriptors / 2).unwrap_or(u64::MAX);
    connections_within(Some(half)).max(descriptors / 4)
}

#[cfg(test)]
mod tests {
    use super::{connections_of_host, connections_within};

    #[test]
    fn connections_leave_room_for_other_files() {
        assert_eq!(connections_within(None), usize::MAX);
        for (descriptors, connections) in [(0, 1), (48, 1), (64, 12), (256, 156), (1024, 732), (20_000, 14_964)] {
            assert_eq!(connections_within(Some(descriptors)), connections, "{descriptors}");
        }
    }

    #[test]
    fn a_host_keeps_half_of_its_files() {
        for (descriptors, connections) in [(0, 1), (8, 2), (256, 64), (400, 114), (1024, 348), (4096, 1500)] {
            assert_eq!(connections_of_host(descriptors), connections, "{descriptors}");
        }
    }
}
