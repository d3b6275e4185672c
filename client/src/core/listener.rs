//! The listening side: frames as they come, and the holes between them in their places.

use super::session::{Core, Ended, Heard, Phase, Session, out_of_place};
use broadcaster_protocol::control::{Control, Overflow, Role, Subscribe};
use broadcaster_protocol::{ChannelId, ChannelName, Frame, Item, Run};
use bytes::buf::Limit;
use bytes::{Bytes, BytesMut};

/// A listener on one channel.
#[derive(Debug)]
pub struct ListenerCore {
    session: Session,
    channel: ChannelName,
    overflow: Overflow,
    id: ChannelId,
    run: Option<Run>,
    /// The first frame of `run` was handed out.
    used: bool,
    /// It was joined before, so that joining again leaves a gap.
    joined: bool,
    gap: bool,
}

impl ListenerCore {
    /// A listener on `channel` in the process `pid`.
    pub fn new(channel: ChannelName, overflow: Overflow, pid: u32) -> Self {
        Self {
            session: Session::new(Role::Listener, pid),
            channel,
            overflow,
            id: ChannelId(0),
            run: None,
            used: false,
            joined: false,
            gap: false,
        }
    }

    /// The channel's name.
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// It has heard the channel by another way than a daemon: joining leaves a gap.
    pub fn heard_elsewhere(&mut self) {
        self.joined = true;
        self.gap = true;
    }

    /// Moves on to what is next in the stream.
    ///
    /// # Errors
    ///
    /// [`Ended`]: the connection must be closed, and [`Core::disconnected`] called.
    #[inline]
    pub fn hear(&mut self) -> Result<Heard, Ended> {
        if let Some(run) = &mut self.run {
            if self.used {
                run.skip_front();
            }
            if run.messages() > 0 {
                self.used = true;
                return Ok(Heard::Frame);
            }
            self.run = None;
        }
        self.hear_next_item()
    }

    fn hear_next_item(&mut self) -> Result<Heard, Ended> {
        if self.gap && self.is_ready() {
            self.gap = false;
            return Ok(Heard::Lagged(None));
        }
        if !self.is_ready() {
            return Ok(Heard::Nothing);
        }
        match self.session.next()? {
            None => Ok(Heard::Nothing),
            Some(Item::Run(run)) if run.channel() == self.id => {
                self.run = Some(run);
                self.used = true;
                Ok(Heard::Frame)
            }
            Some(Item::Control(Control::Lagged(lagged))) if lagged.channel == self.id.0 => {
                Ok(Heard::Lagged(Some(lagged.count)))
            }
            Some(item) => Err(out_of_place(&item)),
        }
    }

    /// The frame that [`hear`](Self::hear) has found, until it is called again.
    #[inline]
    pub fn frame(&self) -> Option<Frame<'_>> {
        self.run.as_ref().and_then(Run::front)
    }

    /// The payload of that frame as memory of its own: by reference if it is most of what it pins, else copied.
    pub fn payload(&self) -> Option<Bytes> {
        let run = self.run.as_ref()?;
        Some(super::own_payload(run, run.front()?.payload))
    }
}

impl Core for ListenerCore {
    fn connected(&mut self) {
        self.session.connected(0);
    }

    fn disconnected(&mut self) {
        self.session.disconnected();
        self.gap = self.joined;
    }

    fn outgoing(&self) -> &[u8] {
        self.session.outgoing()
    }

    fn sent(&mut self, bytes: usize) {
        self.session.sent(bytes);
    }

    fn target(&mut self) -> Limit<&mut BytesMut> {
        self.session.target()
    }

    fn received(&mut self) -> Result<(), Ended> {
        while !self.is_ready() {
            match (self.session.phase, self.session.next()?) {
                (_, None) => break,
                (Phase::Greeting, Some(Item::Control(Control::Welcome(_)))) => {
                    let channel = self.channel.as_str().to_owned();
                    self.session.say(&Control::Subscribe(Subscribe { channel, overflow: self.overflow }));
                    self.session.phase = Phase::Joining;
                }
                (Phase::Joining, Some(Item::Control(Control::Subscribed(subscribed)))) => {
                    self.id = ChannelId(subscribed.id);
                    self.session.phase = Phase::Ready;
                    self.joined = true;
                }
                (_, Some(item)) => return Err(out_of_place(&item)),
            }
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.session.phase == Phase::Ready
    }
}
