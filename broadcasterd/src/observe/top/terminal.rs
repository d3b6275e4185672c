//! Runs `top` on a terminal: keys, signals, the clock and the sampler's thread. However it ends, the terminal is restored. It never
//! draws anything itself.

use super::app::{Action, App, Choice};
use super::sampler::{Missing, Sampler};
use super::view::{Theme, draw};
use crate::daemon::stats::model::Stats;
use crate::os::{self, TerminalSignal, TerminalSignals};
use crate::output::permits_colours;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, KeyEvent, KeyEventKind};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::layout::{Position, Rect};
use std::io::{self, BufWriter, Stdout};
use std::panic;
use std::process;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Large enough for a screen, which is then one write.
const SCREEN_BYTES: usize = 64 * 1024;

/// Time to exit after a signal; after that, the process exits without waiting for a terminal that no longer accepts output.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// What wakes the screen up.
#[derive(Debug)]
enum Event {
    Key(KeyEvent),
    Resized,
    Sampled(Duration, Box<Result<Stats, Missing>>),
    /// This process was stopped, and the shell may have used the terminal.
    Continued,
    /// A signal asked the process to exit.
    Ended,
    /// Keys can no longer be read.
    NoKeys(io::Error),
}

/// Shows the bus until the user quits, a signal arrives or the terminal is closed.
pub(crate) fn watch(choice: &Choice, sampler: Sampler) -> io::Result<()> {
    let began = Instant::now();
    let (events, wakes) = channel();
    let drawing = Arc::new(Mutex::new(()));
    restore_on_panic(Arc::clone(&drawing));
    watch_signals(events.clone())?;
    let samples = start_sampler(began, sampler, events.clone())?;
    let mut screen = Screen::take()?;
    start_reader(events)?;

    let theme = Theme { colours: permits_colours() };
    let mut app = App::showing(choice);
    loop {
        app.tick(began.elapsed());
        if app.wants_sample() && samples.send(()).is_err() {
            return Err(io::Error::other("the thread that takes samples has ended"));
        }
        {
            let _drawing = drawing.lock();
            screen.terminal.draw(|frame| draw(&mut app, theme, frame.area(), frame.buffer_mut()))?;
        }
        // Events that have arrived meanwhile are handled before the next frame.
        let mut next = match wakes.recv_timeout(app.idle_for()) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("all event sources have ended")),
        };
        app.tick(began.elapsed());
        while let Some(event) = next {
            if screen.handle(&mut app, event)? {
                return Ok(());
            }
            next = wakes.try_recv().ok();
        }
    }
}

/// The terminal while `top` uses it.
struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    fn take() -> io::Result<Self> {
        let terminal = Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(SCREEN_BYTES, io::stdout())))?;
        let mut screen = Self { terminal }; // From here on, dropping it restores the terminal.
        screen.enter()?;
        Ok(screen)
    }

    fn enter(&mut self) -> io::Result<()> {
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        // This redraws everything. `clear` would query the cursor position, and the thread that reads keys would consume the
        // answer.
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::from((Position::ORIGIN, size)))
    }

    /// Handles an event; returns whether to quit.
    fn handle(&mut self, app: &mut App, event: Event) -> io::Result<bool> {
        match event {
            Event::Key(key) => match app.key(key) {
                Action::Nothing => {}
                Action::Quit => return Ok(true),
                Action::Suspend => {
                    leave();
                    os::suspend()?;
                    self.enter()?;
                }
            },
            Event::Resized => {} // The next frame has the new size.
            Event::Sampled(at, sample) => app.sampled(at, *sample),
            Event::Continued => {
                disable_raw_mode()?; // Otherwise the terminal is assumed to be raw already.
                self.enter()?;
            }
            Event::Ended => return Ok(true),
            Event::NoKeys(error) => return Err(error),
        }
        Ok(false)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Restores the terminal. Failures cannot be reported.
fn leave() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// Reports a panic on the restored terminal and aborts, whatever the thread and the build. The calling thread is the one that draws;
/// it draws no frame after the terminal is restored.
fn restore_on_panic(drawing: Arc<Mutex<()>>) {
    let drawer = thread::current().id();
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let _no_more = (thread::current().id() != drawer).then(|| drawing.lock());
        leave();
        report(panic);
        process::abort();
    }));
}

/// Takes one sample for each request.
fn start_sampler(began: Instant, mut sampler: Sampler, events: Sender<Event>) -> io::Result<Sender<()>> {
    let (samples, requests): (Sender<()>, Receiver<()>) = channel();
    thread::Builder::new().name("sampler".into()).spawn(move || {
        for () in requests {
            let sample = Box::new(sampler());
            if events.send(Event::Sampled(began.elapsed(), sample)).is_err() {
                return;
            }
        }
    })?;
    Ok(samples)
}

/// Reads keys until the process exits.
fn start_reader(events: Sender<Event>) -> io::Result<()> {
    let read = move || {
        loop {
            let event = match event::read() {
                Ok(event::Event::Key(key)) if key.kind == KeyEventKind::Release => continue,
                Ok(event::Event::Key(key)) => Event::Key(key),
                Ok(event::Event::Resize(..)) => Event::Resized,
                Ok(
                    event::Event::FocusGained
                    | event::Event::FocusLost
                    | event::Event::Mouse(_)
                    | event::Event::Paste(_),
                ) => continue,
                Err(error) => Event::NoKeys(error),
            };
            let last = matches!(event, Event::NoKeys(_));
            if events.send(event).is_err() || last {
                return;
            }
        }
    };
    thread::Builder::new().name("keys".into()).spawn(read)?;
    Ok(())
}

/// Turns signals into events.
fn watch_signals(events: Sender<Event>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        TerminalSignals::catch()?
    };
    let watch = move || {
        loop {
            let ended = runtime.block_on(signals.next()) == TerminalSignal::Stop;
            let event = if ended { Event::Ended } else { Event::Continued };
            if events.send(event).is_err() {
                return;
            }
            if ended {
                thread::sleep(EXIT_TIMEOUT);
                let _ = disable_raw_mode();
                process::exit(1);
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(watch)?;
    Ok(())
}
