//! The memory that messages in transit hold. The count never changes except through a [`Charge`].

use std::cell::Cell;
use std::rc::Rc;

/// The number of bytes held. A clone refers to the same count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Rc<Cell<usize>>);

impl Ledger {
    /// Adds `bytes` for as long as the charge lives.
    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        let mut charge = Charge { ledger: self.clone(), bytes: 0 };
        charge.set(bytes);
        charge
    }

    /// Bytes held by all charges.
    pub(crate) fn held(&self) -> usize {
        self.0.get()
    }
}

/// A number of bytes on a [`Ledger`]. Dropping the charge releases them, so that no path can forget to.
#[derive(Debug)]
pub(crate) struct Charge {
    ledger: Ledger,
    bytes: usize,
}

impl Charge {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Replaces the number of bytes.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.ledger.0.set(self.ledger.0.get() - self.bytes + bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::Ledger;

    #[test]
    fn ledger_is_the_sum_of_living_charges() {
        let ledger = Ledger::default();
        let mut first = ledger.charge(10);
        let second = ledger.clone().charge(5);
        assert_eq!((ledger.held(), first.bytes(), second.bytes()), (15, 10, 5));
        first.set(3);
        assert_eq!(ledger.held(), 8);
        drop(second);
        assert_eq!(ledger.held(), 3);
        drop(first);
        assert_eq!(ledger.held(), 0);
    }
}
