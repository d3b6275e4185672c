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

#[cfg(test)]
mod tests {
    use super::connections_within;

    #[test]
    fn connections_leave_room_for_other_files() {
        assert_eq!(connections_within(None), usize::MAX);
        for (descriptors, connections) in [(0, 1), (48, 1), (64, 12), (256, 156), (1024, 732), (20_000, 14_964)] {
            assert_eq!(connections_within(Some(descriptors)), connections, "{descriptors}");
        }
    }
}
