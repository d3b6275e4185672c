//! Every number of the wire, named, with its unit last. Nothing here is computed or configurable.

use std::time::Duration;

/// The oldest protocol version that this crate speaks.
pub const PROTOCOL_MIN: u16 = 1;

/// The newest protocol version that this crate speaks.
pub const PROTOCOL_MAX: u16 = 1;

/// Bytes of the fixed header of every frame.
pub const HEADER_BYTES: usize = 28;

/// Bytes of the length before every message in a batch.
pub const RECORD_HEADER_BYTES: usize = 4;

/// Largest body of a batch, in bytes (4 KiB). A batch is for small messages: its header must stay a small part of it.
pub const BATCH_BYTES_MAX: u32 = 4096;

/// Largest metadata of one Publish frame, in bytes (4 KiB).
pub const META_BYTES_MAX: u16 = 4096;

/// What each message adds to the bytes of its frame when it uses up credit, in bytes: its bookkeeping in the daemon. The daemon's limits on
/// bytes and on messages that wait then have one common measure.
pub const CREDIT_MESSAGE_BYTES: u64 = 64;

/// The most lagging listeners that one Receipt names.
pub const RECEIPT_LAGGING_MAX: usize = 64;

/// Longest channel name, in bytes of UTF-8.
pub const CHANNEL_NAME_BYTES_MAX: usize = 255;

/// Largest payload of one message that any daemon accepts, in bytes (64 MiB). A daemon may be configured to accept less.
pub const PAYLOAD_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Largest body of a control frame, in bytes (4 KiB).
pub const CONTROL_BYTES_MAX: u32 = 4096;

/// Time limit from accept to a complete Hello.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest version text in Hello and Welcome, in bytes. The writer truncates it.
pub const VERSION_BYTES_MAX: usize = 64;

/// Longest purpose text in Hello, in bytes. The writer truncates it.
pub const PURPOSE_BYTES_MAX: usize = 64;

/// Longest reason text in Refused and Goodbye, in bytes. The writer truncates it.
pub const REASON_BYTES_MAX: usize = 1024;

/// Longest path of a Unix socket on Linux, in bytes (`sun_path` without its terminator).
pub const SOCKET_PATH_BYTES_MAX_LINUX: usize = 107;

/// Longest path of a Unix socket on macOS and the BSDs, in bytes (`sun_path` without its terminator).
pub const SOCKET_PATH_BYTES_MAX_BSD: usize = 103;
