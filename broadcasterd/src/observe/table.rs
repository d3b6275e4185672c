//! Text tables. It never queries the terminal and never writes.

use crate::observe::format::{columns, fit};

/// Minimum width of a column that may be cut.
const FLEXIBLE_WIDTH_MIN: usize = 4;

/// A column of a [`Table`] with its title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// Names: left-aligned, and cut if the terminal is too narrow.
    Name(&'static str),
    /// Numbers: right-aligned.
    Number(&'static str),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Name(title) | Self::Number(title) => title,
        }
    }
}

/// Rows with aligned columns below a row of titles.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: &[Column]) -> Self {
        let titles = columns.iter().map(|column| column.title().to_owned()).collect();
        Self { columns: columns.to_owned(), rows: vec![titles] }
    }

    /// Adds a row with one cell per column.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.into());
    }

    /// The table as text. If it exceeds `width`, gaps shrink and names are cut.
    pub(crate) fn render(&self, width: Option<usize>) -> String {
        let mut widths: Vec<usize> = (0..self.columns.len())
            .map(|column| self.rows.iter().map(|row| columns(&row[column])).max().unwrap_or(0))
            .collect();
        let gaps = widths.len().saturating_sub(1);
        let fits = |widths: &[usize], gap: usize| width.is_none_or(|w| widths.iter().sum::<usize>() + gap * gaps <= w);
        let gap = if fits(&widths, 2) { 2 } else { 1 };
        while !fits(&widths, gap) {
            let names = (0..widths.len()).filter(|&column| matches!(self.columns[column], Column::Name(_)));
            let Some(widest) = names.max_by_key(|&column| widths[column]) else { break };
            if widths[widest] <= FLEXIBLE_WIDTH_MIN {
                break;
            }
            widths[widest] -= 1;
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, &width), column) in row.iter().zip(&widths).zip(&self.columns) {
                let cell = fit(cell, width);
                let pad = " ".repeat(width - columns(&cell));
                match column {
                    Column::Number(_) => line.extend([pad, cell]),
                    Column::Name(_) => line.extend([cell, pad]),
                }
                line.push_str(&" ".repeat(gap));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&[Column::Name("CHANNEL"), Column::Name("KIND"), Column::Number("MSGS")]);
        table.row(["com.example.a-rather-long-name".to_owned(), "sender".to_owned(), "12.3k".to_owned()]);
        table.row(["新聞".to_owned(), "listener".to_owned(), "7".to_owned()]);
        table
    }

    #[test]
    fn table_is_aligned() {
        let wanted = "\
CHANNEL                         KIND       MSGS
com.example.a-rather-long-name  sender    12.3k
新聞                            listener      7
";
        assert_eq!(sample().render(None), wanted);
        assert_eq!(sample().render(Some(47)), wanted);
    }

    #[test]
    fn narrow_table_cuts_only_names() {
        for width in (24..47).rev() {
            let text = sample().render(Some(width));
            assert!(text.lines().all(|line| columns(line) <= width), "{width}:\n{text}");
            assert!(text.contains("12.3k") && text.contains("listener"), "{text}");
        }
        let least = sample().render(Some(5));
        assert!(least.contains("c…me ") && least.contains("12.3k"), "numbers are never cut:\n{least}");
    }
}
