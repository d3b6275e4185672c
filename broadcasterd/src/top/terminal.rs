//! The terminal's side of `top`: keys, signals, the clock and the sampler's thread. However it ends, the terminal is left as
//! it was found; it never draws anything itself.

use super::app::{Action, App, Missing};
use super::view::{Theme, draw};
use super::{Choice, Sampler};
use crate::os::{self, Wake, Wakes};
use crate::stats::model::Stats;
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

/// A frame goes out with one write.
const SCREEN_BYTES: usize = 64 * 1024;

/// Who was asked to end and has not by then waits for a terminal that takes nothing any more.
const END_WITHIN: Duration = Duration::from_secs(1);

/// What wakes the view up.
#[derive(Debug)]
enum Event {
    Key(KeyEvent),
    Resized,
    Sampled(Duration, Box<Result<Stats, Missing>>),
    /// We were stopped, and the shell may have used the terminal since.
    Continued,
    /// By a signal.
    Ended,
    /// There are no keys any more.
    Deaf(io::Error),
}

/// Shows the bus until the user, a signal or the terminal's end says otherwise.
pub(crate) fn watch(choice: &Choice, sampler: Sampler) -> io::Result<()> {
    let began = Instant::now();
    let (events, wakes) = channel();
    let drawing = Arc::new(Mutex::new(()));
    restore_on_panic(Arc::clone(&drawing));
    watch_signals(events.clone())?;
    let samples = start_sampler(began, sampler, events.clone())?;
    let mut screen = Screen::take()?;
    start_reader(events)?;

    let theme = Theme { colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    let mut app = choice.app();
    loop {
        app.tick(began.elapsed());
        if app.asks() && samples.send(()).is_err() {
            return Err(io::Error::other("the thread that takes samples has ended"));
        }
        {
            let _drawing = drawing.lock();
            screen.terminal.draw(|frame| draw(&mut app, theme, frame.area(), frame.buffer_mut()))?;
        }
        // Whatever has come meanwhile is drawn at once.
        let mut next = match wakes.recv_timeout(app.idle_for()) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("nothing can wake the view up")),
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

/// The terminal while it is ours.
struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    fn take() -> io::Result<Self> {
        let terminal = Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(SCREEN_BYTES, io::stdout())))?;
        let mut screen = Self { terminal }; // From here on it is given back, whatever fails.
        screen.enter()?;
        Ok(screen)
    }

    fn enter(&mut self) -> io::Result<()> {
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        // This draws everything anew. `clear` would ask the terminal where its cursor is, and the thread that reads keys
        // would take the answer.
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::from((Position::ORIGIN, size)))
    }

    /// Whether this is the end.
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
                disable_raw_mode()?; // Otherwise it would be taken for raw already.
                self.enter()?;
            }
            Event::Ended => return Ok(true),
            Event::Deaf(error) => return Err(error),
        }
        Ok(false)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Gives the terminal back. There is nobody to tell if that fails.
fn leave() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// A panic is told on the terminal as it was, and ends the process in every build, whatever thread it is on. The thread
/// that calls this is the one that draws; none of its frames follows after the terminal was given back.
fn restore_on_panic(drawing: Arc<Mutex<()>>) {
    let drawer = thread::current().id();
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let _no_more = (thread::current().id() != drawer).then(|| drawing.lock());
        leave();
        tell(panic);
        process::abort();
    }));
}

/// Takes a sample whenever it is asked to, one at a time.
fn start_sampler(began: Instant, mut sampler: Sampler, events: Sender<Event>) -> io::Result<Sender<()>> {
    let (samples, asked): (Sender<()>, Receiver<()>) = channel();
    thread::Builder::new().name("sampler".into()).spawn(move || {
        for () in asked {
            let sample = Box::new(sampler());
            if events.send(Event::Sampled(began.elapsed(), sample)).is_err() {
                return;
            }
        }
    })?;
    Ok(samples)
}

/// Reads keys until the process ends.
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
                Err(error) => Event::Deaf(error),
            };
            let deaf = matches!(event, Event::Deaf(_));
            if events.send(event).is_err() || deaf {
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
    let mut wakes = {
        let _entered = runtime.enter();
        Wakes::catch()?
    };
    let watch = move || {
        loop {
            let ended = runtime.block_on(wakes.next()) == Wake::End;
            let event = if ended { Event::Ended } else { Event::Continued };
            if events.send(event).is_err() {
                return;
            }
            if ended {
                thread::sleep(END_WITHIN);
                let _ = disable_raw_mode();
                process::exit(1);
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(watch)?;
    Ok(())
}
