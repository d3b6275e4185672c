//! The side of somebody who watches messages as they pass on many channels. It is no listener: it is not counted as one, and
//! finds no next daemon by itself.

use super::session::{Core, Ended, Heard, Phase, Session, out_of_place};
use broadcaster_protocol::control::{Control, Monitor, Role, capability};
use broadcaster_protocol::{ChannelId, ChannelName, Frame, Item, Run};
use bytes::buf::Limit;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// Names that are remembered at most. The daemon has no more channels; one that tells of more is not ours.
const NAMES_MAX: usize = 1 << 20;

/// A watcher of some channels, or of all.
#[derive(Debug)]
pub struct MonitorCore {
    session: Session,
    channels: Vec<ChannelName>,
    names: BTreeMap<ChannelId, ChannelName>,
    run: Option<Run>,
    /// The first frame of `run` was handed out.
    used: bool,
    /// The channel of what [`hear`](Self::hear) has found.
    current: Option<ChannelName>,
}

impl MonitorCore {
    /// A watcher of these channels in the process `pid`; of all if there are none.
    pub fn new(channels: Vec<ChannelName>, pid: u32) -> Self {
        Self {
            session: Session::new(Role::Inspector, pid),
            channels,
            names: BTreeMap::new(),
            run: None,
            used: false,
            current: None,
        }
    }

    /// Moves on to what is next in the stream.
    ///
    /// # Errors
    ///
    /// [`Ended`]: the connection must be closed, and [`Core::disconnected`] called.
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
        while self.is_ready() {
            match self.session.next()? {
                None => break,
                Some(Item::Control(Control::Named(named))) => {
                    let id = ChannelId(named.channel);
                    match ChannelName::new(&named.name) {
                        Ok(name) if self.names.len() < NAMES_MAX => self.names.insert(id, name),
                        Ok(_) => return Err(out_of_place(&Item::Control(Control::Named(named)))),
                        Err(_) => self.names.remove(&id),
                    };
                }
                Some(Item::Run(run)) if self.names.contains_key(&run.channel()) => {
                    self.current = self.names.get(&run.channel()).cloned();
                    self.run = Some(run);
                    self.used = true;
                    return Ok(Heard::Frame);
                }
                Some(Item::Control(Control::Lagged(lagged))) if self.names.contains_key(&ChannelId(lagged.channel)) => {
                    self.current = self.names.get(&ChannelId(lagged.channel)).cloned();
                    return Ok(Heard::Lagged(Some(lagged.count)));
                }
                Some(item) => return Err(out_of_place(&item)),
            }
        }
        Ok(Heard::Nothing)
    }

    /// The channel of what [`hear`](Self::hear) has found.
    pub fn channel(&self) -> Option<&ChannelName> {
        self.current.as_ref()
    }

    /// The frame that [`hear`](Self::hear) has found, and its payload as memory of its own.
    pub fn frame(&self) -> Option<(Frame<'_>, Bytes)> {
        let run = self.run.as_ref()?;
        let frame = run.front()?;
        Some((frame, super::own_payload(run, frame.payload)))
    }
}

impl Core for MonitorCore {
    fn connected(&mut self) {
        self.session.connected(0);
        self.names.clear();
    }

    fn disconnected(&mut self) {
        self.session.disconnected();
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
                (Phase::Greeting, Some(Item::Control(Control::Welcome(welcome)))) => {
                    if welcome.capabilities & capability::MONITOR == 0 {
                        return Err(Ended::Lacks { what: "monitor", version: welcome.version });
                    }
                    let channels = self.channels.iter().map(|name| name.as_str().to_owned()).collect();
                    self.session.say(&Control::Monitor(Monitor { channels }));
                    self.session.phase = Phase::Joining;
                }
                (Phase::Joining, Some(Item::Control(Control::Monitoring))) => self.session.phase = Phase::Ready,
                (_, Some(item)) => return Err(out_of_place(&item)),
            }
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.session.phase == Phase::Ready
    }
}
