//! The run that a daemon decodes.

use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use broadcaster_protocol::{Decoder, Item, Run};
use bytes::{BufMut, BytesMut};

/// The run that the daemon decodes from these frames.
pub(crate) fn run_of(frames: &[u8]) -> Run {
    let (mut decoder, mut chunk) = (Decoder::lender(PAYLOAD_BYTES_MAX), BytesMut::new());
    let mut rest = frames;
    loop {
        let mut target = decoder.target(&mut chunk);
        let (now, later) = rest.split_at(rest.len().min(target.remaining_mut()));
        target.put_slice(now);
        rest = later;
        match decoder.next(&mut chunk).unwrap() {
            Some(Item::Run(run)) if rest.is_empty() => return run,
            None if !rest.is_empty() => {}
            other => panic!("{other:?}"),
        }
    }
}
