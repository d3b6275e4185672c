//! The plain model: a list of what was accepted, and a position in it for each listener. It shares no code with the broker.

use std::collections::BTreeMap;

/// The sender of a message, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The sender id in the frame.
    pub sender: u64,
    /// The sequence number.
    pub sequence: u64,
}

/// Everything that one channel of one daemon has accepted, in order.
#[derive(Debug, Default)]
pub struct Channel {
    accepted: Vec<Mark>,
    places: BTreeMap<Mark, usize>,
}

impl Channel {
    /// The daemon has accepted a message.
    ///
    /// # Errors
    ///
    /// If the same message was accepted before.
    pub fn accept(&mut self, mark: Mark) -> Result<(), String> {
        match self.places.insert(mark, self.accepted.len()) {
            Some(place) => Err(format!("{mark:?} was accepted twice, first at place {place}")),
            None => {
                self.accepted.push(mark);
                Ok(())
            }
        }
    }

    /// How many messages were accepted.
    pub fn len(&self) -> usize {
        self.accepted.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.accepted.is_empty()
    }
}

/// What one listener has received of one daemon's channel since it joined there.
#[derive(Debug)]
pub struct Cursor {
    /// The place in the list that it must receive next, or receive a report of.
    next: usize,
    /// Messages reported as lost at this place.
    reported: u64,
    received: u64,
    lost: u64,
}

impl Cursor {
    /// A listener that joins when the channel has accepted so many messages.
    pub fn joined_at(len: usize) -> Self {
        Self { next: len, reported: 0, received: 0, lost: 0 }
    }

    /// A loss of `count` messages was reported at this place.
    pub fn lagged(&mut self, count: u64) {
        self.reported += count;
        self.lost += count;
    }

    /// A message has arrived.
    ///
    /// # Errors
    ///
    /// If the message is out of order, a duplicate, from before the listener joined, or the gap before it is not what was
    /// reported.
    pub fn received(&mut self, channel: &Channel, mark: Mark) -> Result<(), String> {
        let Some(&place) = channel.places.get(&mark) else { return Err(format!("{mark:?} was never accepted")) };
        let due = self.next + usize::try_from(self.reported).map_err(|error| error.to_string())?;
        if place != due {
            return Err(format!(
                "{mark:?} is at place {place}; after {} and a reported loss of {}, {due} was due",
                self.next, self.reported
            ));
        }
        self.next = place + 1;
        self.reported = 0;
        self.received += 1;
        Ok(())
    }

    /// Everything has come to rest: received and reported lost must be all that was accepted since it joined.
    ///
    /// # Errors
    ///
    /// If something is missing without a report, or reported without being missing.
    pub fn rest(&self, channel: &Channel) -> Result<(), String> {
        let reported = usize::try_from(self.reported).map_err(|error| error.to_string())?;
        if self.next + reported == channel.len() {
            return Ok(());
        }
        Err(format!(
            "{} messages were accepted; received up to {}, and a loss of {reported} was reported",
            channel.len(),
            self.next
        ))
    }

    /// How many messages have arrived.
    pub fn received_count(&self) -> u64 {
        self.received
    }

    /// How many messages were reported as lost.
    pub fn lost_count(&self) -> u64 {
        self.lost
    }
}
