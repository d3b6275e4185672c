//! How many connections and rings a limit on open files allows. It never queries the limit.

/// The most files that the daemon has open besides its connections: the standard streams, the lock and socket of each candidate, the stats
/// sockets and their clients, the watch, the spare descriptor, and those of the runtime.
const OTHERS: u64 = 48;

/// The files of a ring: its memory and the daemon's doorbell as long as it lives, and the page and doorbell of one listener at a time that is
/// being introduced. Mappings are no files.
const FILES_PER_RING: usize = 4;

/// The most rings of a daemon, however many files it may have open.
const RINGS_MAX: usize = 256;

/// How many connections a daemon may have under this limit on open files, where `None` is no limit; at least 1.
///
/// A connection uses one file, and a second one while its socket is full. A quarter of what remains is reserved: half of it for the second
/// ones, and half for rings, see [`rings_within`]. If more sockets are full, they wait for one another. Without this bound the system would
/// refuse the last connections, when it is too late to send a reason.
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

/// How many rings a daemon may have that allows this many connections: at most 256, and 0 with few connections. Messages go by socket
/// without one, so rings take nothing from the connections.
///
/// Descriptors that wait for the rest of their frame are not counted. A peer that sends them and nothing further has up to 4 files of the daemon
/// for each of its connections.
pub fn rings_within(connections: usize) -> usize {
    // The reserve is a third of the connections.
    (connections / (2 * 3 * FILES_PER_RING)).min(RINGS_MAX)
}

/// The smallest limit on open files under which [`connections_within`] allows this many connections.
pub fn descriptors_for(connections: usize) -> u64 {
    let connections = u64::try_from(connections).unwrap_or(u64::MAX);
    OTHERS + connections.saturating_sub(1).saturating_mul(4) / 3 + 1
}

#[cfg(test)]
mod tests {
    use super::{FILES_PER_RING, OTHERS, connections_of_host, connections_within, descriptors_for, rings_within};

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

    #[test]
    fn rings_use_half_of_the_reserve() {
        for (connections, rings) in
            [(1, 0), (12, 0), (156, 6), (732, 30), (4096, 170), (14_964, 256), (usize::MAX, 256)]
        {
            assert_eq!(rings_within(connections), rings, "{connections}");
        }
        for descriptors in 60..20_000 {
            let connections = connections_within(Some(descriptors));
            let reserve = usize::try_from(descriptors - OTHERS).expect("small") - connections;
            let used = rings_within(connections) * FILES_PER_RING;
            assert!(used <= reserve.div_ceil(2), "{used} of {reserve} files with a limit of {descriptors}");
        }
    }

    #[test]
    fn needed_descriptors_are_just_enough() {
        for connections in 2..5000 {
            let needed = descriptors_for(connections);
            assert_eq!(connections_within(Some(needed)), connections);
            assert!(connections_within(Some(needed - 1)) < connections, "{connections}");
        }
    }
}
