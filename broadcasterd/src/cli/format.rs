//! Numbers, times and tables as people read them. Pure: it never looks at the terminal and never writes.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Stands for what was cut off.
const CUT: &str = "…";

/// A column that may be cut keeps this much, title and all.
const FLEXIBLE_WIDTH_MIN: usize = 5;

/// A count in at most five characters up to a thousand million million: `999`, `12.3k`, `123k`, `4.0M`.
pub(crate) fn count(value: u64) -> String {
    match scaled(value, 1000, &["k", "M", "G", "T", "P", "E"]) {
        Some((number, unit)) => format!("{number}{unit}"),
        None => value.to_string(),
    }
}

/// An amount of memory in at most eight characters: `999 B`, `1.5 KiB`, `4.0 MiB`, `123 GiB`.
pub(crate) fn bytes(value: u64) -> String {
    match scaled(value, 1024, &["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]) {
        Some((number, unit)) => format!("{number} {unit}"),
        None => format!("{value} B"),
    }
}

/// `value` in the smallest of the units, each `step` times the one before, that keeps it below 1000; `None` if that needs no
/// unit. One decimal below 100.
fn scaled(value: u64, step: u64, units: &[&'static str]) -> Option<(String, &'static str)> {
    if value < 1000 {
        return None;
    }
    let (value, mut size) = (u128::from(value), 1);
    for unit in units {
        size *= u128::from(step);
        let tenths = (value * 10 + size / 2) / size;
        if tenths < 1000 {
            return Some((format!("{}.{}", tenths / 10, tenths % 10), unit));
        }
        let whole = (value + size / 2) / size;
        if whole < 1000 {
            return Some((whole.to_string(), unit));
        }
    }
    None
}

/// A length of time in at most six characters up to a hundred days: `350ms`, `12.3s`, `5m12s`, `5h12m`, `5d03h`.
pub(crate) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match ms {
        0..1000 => format!("{ms}ms"),
        1000..60_000 => format!("{}.{}s", seconds, ms % 1000 / 100),
        _ if hours == 0 => format!("{minutes}m{:02}s", seconds % 60),
        _ if days == 0 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// `text`, cut to what `width` columns of a terminal show, with an ellipsis where something was cut off.
pub(crate) fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let Some(room) = width.checked_sub(CUT.width()) else { return String::new() };
    let mut used = 0;
    let mut kept: String = text
        .chars()
        .take_while(|char| {
            used += char.width().unwrap_or(0);
            used <= room
        })
        .collect();
    kept.push_str(CUT);
    kept
}

/// How a column of a [`Table`] looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// Names: to the left, and cut where the terminal is too narrow.
    Name(&'static str),
    /// Words from a short list: to the left.
    Word(&'static str),
    /// Numbers: to the right.
    Number(&'static str),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Name(title) | Self::Word(title) | Self::Number(title) => title,
        }
    }
}

/// Lines with aligned columns under a line of titles.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table of titles.
    pub(crate) fn new(columns: &[Column]) -> Self {
        let titles = columns.iter().map(|column| column.title().to_owned()).collect();
        Self { columns: columns.to_owned(), rows: vec![titles] }
    }

    /// Adds a line, which has a cell for each column.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.into());
    }

    /// All lines. Where `width` is given and too little, columns move together and names are cut.
    pub(crate) fn render(&self, width: Option<usize>) -> String {
        let mut widths: Vec<usize> = (0..self.columns.len())
            .map(|column| self.rows.iter().map(|row| row[column].width()).max().unwrap_or(0))
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
                let pad = " ".repeat(width - cell.width());
                match column {
                    Column::Number(_) => line.extend([pad, cell]),
                    Column::Name(_) | Column::Word(_) => line.extend([cell, pad]),
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

    #[test]
    fn counts_are_short() {
        let said = [0, 999, 1000, 1049, 1050, 12_345, 99_949, 99_950, 123_456, 999_499, 999_500, 4_000_000, u64::MAX]
            .map(count);
        let wanted =
            ["0", "999", "1.0k", "1.0k", "1.1k", "12.3k", "99.9k", "100k", "123k", "999k", "1.0M", "4.0M", "18.4E"];
        assert_eq!(said, wanted);
    }

    #[test]
    fn memory_has_binary_units() {
        let said = [0, 999, 1000, 1023, 1024, 1536, 4 << 20, 256 << 20, 1000 << 20, u64::MAX].map(bytes);
        let wanted =
            ["0 B", "999 B", "1.0 KiB", "1.0 KiB", "1.0 KiB", "1.5 KiB", "4.0 MiB", "256 MiB", "1.0 GiB", "16.0 EiB"];
        assert_eq!(said, wanted);
        assert!(said.iter().all(|text| text.len() <= 8));
    }

    #[test]
    fn times_have_two_units() {
        let said = [0, 999, 1000, 12_345, 59_999, 60_000, 3_599_999, 3_600_000, 86_399_999, 86_400_000].map(span);
        assert_eq!(said, ["0ms", "999ms", "1.0s", "12.3s", "59.9s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h"]);
    }

    #[test]
    fn text_is_cut_by_the_columns_that_it_takes() {
        assert_eq!(fit("com.example", 11), "com.example");
        assert_eq!(fit("com.example", 10), "com.examp…");
        assert_eq!(fit("新聞新聞", 8), "新聞新聞");
        assert_eq!(fit("新聞新聞", 7), "新聞新…");
        assert_eq!(fit("新聞新聞", 6), "新聞…");
        assert_eq!((fit("ab", 1), fit("ab", 0)), ("…".to_owned(), String::new()));
    }

    fn sample() -> Table {
        let mut table = Table::new(&[Column::Name("CHANNEL"), Column::Word("ROLE"), Column::Number("MSGS")]);
        table.row(["com.example.a-rather-long-name".to_owned(), "sender".to_owned(), "12.3k".to_owned()]);
        table.row(["新聞".to_owned(), "listener".to_owned(), "7".to_owned()]);
        table
    }

    #[test]
    fn a_table_is_aligned() {
        let wanted = "\
CHANNEL                         ROLE       MSGS
com.example.a-rather-long-name  sender    12.3k
新聞                            listener      7
";
        assert_eq!(sample().render(None), wanted);
        assert_eq!(sample().render(Some(47)), wanted);
    }

    #[test]
    fn a_narrow_table_cuts_names_only() {
        for width in (20..47).rev() {
            let text = sample().render(Some(width));
            assert!(text.lines().all(|line| line.width() <= width), "{width}:\n{text}");
            assert!(text.contains("12.3k") && text.contains("listener"), "{text}");
        }
        let least = sample().render(Some(5));
        assert!(least.contains("com.…") && least.contains("12.3k"), "numbers are never cut:\n{least}");
    }
}
