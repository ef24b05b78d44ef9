//! The terminal of the live view: takes it over, and gives it back as it was, however the view ends.

use std::io::{self, BufWriter, Stdout, stdout};
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{self, EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

use super::draw::{Abilities, draw};
use super::screen::LiveView;

/// For a terminal that does not tell its size, such as one of `docker exec` in its first moments.
const USUAL_SIZE: (u16, u16) = (80, 24);

/// Whether the terminal is ours now. The panic hook has to know.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal, taken over until this is dropped.
pub struct LiveTerminal {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    abilities: Abilities,
}

impl LiveTerminal {
    /// Takes the terminal over. A panic gives it back before it is reported.
    pub fn take(abilities: Abilities) -> io::Result<LiveTerminal> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        enter()?;
        let (columns, rows) = size();
        let viewport = Viewport::Fixed(Rect::new(0, 0, columns, rows));
        let backend = CrosstermBackend::new(BufWriter::new(stdout()));
        let terminal = Terminal::with_options(backend, TerminalOptions { viewport }).inspect_err(|_| give_back())?;
        Ok(LiveTerminal { terminal, abilities })
    }

    pub fn draw(&mut self, screen: &LiveView) -> io::Result<()> {
        self.terminal.draw(|frame| draw(screen, self.abilities, frame)).map(drop)
    }

    /// Clears the screen. The next draw draws everything in this size.
    pub fn resize(&mut self, (columns, rows): (u16, u16)) -> io::Result<()> {
        self.terminal.resize(Rect::new(0, 0, columns, rows))
    }

    /// Draws everything at the next draw, whatever is on the screen.
    pub fn forget(&mut self) -> io::Result<()> {
        // `Terminal::clear` would ask the terminal where its cursor is, and the thread that reads the keys takes the answer.
        self.resize(size())
    }

    /// Gives the terminal back and stops this process, as Ctrl-Z does. [`LiveTerminal::retake`] undoes it.
    pub fn suspend(&mut self) {
        give_back();
        // The whole job, as the terminal itself would do it.
        let _ = rustix::process::kill_current_process_group(rustix::process::Signal::TSTP);
    }

    /// Takes the terminal over again after the process was stopped and continued.
    pub fn retake(&mut self) -> io::Result<()> {
        enter()?;
        self.forget()
    }
}

impl Drop for LiveTerminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// Columns and rows.
pub fn size() -> (u16, u16) {
    match terminal::size() {
        Ok((columns, rows)) if columns > 0 && rows > 0 => (columns, rows),
        _ => USUAL_SIZE,
    }
}

fn enter() -> io::Result<()> {
    terminal::enable_raw_mode()?;
    TAKEN.store(true, Ordering::Relaxed);
    execute!(stdout(), EnterAlternateScreen).inspect_err(|_| give_back())
}

/// Nothing can be done about a terminal that is gone.
fn give_back() {
    if TAKEN.swap(false, Ordering::Relaxed) {
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = terminal::disable_raw_mode();
    }
}
