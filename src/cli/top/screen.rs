//! The state of the live view, and what each key and each answer changes in it. Pure: it is told everything, and returns
//! what to do as requests.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::apps::AppList;
use super::scrollback::Scrollback;
use crate::cli::print::plain;
use crate::model::protocol::{AppStatus, Snapshot, Verb};

/// The state of the live view.
#[derive(Debug, Default)]
pub struct LiveView {
    pub apps: AppList,
    pub shown: Shown,
    pub output: Scrollback,
    pub events: Scrollback,
    pub mode: Mode,
    /// The lower part fills the screen.
    pub zoomed: bool,
    /// The answer to the last request.
    pub answer: Option<Said>,
    /// Why no supervisor answers.
    pub lost: Option<String>,
    /// Columns and rows.
    pub size: (u16, u16),
    /// The app whose output was requested last.
    followed: Option<String>,
}

/// The content of the lower part of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shown {
    #[default]
    Output,
    Events,
}

/// The current meaning of the keys.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Mode {
    #[default]
    Browse,
    /// Asks whether to stop this app.
    ConfirmStop(String),
    ChooseAction {
        app: String,
        actions: Vec<String>,
        chosen: usize,
    },
    /// Text for the filter of apps.
    Filter,
    /// Text to search for.
    Search(String),
    Help,
}

/// An answer to a request, in one sentence.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    pub done: bool,
    pub text: String,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum ScreenInput {
    Key(KeyEvent),
    Resized(u16, u16),
    /// The terminal is gone.
    NoMoreKeys,
    /// The apps at this time since the start of the view.
    Apps(Snapshot, Duration),
    /// Output of an app. `first` begins it anew.
    Output {
        app: String,
        first: bool,
        bytes: Vec<u8>,
    },
    Event(String),
    Answered(Said),
    /// No supervisor answers, and why.
    Lost(String),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum ScreenRequest {
    Change {
        app: String,
        verb: Verb,
    },
    /// Follow the output of this app, and no other.
    Follow(String),
    Suspend,
    Redraw,
    Quit,
}

/// The rows of the parts of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Below the header of the table.
    pub apps: u16,
    /// Below the title of the lower part.
    pub lower: u16,
}

impl LiveView {
    pub fn new(size: (u16, u16)) -> Self {
        LiveView { size, ..LiveView::default() }
    }

    /// Takes an input, and returns what to do about it.
    pub fn take(&mut self, input: ScreenInput) -> Vec<ScreenRequest> {
        let mut requests = Vec::new();
        match input {
            ScreenInput::Key(key) => requests.extend(self.press(key)),
            ScreenInput::Resized(columns, rows) => self.size = (columns, rows),
            ScreenInput::NoMoreKeys => requests.push(ScreenRequest::Quit),
            ScreenInput::Apps(snapshot, now) => {
                self.lost = None;
                self.apps.update(snapshot, now);
                self.leave_mode_of_gone_app();
            }
            ScreenInput::Output { app, first, bytes } => {
                if self.followed.as_ref() == Some(&app) {
                    if first {
                        self.output.clear();
                    }
                    self.output.push_bytes(&bytes);
                }
            }
            ScreenInput::Event(line) => self.events.push_line(line),
            ScreenInput::Answered(answer) => self.answer = Some(answer),
            ScreenInput::Lost(why) => self.lost = Some(why),
        }
        requests.extend(self.follow_selected());
        requests
    }

    /// The app that the keys act on.
    pub fn selected(&self) -> Option<&AppStatus> {
        self.apps.selected()
    }

    /// The lower part's text.
    pub fn lower(&self) -> &Scrollback {
        match self.shown {
            Shown::Output => &self.output,
            Shown::Events => &self.events,
        }
    }

    fn lower_mut(&mut self) -> &mut Scrollback {
        match self.shown {
            Shown::Output => &mut self.output,
            Shown::Events => &mut self.events,
        }
    }

    /// How the rows are divided. Four belong to the title, the table's header, the lower part's title and the keys.
    pub fn rows(&self) -> Rows {
        let body = self.size.1.saturating_sub(4);
        let wanted = u16::try_from(self.apps.len()).unwrap_or(u16::MAX).max(1);
        let apps = if self.zoomed { 1 } else { wanted.min((body / 2).max(3)) }.min(body);
        Rows { apps, lower: body - apps }
    }

    fn follow_selected(&mut self) -> Option<ScreenRequest> {
        let name = self.selected()?.name.clone();
        if self.followed.as_ref() == Some(&name) {
            return None;
        }
        self.output = Scrollback::with_search(self.output.search());
        self.followed = Some(name.clone());
        Some(ScreenRequest::Follow(name))
    }

    /// A question about an app that is gone would be answered for nobody.
    fn leave_mode_of_gone_app(&mut self) {
        let (Mode::ConfirmStop(app) | Mode::ChooseAction { app, .. }) = &self.mode else { return };
        if !self.apps.knows(app) {
            self.mode = Mode::Browse;
        }
    }

