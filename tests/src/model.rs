//! The plain model: a list of what was accepted, and a position in it for each listener. It shares no code with the broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

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
    /// The places of each sender's messages.
    senders: BTreeMap<u64, Vec<usize>>,
    /// Messages that were published in rings of which the daemon had accepted everything before.
    stray: BTreeSet<Mark>,
    /// What is retained of it, oldest first.
    history: Vec<Mark>,
    /// Something has been retained of it, or was to be.
    has_had_history: bool,
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
                self.senders.entry(mark.sender).or_default().push(self.accepted.len());
                self.accepted.push(mark);
                Ok(())
            }
        }
    }

    /// A sender that has lost its connection without knowing it has published a message behind the end of its ring. Listeners that do not know
    /// of the end yet may receive it.
    pub fn publish_stray(&mut self, mark: Mark) {
        self.stray.insert(mark);
    }

    /// Whether the message was published behind the end of a ring.
    pub fn is_stray(&self, mark: Mark) -> bool {
        self.stray.contains(&mark)
    }

    /// How many messages were published behind the end of a ring.
    pub fn strays(&self) -> usize {
        self.stray.len()
    }

    /// The daemon is to retain a message that it has accepted, and to keep so many with it.
    pub fn retain(&mut self, mark: Mark, keep: usize) {
        self.has_had_history = true;
        self.history.push(mark);
        let older = self.history.len().saturating_sub(keep.max(1));
        self.history.drain(..older);
    }

    /// A client has declared again what an earlier daemon retained; returns whether this one retains it.
    pub fn declare(&mut self, mark: Mark) -> bool {
        let is_first = !std::mem::replace(&mut self.has_had_history, true);
        self.history.extend(Some(mark).filter(|_| is_first));
        is_first
    }

    /// The newest of the messages that are retained, oldest first.
    pub fn newest(&self, max: usize) -> &[Mark] {
        &self.history[self.history.len().saturating_sub(max)..]
    }

    /// How many messages of the sender are in front of the place.
    fn rank(&self, sender: u64, place: usize) -> usize {
        self.senders.get(&sender).map_or(0, |places| places.partition_point(|&other| other < place))
    }

    /// How many of these messages were accepted at these places.
    fn among(&self, marks: &BTreeSet<Mark>, places: &Range<usize>) -> u64 {
        marks.iter().filter(|mark| self.places.get(mark).is_some_and(|place| places.contains(place))).count() as u64
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

/// What a listener knows of a channel from earlier connections. It leaves that out if it arrives again.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Messages that have arrived.
    pub marks: BTreeSet<Mark>,
    /// How many others were reported as lost when their connection had ended.
    pub lost: u64,
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
    /// What is replayed to it, in order: each message with the place in front of which it comes.
    replays: VecDeque<(usize, Mark)>,
    /// If messages of different senders may arrive in another order than that of the list.
    loose: Option<Loose>,
}

/// Where a listener is that receives the messages of each sender in order, and those of different senders in any.
#[derive(Debug, Default)]
struct Loose {
    /// How many messages were accepted when it joined.
    joined_at: usize,
    /// How many messages of each sender it has received or skipped, with those that were accepted before it joined.
    ranks: BTreeMap<u64, usize>,
    /// Messages that it has skipped, of all senders.
    skipped: u64,
    /// For each sender, the last message that it has received from behind the end of a ring.
    strays: BTreeMap<u64, u64>,
    /// All of these. The sender may send them again, and then they are left out.
    early: BTreeSet<Mark>,
}

impl Cursor {
    /// A listener that joins when the channel has accepted so many messages.
    pub fn joined_at(len: usize) -> Self {
        Self { next: len, reported: 0, received: 0, lost: 0, left_at: None, replays: VecDeque::new(), loose: None }
    }

    /// Messages of different senders may arrive in another order than that in which they were accepted, as through rings. Nothing is replayed to it.
    #[must_use]
    pub fn loosely(mut self) -> Self {
        self.loose = Some(Loose { joined_at: self.next, ..Loose::default() });
        self
    }

    /// These messages are replayed to it when the channel has accepted so many.
    pub fn replay(&mut self, len: usize, marks: &[Mark]) {
        self.replays.extend(marks.iter().map(|&mark| (len, mark)));
    }

    /// It leaves when the channel has accepted so many messages.
    pub fn leave_at(&mut self, len: usize) {
        self.left_at.get_or_insert(len);
    }

    /// Whether it has not left.
    pub fn is_joined(&self) -> bool {
        self.left_at.is_none()
    }

    /// Whether it has left, and everything up to there has arrived or was reported. What it has `seen` before is left out if it is replayed, and
    /// what it has `heard` over another connection is left out.
    pub fn is_over(&self, channel: &Channel, seen: impl Fn(&Mark) -> bool, heard: &Heard) -> bool {
        self.left_at.is_some_and(|len| self.reaches(channel, len, self.replays.len(), seen, heard))
    }

    /// Whether everything in front of this place, with the first `replays` of those that are replayed, was reported as lost, or left out.
    fn reaches(
        &self,
        channel: &Channel,
        place: usize,
        replays: usize,
        seen: impl Fn(&Mark) -> bool,
        heard: &Heard,
    ) -> bool {
        if let Some(loose) = &self.loose {
            // The losses that a daemon reports may include what it need not have delivered.
            let all = (place - loose.joined_at) as u64;
            let places = loose.joined_at..place;
            let left_out = channel.among(&heard.marks, &places) + channel.among(&loose.early, &places) + heard.lost;
            let least = all.saturating_sub(left_out);
            return (least..=all).contains(&(self.received + self.lost));
        }
        let missing = place.checked_sub(self.next).map(|missing| (missing + replays) as u64);
        let left_out = self.replays.iter().take(replays).filter(|(_, mark)| seen(mark)).count() as u64;
        missing.is_some_and(|missing| (missing - left_out..=missing).contains(&self.reported))
    }

