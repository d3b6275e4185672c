//! `broadcasterd top`: a live view of the bus. Nothing here starts or changes a daemon.

mod app;
mod columns;
mod cursor;
mod pace;
mod rates;
mod sampler;
#[cfg(test)]
mod samples;
mod terminal;
mod view;

pub(crate) use app::Choice;
pub(crate) use columns::Table;
pub(crate) use pace::{INTERVALS, interval_limits};
pub(crate) use sampler::{Missing, Sampler, live, replay};
pub(crate) use terminal::watch;
pub(crate) use view::SMALLEST;

use app::App;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use std::time::Instant;
use view::{PlainText, Theme};

/// One screen of `width` and `height` as plain text, from two samples one interval apart.
pub(crate) fn once(choice: &Choice, mut sampler: Sampler, width: u16, height: u16) -> Result<String, Missing> {
    let began = Instant::now();
    let mut app = App::showing(choice);
    let first = sampler()?;
    app.sampled(began.elapsed(), Ok(first));
    std::thread::sleep(choice.interval);
    let second = sampler()?;
    app.sampled(began.elapsed(), Ok(second));
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    view::draw(&mut app, Theme { colours: false }, area, &mut buffer);
    Ok(PlainText(&buffer).to_string())
}
