//! Requests of a publisher that the daemon answers with a number of listeners or a receipt. It never repeats a request on the same
//! connection, and an answer that is no longer wanted changes nothing.

use super::publisher::{Declined, Place};
use broadcaster_protocol::control::Receipt;

/// One wish for the number of listeners. Several may be unanswered at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// Wishes for the number of listeners of the own channel. The daemon knows one request at a time: for the lowest of the minima.
#[derive(Debug, Default)]
pub(super) struct Counting {
    wishes: Vec<Wish>,
    next: u64,
    /// Number and minimum of the request that the present daemon has not answered.
    asked: Option<(u32, u32)>,
}

#[derive(Debug)]
struct Wish {
    ticket: Ticket,
    minimum: u32,
    answer: Option<Result<u32, Box<Declined>>>,
}

impl Counting {
    pub(super) fn begin(&mut self, minimum: u32) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.wishes.push(Wish { ticket, minimum, answer: None });
        ticket
    }

    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.wishes.retain(|wish| wish.ticket != ticket);
    }

    /// The answer, once.
    pub(super) fn take(&mut self, ticket: Ticket) -> Option<Result<u32, Box<Declined>>> {
        self.wishes.iter_mut().find(|wish| wish.ticket == ticket)?.answer.take()
    }

    /// The minimum to request under this number, if there is a wish that the unanswered request does not cover.
    pub(super) fn ask(&mut self, number: u32) -> Option<u32> {
        let lowest = self.wishes.iter().filter(|wish| wish.answer.is_none()).map(|wish| wish.minimum).min()?;
        if self.asked.is_some_and(|(_, minimum)| minimum <= lowest) {
            return None;
        }
        self.asked = Some((number, lowest));
        Some(lowest)
    }

    /// The request with this number is answered.
    pub(super) fn answered(&mut self, number: u32, listeners: u32) {
        if self.asked.is_some_and(|(asked, _)| asked == number) {
            self.asked = None;
        }
        for wish in &mut self.wishes {
            if wish.answer.is_none() && wish.minimum <= listeners {
                wish.answer = Some(Ok(listeners));
            }
        }
    }

    /// The request with this number is declined.
    pub(super) fn declined(&mut self, number: u32, declined: &Declined) {
        if self.asked.take_if(|(asked, _)| *asked == number).is_some() {
            for wish in self.wishes.iter_mut().filter(|wish| wish.answer.is_none()) {
                wish.answer = Some(Err(declined.clone().into()));
            }
        }
    }

    /// The connection is gone, and the request with it.
    pub(super) fn disconnected(&mut self) {
        self.asked = None;
    }
}

/// What became of a request for a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is still due.
    Due,
    /// The daemon has answered.
    Received(Box<Receipt>),
    /// The daemon does not give any.
    Declined(Box<Declined>),
    /// The connection is gone: no daemon will answer.
    Lost,
}

/// Requests for receipts on the present connection.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    number: u32,
    place: Place,
    answer: Answer,
}

impl Receipts {
    pub(super) fn begin(&mut self, number: u32, place: Place) {
        self.requests.push(Request { number, place, answer: Answer::Due });
    }

    pub(super) fn forget(&mut self, number: u32) {
        self.requests.retain(|request| request.number != number);
    }

    pub(super) fn answer(&mut self, number: u32, answer: Answer) {
        if let Some(request) = self.requests.iter_mut().find(|request| request.number == number) {
            request.answer = answer;
        }
    }

    /// The channel of the request with this number.
    pub(super) fn place(&self, number: u32) -> Option<Place> {
        self.requests.iter().find(|request| request.number == number).map(|request| request.place)
    }

    /// The answer, which is forgotten unless it is still due.
    pub(super) fn take(&mut self, number: u32) -> Answer {
        let Some(at) = self.requests.iter().position(|request| request.number == number) else { return Answer::Lost };
        match self.requests[at].answer {
            Answer::Due => Answer::Due,
            Answer::Received(_) | Answer::Declined(_) | Answer::Lost => self.requests.swap_remove(at).answer,
        }
    }

    /// The connection is gone. What it has answered stays.
    pub(super) fn disconnected(&mut self) {
        self.requests.retain(|request| request.answer != Answer::Due);
    }
}

#[cfg(test)]
mod tests {
    use super::super::publisher::OWN;
    use super::*;

    #[test]
    fn one_request_at_a_time_serves_every_wish() {
        let mut counting = Counting::default();
        assert_eq!(counting.ask(0), None, "there is no wish");
        let three = counting.begin(3);
        assert_eq!((counting.ask(1), counting.ask(2)), (Some(3), None));
        let five = counting.begin(5);
        assert_eq!(counting.ask(3), None, "the lower minimum comes first");
        let now = counting.begin(0);
        assert_eq!(counting.ask(4), Some(0), "it replaces the request for three");
        counting.answered(4, 2);
        assert_eq!((counting.take(now), counting.take(three), counting.take(five)), (Some(Ok(2)), None, None));
        counting.forget(now);
        assert_eq!(counting.ask(5), Some(3), "again");
        counting.answered(1, 4); // it was under way when it was replaced, and is as good
        assert_eq!((counting.take(three), counting.take(five)), (Some(Ok(4)), None));
        assert_eq!(counting.ask(6), None, "the request for three is still unanswered");
        counting.forget(three);
        counting.answered(5, 4);
        assert_eq!(counting.ask(7), Some(5));
        counting.disconnected();
        assert_eq!(counting.ask(8), Some(5), "the next daemon is asked as well");
        counting.forget(five);
        counting.answered(8, 9);
        assert_eq!(counting.ask(9), None);
    }

    fn received(number: u32) -> Answer {
        let (next_sequence, listeners, took, lagging) = (1, 0, 0, 0);
        let (worst, extensions) = (Vec::new(), Vec::new());
        Answer::Received(Box::new(Receipt { number, next_sequence, listeners, took, lagging, worst, extensions }))
    }

    #[test]
    fn receipts_are_lost_with_their_connection() {
        let mut receipts = Receipts::default();
        [1, 2, 3].into_iter().for_each(|number| receipts.begin(number, OWN));
        receipts.answer(2, received(2));
        receipts.forget(3);
        receipts.answer(3, received(3));
        assert_eq!(receipts.take(1), Answer::Due);
        receipts.disconnected();
        assert_eq!([1, 2, 3].map(|number| receipts.take(number) == Answer::Lost), [true, false, true]);
        assert!(receipts.requests.is_empty());
    }
}
