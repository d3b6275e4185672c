//! A run can be used up from the front, cut at the end and measured, and always knows what is left.
#![allow(clippy::unwrap_used)]

use broadcaster_protocol::limits::HEADER_BYTES;
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, Run, SenderId};
use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

/// A run of one frame for each of `payloads`, the first with the sequence number `first`.
fn run(first: u64, payloads: &[Vec<u8>]) -> Run {
    let mut chunk = BytesMut::new();
    let mut sequence = first;
    for payload in payloads {
        let len = u32::try_from(payload.len()).unwrap();
        let header = Header::publish(ChannelId(3), SenderId::new(4, 5), sequence, len);
        chunk.extend_from_slice(header.as_bytes());
        chunk.extend_from_slice(payload);
        sequence = sequence.wrapping_add(1);
    }
    match Decoder::consumer(1 << 20).next(&mut chunk) {
        Ok(Some(Item::Run(run))) => run,
        other => panic!("not a run: {other:?}"),
    }
}

/// Payloads of 0, 1, 2, ... bytes.
fn payloads(frames: u8) -> Vec<Vec<u8>> {
    (0..frames).map(|len| vec![len; usize::from(len)]).collect()
}

/// The run shows these payloads, in every way in which it can be looked at.
fn check(run: &Run, first: u64, payloads: &[Vec<u8>]) {
    assert_eq!((run.channel(), run.sender(), run.first()), (ChannelId(3), SenderId::new(4, 5), first));
    assert_eq!(run.frames(), payloads.len() as u64);
    assert!(run.iter().map(|frame| frame.payload).eq(payloads.iter().map(Vec::as_slice)));
    let sequences = run.iter().map(|frame| frame.header.sequence());
    assert!(sequences.eq((0..).map(|at| first.wrapping_add(at)).take(payloads.len())));
    assert_eq!(run.front().map(|frame| frame.payload), payloads.first().map(Vec::as_slice));
    let mut bytes = 0;
    for (at, payload) in (0..).zip(payloads) {
        assert_eq!(run.bytes_of(at), bytes);
        bytes += HEADER_BYTES + payload.len();
    }
    assert_eq!(run.bytes().len(), bytes);
    let frames = run.frames();
    assert_eq!([run.bytes_of(frames), run.bytes_of(frames + 1), run.bytes_of(u64::MAX)], [bytes; 3]);
}

#[test]
fn frames_are_skipped_from_the_front() {
    let payloads = payloads(5);
    for frames in 0..=5 {
        let mut run = run(10, &payloads);
        let bytes = run.bytes_of(frames);
        assert_eq!(run.skip_front(frames), bytes);
        check(&run, 10 + frames, &payloads[usize::try_from(frames).unwrap()..]);
    }
    let mut run = run(10, &payloads);
    let all = run.bytes().len();
    assert_eq!((run.skip_front(u64::MAX), run.skip_front(1)), (all, 0));
    check(&run, 15, &[]);
}

#[test]
fn frames_are_taken_from_the_front() {
    let payloads = payloads(3);
    let mut run = run(u64::MAX, &payloads);
    check(&run, u64::MAX, &payloads);
    for (at, payload) in payloads.iter().enumerate() {
        assert_eq!(run.take_front().unwrap(), payload);
        check(&run, at as u64, &payloads[at + 1..]);
    }
    assert!(run.take_front().is_none() && run.front().is_none());
}

#[test]
fn taken_payloads_are_references() {
    let mut run = run(0, &payloads(3));
    let (bytes, all) = (run.bytes().as_ptr_range(), run.clone());
    run.skip_front(2);
    let taken = run.take_front().unwrap();
    assert!(bytes.contains(&taken.as_ptr()) && taken.as_ptr_range().end == bytes.end);
    check(&all, 0, &payloads(3));
}

#[test]
fn frames_are_cut_from_the_end() {
    let payloads = payloads(5);
    for frames in 0..=5 {
        let mut run = run(10, &payloads);
        assert_eq!(run.truncate(frames), 5 - frames);
        check(&run, 10, &payloads[..usize::try_from(frames).unwrap()]);
    }
    let mut run = run(10, &payloads);
    assert_eq!(run.truncate(u64::MAX), 0);
    check(&run, 10, &payloads);
}

#[test]
fn cutting_does_not_change_what_is_pinned() {
    let mut run = run(0, &payloads(5));
    let pinned = run.pinned_bytes();
    run.skip_front(2);
    run.truncate(1);
    run.take_front();
    assert_eq!(run.pinned_bytes(), pinned);
}

#[derive(Debug, Clone)]
enum Cut {
    Skip(u64),
    Take,
    Truncate(u64),
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cuts_leave_what_is_between_them(
        payloads in vec(vec(any::<u8>(), 0..50), 1..30),
        cuts in vec(prop_oneof![(0..10_u64).prop_map(Cut::Skip), Just(Cut::Take), (0..40_u64).prop_map(Cut::Truncate)], 0..8),
    ) {
        let mut first = u64::MAX - 5;
        let mut run = run(first, &payloads);
        let mut left = payloads.as_slice();
        for cut in cuts {
            let gone = match cut {
                Cut::Skip(frames) => {
                    let gone = left.len().min(usize::try_from(frames).unwrap());
                    let bytes: usize = left[..gone].iter().map(|payload| HEADER_BYTES + payload.len()).sum();
                    assert_eq!(run.skip_front(frames), bytes);
                    gone
                }
                Cut::Take => {
                    assert_eq!(run.take_front().as_deref(), left.first().map(Vec::as_slice));
                    left.len().min(1)
                }
                Cut::Truncate(frames) => {
                    let kept = left.len().min(usize::try_from(frames).unwrap());
                    assert_eq!(run.truncate(frames), (left.len() - kept) as u64);
                    left = &left[..kept];
                    0
                }
            };
            first = first.wrapping_add(gone as u64);
            left = &left[gone..];
            check(&run, first, left);
        }
    }
}
