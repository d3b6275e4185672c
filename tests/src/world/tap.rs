//! What a client has sent, as far as the daemon has read it: the model's view of the input, with a decoder of its own.

use crate::model::Mark;
use broadcaster_protocol::control::{Control, Selector, extension};
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use broadcaster_protocol::{Decoder, Item};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

/// One thing that the daemon will handle.
#[derive(Debug)]
pub(super) enum Input {
    /// A message, and how many the daemon is to keep if it is to retain it.
    Message(Mark, Bytes, Option<u32>),
    /// A message that an earlier daemon has retained.
    Declared(Mark, Bytes),
    /// A subscription of this number to these channels, to which so many messages are replayed.
    Subscribe(u32, Selector, u32),
    /// Its end.
    Unsubscribe(u32),
    /// Messages are in a ring, from this number on.
    BeginRing(u64),
    /// No more messages are in the ring.
    EndRing,
}

#[derive(Debug)]
pub(super) struct Tap {
    decoder: Decoder,
    chunk: BytesMut,
    /// What was read and, as far as the model knows, not handled.
    pub(super) unhandled: VecDeque<Input>,
}

impl Tap {
    pub(super) fn new() -> Self {
        Self { decoder: Decoder::consumer(PAYLOAD_BYTES_MAX), chunk: BytesMut::new(), unhandled: VecDeque::new() }
    }

    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut target = self.decoder.target(&mut self.chunk);
            let (now, later) = bytes.split_at(bytes.len().min(target.remaining_mut()));
            target.put_slice(now);
            bytes = later;
            while let Some(item) = self.decoder.next(&mut self.chunk).expect("clients send frames") {
                match item {
                    Item::Run(run) if run.is_reply() => {}
                    Item::Run(mut run) => {
                        let sender = run.sender().raw();
                        while let Some(front) = run.front() {
                            let mark = Mark { sender, sequence: front.sequence };
                            let payload = Bytes::copy_from_slice(front.payload);
                            let keep = run.is_retained().then(|| front.metadata.retention().keep);
                            self.unhandled.push_back(match run.is_redeclared() {
                                true => Input::Declared(mark, payload),
                                false => Input::Message(mark, payload, keep),
                            });
                            run.skip_front();
                        }
                    }
                    Item::Control(Control::Subscribe(subscribe)) => {
                        let replay = subscribe.extensions.iter().find(|extension| extension.id == extension::REPLAY);
                        let replay = replay.and_then(|replay| replay.data.first_chunk().copied());
                        self.unhandled.push_back(Input::Subscribe(
                            subscribe.subscription,
                            subscribe.selector,
                            replay.map_or(0, u32::from_le_bytes),
                        ));
                    }
                    Item::Control(Control::Unsubscribe(unsubscribe)) => {
                        self.unhandled.push_back(Input::Unsubscribe(unsubscribe.subscription));
                    }
                    Item::Control(Control::BeginRing(begin)) => {
                        self.unhandled.push_back(Input::BeginRing(begin.sequence));
                    }
                    Item::Control(Control::EndRing(_)) => self.unhandled.push_back(Input::EndRing),
                    Item::Control(_) | Item::Discarded(_) => {}
                }
            }
        }
    }
}
