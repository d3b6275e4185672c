//! The dull model: a list of what was accepted, and a finger in it for each listener. It shares no code with the broker.

use std::collections::BTreeMap;

/// Who sent a frame, and as which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The sender, as its frames say.
    pub sender: u64,
    /// The sender's running number.
    pub sequence: u64,
}

/// All that one channel of one daemon has accepted, in order.
#[derive(Debug, Default)]
pub struct Channel {
    accepted: Vec<Mark>,
    places: BTreeMap<Mark, usize>,
}

impl Channel {
    /// The daemon has taken a frame from a sender.
    ///
    /// # Errors
    ///
    /// If the same frame was taken before.
    pub fn accept(&mut self, mark: Mark) -> Result<(), String> {
        match self.places.insert(mark, self.accepted.len()) {
            Some(place) => Err(format!("{mark:?} was accepted twice, first at place {place}")),
            None => {
                self.accepted.push(mark);
                Ok(())
            }
        }
    }

    /// How many frames were accepted.
    pub fn len(&self) -> usize {
        self.accepted.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.accepted.is_empty()
    }
}

/// What one listener has heard of one daemon's channel since it joined there.
#[derive(Debug)]
pub struct Ear {
    /// The place in the list that it must hear, or be told of, next.
    next: usize,
    told: u64,
    received: u64,
    lost: u64,
}

impl Ear {
    /// A listener that joins now.
    pub fn join(channel: &Channel) -> Self {
        Self { next: channel.len(), told: 0, received: 0, lost: 0 }
    }

    /// It was told that it missed `count` frames at this place.
    pub fn lagged(&mut self, count: u64) {
        self.told += count;
        self.lost += count;
    }

    /// It got a frame.
    ///
    /// # Errors
    ///
    /// If the frame is out of order, twice, from before it joined, or the hole before it is not what it was told.
    pub fn received(&mut self, channel: &Channel, mark: Mark) -> Result<(), String> {
        let Some(&place) = channel.places.get(&mark) else { return Err(format!("{mark:?} was never accepted")) };
        let due = self.next + usize::try_from(self.told).map_err(|error| error.to_string())?;
        if place != due {
            return Err(format!(
                "{mark:?} is at place {place}; after {} and a told loss of {}, {due} was due",
                self.next, self.told
            ));
        }
        self.next = place + 1;
        self.told = 0;
        self.received += 1;
        Ok(())
    }

    /// Everything has come to rest: received and told lost must be all that was accepted since it joined.
    ///
    /// # Errors
    ///
    /// If something is missing untold, or told without being missing.
    pub fn rest(&self, channel: &Channel) -> Result<(), String> {
        let told = usize::try_from(self.told).map_err(|error| error.to_string())?;
        if self.next + told == channel.len() {
            return Ok(());
        }
        Err(format!("{} frames were accepted; heard up to {}, told lost {told} more", channel.len(), self.next))
    }

    /// How many frames it got.
    pub fn received_count(&self) -> u64 {
        self.received
    }

    /// How many frames it was told that it lost.
    pub fn lost_count(&self) -> u64 {
        self.lost
    }
}
