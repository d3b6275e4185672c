//! A live view of the bus. Where samples come from is the caller's matter; nothing here starts or changes a daemon.

mod app;
mod rates;
#[cfg(test)]
mod samples;
mod terminal;
mod view;

pub(crate) use app::{INTERVALS, Missing, Table};
pub(crate) use terminal::watch;
pub(crate) use view::{SMALLEST, interval_limits};

use crate::stats::model::Stats;
use app::App;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use std::time::{Duration, Instant};
use view::{PlainText, Theme};

/// Takes a sample of a running daemon's numbers. It may block for as long as it needs; it runs on a thread of its own.
pub(crate) type Sampler = Box<dyn FnMut() -> Result<Stats, Missing> + Send>;

/// What to show first.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) interval: Duration,
    pub(crate) table: Table,
    pub(crate) filter: String,
}

impl Choice {
    fn app(&self) -> App {
        let mut app = App::new(self.interval, self.table);
        app.refilter(|filter| filter.clone_from(&self.filter));
        app
    }
}

/// One screen of `width` and `height` as plain text, from two samples an interval apart.
pub(crate) fn once(choice: &Choice, mut sampler: Sampler, width: u16, height: u16) -> Result<String, Missing> {
    let began = Instant::now();
    let mut app = choice.app();
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
