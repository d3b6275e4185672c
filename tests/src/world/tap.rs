//! What a client has sent, as far as the daemon has read it: the model's view of the input, with a decoder of its own.

use crate::model::Mark;
use broadcaster_protocol::control::{Control, Selector};
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use broadcaster_protocol::{Decoder, Item};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

/// One thing that the daemon will handle.
#[derive(Debug)]
pub(super) enum Input {
    /// A message.
    Message(Mark, Bytes),
    /// A subscription of this number to these channels.
    Subscribe(u32, Selector),
    /// Its end.
    Unsubscribe(u32),
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
                    Item::Run(run) => {
                        let sender = run.sender().raw();
                        let messages = run.iter();
                        let inputs =
                            messages.map(|(sequence, payload)| Input::Message(Mark { sender, sequence }, payload));
                        self.unhandled.extend(inputs);
                    }
                    Item::Control(Control::Subscribe(subscribe)) => {
                        self.unhandled.push_back(Input::Subscribe(subscribe.subscription, subscribe.selector));
                    }
                    Item::Control(Control::Unsubscribe(unsubscribe)) => {
                        self.unhandled.push_back(Input::Unsubscribe(unsubscribe.subscription));
                    }
                    Item::Control(_) | Item::Discarded(_) => {}
                }
            }
        }
    }
}