    /// A loss of `count` messages was reported at this place.
    pub fn lagged(&mut self, count: u64) {
        self.reported += count;
        self.lost += count;
    }

    /// A message has arrived. What the listener has `seen` before is left out if it is replayed.
    ///
    /// # Errors
    ///
    /// If the message is out of order, a duplicate, from before the listener joined, or the gap before it is not what was
    /// reported.
    pub fn received(
        &mut self,
        channel: &Channel,
        mark: Mark,
        seen: impl Fn(&Mark) -> bool,
        heard: &Heard,
    ) -> Result<(), String> {
        if heard.marks.contains(&mark) {
            return Err(format!("{mark:?} has arrived over an earlier connection"));
        }
        let is_stray = channel.stray.contains(&mark) && !channel.places.contains_key(&mark);
        if let Some(loose) = self.loose.as_mut().filter(|_| is_stray) {
            loose.early.insert(mark);
            let last = loose.strays.insert(mark.sender, mark.sequence);
            let is_next = last.is_none_or(|last| last < mark.sequence);
            return if is_next { Ok(()) } else { Err(format!("{mark:?} has arrived behind {last:?}")) };
        }
        let Some(&place) = channel.places.get(&mark) else { return Err(format!("{mark:?} was never accepted")) };
        if let Some(loose) = &mut self.loose {
            let in_time = loose.joined_at..self.left_at.unwrap_or(usize::MAX);
            if !in_time.contains(&place) {
                return Err(format!("{mark:?} is at place {place}, and the listener had joined for {in_time:?}"));
            }
            let rank = channel.rank(mark.sender, place);
            let next = loose.ranks.entry(mark.sender).or_insert_with(|| channel.rank(mark.sender, in_time.start));
            let Some(skipped) = rank.checked_sub(*next) else {
                return Err(format!("{mark:?} has number {rank} of its sender, and number {next} is due"));
            };
            let skipped_places = channel.senders[&mark.sender][*next..rank].iter();
            let is_left_out = |mark: &Mark| heard.marks.contains(mark) || loose.early.contains(mark);
            let left_out = skipped_places.filter(|&&place| is_left_out(&channel.accepted[place])).count();
            let skipped = skipped - left_out;
            (*next, loose.skipped) = (rank + 1, loose.skipped + skipped as u64);
            if loose.skipped > self.lost + heard.lost {
                return Err(format!(
                    "{skipped} messages are missing before {mark:?}, {} in all, and a loss of {} was reported",
                    loose.skipped, self.lost
                ));
            }
            self.received += 1;
            return Ok(());
        }
        let replays = self.replays.iter().take_while(|&&(before, _)| before <= place).count();
        if !self.reaches(channel, place, replays, seen, heard) {
            return Err(format!(
                "{mark:?} is at place {place}, with {replays} replayed before it; the last was {}, and a loss of {} was reported",
                self.next, self.reported
            ));
        }
        self.replays.drain(..replays);
        if self.left_at.is_some_and(|len| place >= len) {
            return Err(format!("{mark:?} is at place {place}, and the listener has left before"));
        }
        self.next = place + 1;
        self.reported = 0;
        self.received += 1;
        Ok(())
    }

    /// A replayed message has arrived.
    ///
    /// # Errors
    ///
    /// If it is not replayed, out of order, the listener has `seen` it before, or the gap before it is not what was reported.
    pub fn received_again(&mut self, mark: Mark, seen: impl Fn(&Mark) -> bool) -> Result<(), String> {
        if seen(&mark) {
            return Err(format!("{mark:?} is replayed and has arrived before"));
        }
        let at = self.replays.iter().position(|&(_, replayed)| replayed == mark);
        let Some((at, &(place, _))) = at.and_then(|at| Some((at, self.replays.get(at)?))) else {
            return Err(format!("{mark:?} is not among those that are replayed: {:?}", self.replays));
        };
        if !self.reaches(&Channel::default(), place, at, seen, &Heard::default()) {
            return Err(format!(
                "{mark:?} is replayed at place {place}, after {at} others; the last was {}, and a loss of {} was reported",
                self.next, self.reported
            ));
        }
        self.replays.drain(..=at);
        (self.next, self.reported) = (place, 0);
        self.received += 1;
        Ok(())
    }

    /// Everything has come to rest: received and reported lost must be all that was accepted since it joined, until it left.
    ///
    /// # Errors
    ///
    /// If something is missing without a report, or reported without being missing.
    pub fn rest(&self, channel: &Channel, seen: impl Fn(&Mark) -> bool, heard: &Heard) -> Result<(), String> {
        let due = self.left_at.unwrap_or(channel.len());
        if self.reaches(channel, due, self.replays.len(), seen, heard) {
            return Ok(());
        }
        if let Some(loose) = &self.loose {
            // Its losses may include messages behind the end of a ring, like those that it receives.
            let excess = (self.received + self.lost).checked_sub((due - loose.joined_at) as u64);
            if excess.is_some_and(|excess| excess <= channel.strays() as u64) {
                return Ok(());
            }
            return Err(format!(
                "{} messages were accepted from {} on; {} received and {} lost, {} skipped",
                due - loose.joined_at,
                loose.joined_at,
                self.received,
                self.lost,
                loose.skipped
            ));
        }
        Err(format!(
            "{due} messages were accepted; received up to {}, and a loss of {} was reported; {} are replayed",
            self.next,
            self.reported,
            self.replays.len()
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
