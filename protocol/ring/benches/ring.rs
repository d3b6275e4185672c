//! What a message costs in one thread: `push` and `publish`, then `poll`. Prints nanoseconds per message, the median and the spread of runs.
//!
//! ```text
//! cargo bench -p broadcaster-ring
//! ```
#![allow(clippy::unwrap_used)]

use broadcaster_ring::{HEADER_WORDS, Poll, Reader, Record, Start, Writer};
use bytes::BytesMut;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// 4 MiB of data.
const CAPACITY: usize = 1 << 19;

/// As many as the header of a frame has.
fn header(record: &Record) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[20..].copy_from_slice(&record.sequence.to_le_bytes());
    bytes
}

/// Nanoseconds for each message with so many bytes, published in batches.
fn run(payload_bytes: usize, batch: u64, messages: u64) -> f64 {
    let memory: Arc<[AtomicU64]> = (0..HEADER_WORDS + CAPACITY).map(|_| AtomicU64::new(0)).collect();
    let mut writer = Writer::new(memory.clone(), 0);
    let mut reader = Reader::open(memory, Start::Newest).unwrap();
    let (payload, mut out) = (vec![7; payload_bytes], BytesMut::new());
    let started = Instant::now();
    for _ in 0..messages / batch {
        for _ in 0..batch {
            writer.push(1, &[], black_box(&payload)).unwrap();
        }
        let _ = writer.publish();
        out.clear();
        assert_eq!(reader.poll(&mut out, usize::MAX, header), Ok(Poll::Messages(batch)));
        black_box(&out);
    }
    started.elapsed().as_nanos() as f64 / messages as f64
}

fn main() {
    println!("{:>8} {:>6} {:>10} {:>10} {:>10}", "bytes", "batch", "min ns", "median ns", "max ns");
    for payload_bytes in [64, 1024, 64 * 1024] {
        for batch in [1, 16] {
            let messages = (64 << 20) / payload_bytes as u64;
            let mut runs: Vec<f64> = (0..7).map(|_| run(payload_bytes, batch, messages)).collect();
            runs.sort_by(f64::total_cmp);
            println!("{payload_bytes:>8} {batch:>6} {:>10.1} {:>10.1} {:>10.1}", runs[0], runs[3], runs[6]);
        }
    }
}
