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
    /// It has left when the channel had accepted so many messages.
    left_at: Option<usize>,
}

impl Cursor {
    /// A listener that joins when the channel has accepted so many messages.
    pub fn joined_at(len: usize) -> Self {
        Self { next: len, reported: 0, received: 0, lost: 0, left_at: None }
    }

    /// It leaves when the channel has accepted so many messages.
    pub fn leave_at(&mut self, len: usize) {
        self.left_at.get_or_insert(len);
    }

    /// Whether it has not left.
    pub fn is_joined(&self) -> bool {
        self.left_at.is_none()
    }

    /// Whether it has left, and everything up to there has arrived or was reported.
    pub fn is_over(&self) -> bool {
        self.left_at.is_some_and(|len| self.reaches(len))
    }

    fn reaches(&self, len: usize) -> bool {
        usize::try_from(self.reported).is_ok_and(|reported| self.next + reported == len)
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
        if self.left_at.is_some_and(|len| place >= len) {
            return Err(format!("{mark:?} is at place {place}, and the listener has left before"));
        }
        self.next = place + 1;
        self.reported = 0;
        self.received += 1;
        Ok(())
    }

    /// Everything has come to rest: received and reported lost must be all that was accepted since it joined, until it left.
    ///
    /// # Errors
    ///
    /// If something is missing without a report, or reported without being missing.
    pub fn rest(&self, channel: &Channel) -> Result<(), String> {
        let due = self.left_at.unwrap_or(channel.len());
        if self.reaches(due) {
            return Ok(());
        }
        Err(format!(
            "{due} messages were accepted; received up to {}, and a loss of {} was reported",
            self.next, self.reported
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
