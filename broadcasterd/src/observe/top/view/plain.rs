//! A drawn screen as plain text, without escape sequences.

use ratatui::buffer::{Buffer, CellWidth};
use std::fmt;

/// A drawn screen as lines of plain text.
pub(crate) struct PlainText<'a>(pub(crate) &'a Buffer);

impl fmt::Display for PlainText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let area = self.0.area;
        for y in area.top()..area.bottom() {
            let mut line = String::new();
            let mut x = area.left();
            while let Some(cell) = self.0.cell((x, y)) {
                line.push_str(cell.symbol());
                x += cell.symbol().cell_width().max(1);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
