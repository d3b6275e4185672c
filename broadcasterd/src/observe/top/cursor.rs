//! The position in a table: sort order, selected row and visible part. It remembers what is selected and not where, so that the
//! selection survives a new order.

use super::columns::{Column, Table};
use super::rates::Measured;
use std::ops::Range;

/// The position in one table.
#[derive(Debug)]
pub(crate) struct Cursor {
    sort: Column,
    reversed: bool,
    /// The selected row, if any.
    selected: Option<Identity>,
    /// The current or last index of the selected row.
    index: usize,
    first: usize,
    height: usize,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { sort: Column::Slow, reversed: false, selected: None, index: 0, first: 0, height: 1 }
    }
}

/// Identifies a row across samples.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Identity {
    Channel(String),
    Peer(u64),
}

impl Identity {
    fn of(table: Table, shown: &Measured, row: usize) -> Self {
        match table {
            Table::Channels => Self::Channel(shown.channels[row].stats.name.clone()),
            Table::Peers => Self::Peer(shown.peers[row].serial),
        }
    }

    fn is(&self, table: Table, shown: &Measured, row: usize) -> bool {
        match self {
            Self::Channel(name) => table == Table::Channels && shown.channels[row].stats.name == *name,
            Self::Peer(serial) => table == Table::Peers && shown.peers[row].serial == *serial,
        }
    }
}

impl Cursor {
    /// The sort column, and whether the order is reversed.
    pub(crate) fn sort(&self) -> (Column, bool) {
        (self.sort, self.reversed)
    }

    /// Sorts by the next column, in its default direction.
    pub(crate) fn sort_by_next(&mut self, table: Table) {
        let columns = table.columns();
        let next = columns.iter().position(|&column| column == self.sort).map_or(0, |at| at + 1);
        (self.sort, self.reversed) = (columns[next % columns.len()], false);
    }

    /// Reverses the order.
    pub(crate) fn reverse(&mut self) {
        self.reversed ^= true;
    }

    /// The index of the selected row.
    pub(crate) fn selected(&self) -> Option<usize> {
        self.selected.as_ref().map(|_| self.index)
    }

    /// Rows per page.
    pub(crate) fn page(&self) -> usize {
        self.height.max(1)
    }

    /// The index `rows` further down or up. The first single step only selects the current row.
    pub(crate) fn stepped(&self, rows: usize, down: bool) -> usize {
        match self.selected {
            None if rows == 1 => self.index,
            _ if down => self.index.saturating_add(rows),
            _ => self.index.saturating_sub(rows),
        }
    }

    /// Selects the row at `index`, or the last one if there are fewer.
    pub(crate) fn select(&mut self, index: usize, table: Table, shown: Option<&Measured>, order: &[usize]) {
        self.index = index.min(order.len().saturating_sub(1));
        self.selected = match (shown, order.get(self.index)) {
            (Some(shown), Some(&row)) => Some(Identity::of(table, shown, row)),
            _ => None,
        };
    }

    /// Updates the selection after a new order. If the selected row is gone, the row in its place is selected.
    pub(crate) fn follow(&mut self, table: Table, shown: &Measured, order: &[usize]) {
        if let Some(selected) = &self.selected {
            let found = order.iter().position(|&row| selected.is(table, shown, row));
            self.select(found.unwrap_or(self.index), table, Some(shown), order);
        }
    }

    /// The part of `len` rows that a table of `height` rows shows, including the selected row.
    pub(crate) fn visible(&mut self, len: usize, height: usize) -> Range<usize> {
        self.height = height;
        let (lowest, highest) = ((self.index + 1).saturating_sub(height), self.index);
        self.first = self.first.clamp(lowest, highest.max(lowest)).min(len.saturating_sub(height));
        self.first..len.min(self.first + height)
    }
}
