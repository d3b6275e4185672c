//! What all parts of the screen share: styles and layout.

use crate::observe::format::fit;
use crate::observe::top::rates::PeerRow;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::Widget;

/// Marks slow rows, also without colours.
pub(super) const SLOW_MARK: &str = "!";

/// The style of the screen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Theme {
    /// Without colours, weight and marks carry the same information.
    pub(crate) colours: bool,
}

impl Theme {
    pub(super) fn colour(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    pub(super) fn slow(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(super) fn good(self) -> Style {
        self.colour(Color::Green)
    }

    pub(super) fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
}

/// Takes rows from the top or the bottom of `rest`.
pub(super) fn rows_of(rest: &mut Rect, height: u16, top: bool) -> Rect {
    let height = height.min(rest.height);
    let y = if top { rest.y } else { rest.bottom() - height };
    let taken = Rect { y, height, ..*rest };
    rest.height -= height;
    rest.y += if top { height } else { 0 };
    taken
}

pub(super) fn put(buffer: &mut Buffer, area: Rect, line: Line<'_>) {
    line.render(area, buffer);
}

/// The name of a process in at most `width` columns.
pub(super) fn process(row: &PeerRow, width: usize) -> String {
    let name = row.stats.process.as_deref().map(str::trim).filter(|name| !name.is_empty());
    name.map_or_else(|| "-".into(), |name| fit(name, width))
}