    fn press(&mut self, key: KeyEvent) -> Option<ScreenRequest> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c' | 'd') => return Some(ScreenRequest::Quit),
                KeyCode::Char('z') => return Some(ScreenRequest::Suspend),
                KeyCode::Char('l') => return Some(ScreenRequest::Redraw),
                KeyCode::Char('u') => {} // clears a line of text
                _ => return None,
            }
        }
        match std::mem::take(&mut self.mode) {
            Mode::Browse => self.browse(key.code),
            Mode::ConfirmStop(app) => match key.code {
                KeyCode::Char('y' | 'Y') => Some(ScreenRequest::Change { app, verb: Verb::Stop }),
                _ => None,
            },
            Mode::ChooseAction { app, actions, chosen } => self.choose(key.code, app, actions, chosen),
            Mode::Filter => {
                self.edit_filter(key);
                None
            }
            Mode::Search(text) => {
                self.edit_search(key, text);
                None
            }
            Mode::Help => None, // any key leaves it
        }
    }

    fn browse(&mut self, key: KeyCode) -> Option<ScreenRequest> {
        self.answer = None;
        let Rows { apps: rows, lower: page } = self.rows();
        let page = isize::try_from(page.saturating_sub(1).max(1)).unwrap_or(1);
        match key {
            KeyCode::Char('q') | KeyCode::F(10) => return Some(ScreenRequest::Quit),
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Up | KeyCode::Char('k') => self.apps.select_by(-1),
            KeyCode::Down | KeyCode::Char('j') => self.apps.select_by(1),
            KeyCode::Char('[') => self.apps.select_by(-(rows as isize)),
            KeyCode::Char(']') => self.apps.select_by(rows as isize),
            KeyCode::PageUp | KeyCode::Char('b') => self.lower_mut().scroll(page),
            KeyCode::PageDown | KeyCode::Char(' ') => self.lower_mut().scroll(-page),
            KeyCode::Home | KeyCode::Char('g') => self.lower_mut().scroll(isize::MAX),
            KeyCode::End | KeyCode::Char('G') => self.lower_mut().scroll(isize::MIN),
            KeyCode::Enter | KeyCode::Char('z') => self.zoomed = !self.zoomed,
            KeyCode::Char('l') => self.shown = Shown::Output,
            KeyCode::Char('e') => self.shown = Shown::Events,
            KeyCode::Tab => {
                self.shown = if self.shown == Shown::Output { Shown::Events } else { Shown::Output };
            }
            KeyCode::Char('s') => return self.change(Verb::Start),
            KeyCode::Char('r') => return self.change(Verb::Restart),
            KeyCode::Char('x') => self.mode = Mode::ConfirmStop(self.selected()?.name.clone()),
            KeyCode::Char('a') => self.offer_actions(),
            KeyCode::Char('f') => self.mode = Mode::Filter,
            KeyCode::Char('/') => self.mode = Mode::Search(String::new()),
            KeyCode::Char('n') => self.find(true),
            KeyCode::Char('N') => self.find(false),
            KeyCode::Esc => self.go_back(),
            _ => {}
        }
        None
    }

    /// Undoes the narrowest view first.
    fn go_back(&mut self) {
        if self.lower().search().is_some() {
            self.search(None);
        } else if self.zoomed {
            self.zoomed = false;
        } else {
            self.apps.filter(String::new());
        }
    }

    fn change(&self, verb: Verb) -> Option<ScreenRequest> {
        Some(ScreenRequest::Change { app: self.selected()?.name.clone(), verb })
    }

    fn offer_actions(&mut self) {
        let Some(app) = self.selected() else { return };
        if app.actions.is_empty() {
            let text = format!("the manifest of {} defines no actions", plain(&app.name));
            self.answer = Some(Said { done: false, text });
        } else {
            self.mode = Mode::ChooseAction { app: app.name.clone(), actions: app.actions.clone(), chosen: 0 };
        }
    }

    fn choose(&mut self, key: KeyCode, app: String, mut actions: Vec<String>, chosen: usize) -> Option<ScreenRequest> {
        let chosen = match key {
            KeyCode::Left | KeyCode::Up | KeyCode::Char('k') => chosen.saturating_sub(1),
            KeyCode::Right | KeyCode::Down | KeyCode::Tab | KeyCode::Char('j') => (chosen + 1).min(actions.len() - 1),
            KeyCode::Enter => {
                return Some(ScreenRequest::Change { app, verb: Verb::Do(actions.swap_remove(chosen)) });
            }
            _ => return None,
        };
        self.mode = Mode::ChooseAction { app, actions, chosen };
        None
    }

    fn edit_filter(&mut self, key: KeyEvent) {
        match edited(self.apps.text().into(), key) {
            Edited::Going(text) => {
                self.apps.filter(text);
                self.mode = Mode::Filter;
            }
            Edited::Done(text) => self.apps.filter(text),
            Edited::Left => self.apps.filter(String::new()),
        }
    }

    fn edit_search(&mut self, key: KeyEvent, text: String) {
        match edited(text, key) {
            Edited::Going(text) => self.mode = Mode::Search(text),
            Edited::Done(text) if text.is_empty() => self.search(None),
            Edited::Done(text) => {
                self.search(Some(text));
                self.find(false);
            }
            Edited::Left => {}
        }
    }

    fn search(&mut self, text: Option<String>) {
        self.output.search_for(text.clone());
        self.events.search_for(text);
    }

    /// Shows the next newer or older line that contains the searched text.
    fn find(&mut self, newer: bool) {
        let lower = self.lower_mut();
        let text = match lower.search() {
            None => "nothing is searched for: type / and a text".into(),
            Some(text) if !lower.find(newer) => {
                format!("no {} line contains {}", if newer { "newer" } else { "older" }, plain(&text))
            }
            Some(_) => return,
        };
        self.answer = Some(Said { done: false, text });
    }
}

/// A line of text after a key.
enum Edited {
    Going(String),
    Done(String),
    Left,
}

fn edited(mut text: String, key: KeyEvent) -> Edited {
    match key.code {
        KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => text.clear(),
        KeyCode::Char(letter) => text.push(letter),
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Enter => return Edited::Done(text),
        KeyCode::Esc => return Edited::Left,
        _ => {}
    }
    Edited::Going(text)
}

#[cfg(test)]
mod tests;
