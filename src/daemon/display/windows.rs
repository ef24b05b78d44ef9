//! Queries about windows, and requests to the window manager. A window may be closed at any moment; that is an
//! answer, never an error.

use x11rb::connection::Connection;
use x11rb::errors::ReplyError;
use x11rb::protocol::Event;
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ChangeWindowAttributesAux, ClientMessageEvent, ConnectionExt as _, EventMask, MapState, Window,
};

use super::client::{DisplayClient, DisplayError};
use crate::model::hooks::maximize::{AppWindow, Maximized, Maximizer, WindowKind};
use crate::model::manifest::pattern::Pattern;

/// The atoms needed to maximise a window, looked up once.
struct Atoms {
    state: Atom,
    horizontal: Atom,
    vertical: Atom,
    kind: Atom,
    active: Atom,
    /// Kinds of windows that keep their size.
    others: Vec<Atom>,
}

const OTHER_KINDS: [&str; 10] = [
    "SPLASH",
    "DIALOG",
    "UTILITY",
    "TOOLBAR",
    "MENU",
    "DROPDOWN_MENU",
    "POPUP_MENU",
    "TOOLTIP",
    "NOTIFICATION",
    "DOCK",
];

impl DisplayClient {
    /// The visible windows whose class or instance matches, oldest first.
    pub fn windows_of(&self, class: &Pattern) -> Result<Vec<Window>, DisplayError> {
        let mut found = Vec::new();
        for window in self.windows()? {
            let names = self.property(window, AtomEnum::WM_CLASS.into(), AtomEnum::STRING)?;
            let mut names = names.as_deref().unwrap_or_default().split(|byte| *byte == 0).map(String::from_utf8_lossy);
            if names.any(|name| !name.is_empty() && class.is_match(&name)) {
                found.push(window);
            }
        }
        Ok(found)
    }

    /// Repeats the query whenever something on the display has changed, until it has an answer. Returns `None` when
    /// the time is over.
    pub fn until<T>(
        &self,
        mut look: impl FnMut() -> Result<Option<T>, DisplayError>,
    ) -> Result<Option<T>, DisplayError> {
        self.listen(self.root, EventMask::PROPERTY_CHANGE | EventMask::SUBSTRUCTURE_NOTIFY)?;
        loop {
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            match self.wait_for_change() {
                Ok(()) => {}
                Err(DisplayError::TimedOut) => return Ok(None),
                Err(failed) => return Err(failed),
            }
        }
    }

    /// Maximises and raises each window of this class once, until the time is over.
    pub fn maximize(&self, class: &Pattern, progress: impl Fn(&str)) -> Result<Maximized, DisplayError> {
        let (atoms, mut maximizer) = (self.atoms()?, Maximizer::default());
        let mut managed = false;
        let mut look = || {
            managed = self.manager()?.is_some();
            if !managed {
                return Ok(None::<()>);
            }
            let mut windows = Vec::new();
            for window in self.windows_of(class)? {
                self.listen(window, EventMask::PROPERTY_CHANGE)?;
                windows.extend(self.look_at(window, &atoms)?);
            }
            let before = maximizer.maximised();
            for window in maximizer.look(&windows) {
                self.ask_manager(window, &atoms)?;
            }
            (before..maximizer.maximised()).for_each(|_| progress("maximised its window"));
            Ok(None)
        };
        self.until(&mut look)?;
        match maximizer.outcome() {
            Maximized::NoWindow if !managed => {
                Err(DisplayError::Said("no window manager is running, so nothing can be maximised".into()))
            }
            outcome => Ok(outcome),
        }
    }

    /// Returns `None` if the window has just been closed.
    fn look_at(&self, window: Window, atoms: &Atoms) -> Result<Option<AppWindow>, DisplayError> {
        let Some(state) = self.numbers(window, atoms.state, AtomEnum::ATOM)? else { return Ok(None) };
        let Some(kinds) = self.numbers(window, atoms.kind, AtomEnum::ATOM)? else { return Ok(None) };
        let transient = self.numbers(window, AtomEnum::WM_TRANSIENT_FOR.into(), AtomEnum::WINDOW)?;
        let transient = transient.is_some_and(|owner| !owner.is_empty());
        // An app lists every kind that applies, best first. Kinds we do not know are skipped.
        let other = transient || kinds.iter().any(|kind| atoms.others.contains(kind));
        Ok(Some(AppWindow {
            id: window,
            kind: if other { WindowKind::Other } else { WindowKind::Main },
            resizable: self.resizable(window)?,
            maximised: state.contains(&atoms.horizontal) && state.contains(&atoms.vertical),
        }))
    }

    /// False if the window's minimum size equals its maximum size.
    fn resizable(&self, window: Window) -> Result<bool, DisplayError> {
        const MIN_AND_MAX: u32 = 1 << 4 | 1 << 5;
        let hints = self.numbers(window, AtomEnum::WM_NORMAL_HINTS.into(), AtomEnum::WM_SIZE_HINTS)?;
        let hints = hints.unwrap_or_default();
        let fixed = hints.first().is_some_and(|flags| flags & MIN_AND_MAX == MIN_AND_MAX)
            && hints.get(5..7).is_some_and(|least| Some(least) == hints.get(7..9));
        Ok(!fixed)
    }

    /// Asks the window manager to maximise and raise the window, as a pager would.
    fn ask_manager(&self, window: Window, atoms: &Atoms) -> Result<(), DisplayError> {
        const ADD: u32 = 1;
        const FROM_A_PAGER: u32 = 2;
        let maximise = [ADD, atoms.horizontal, atoms.vertical, FROM_A_PAGER, 0];
        for (message, data) in [(atoms.state, maximise), (atoms.active, [FROM_A_PAGER, 0, 0, 0, 0])] {
            let event = ClientMessageEvent::new(32, window, message, data);
            let to = EventMask::SUBSTRUCTURE_REDIRECT | EventMask::SUBSTRUCTURE_NOTIFY;
            self.connection.send_event(false, self.root, to, event)?;
        }
        Ok(self.connection.flush()?)
    }

    fn atoms(&self) -> Result<Atoms, DisplayError> {
        let kinds = OTHER_KINDS.iter().map(|kind| self.atom(&format!("_NET_WM_WINDOW_TYPE_{kind}")));
        Ok(Atoms {
            state: self.atom("_NET_WM_STATE")?,
            horizontal: self.atom("_NET_WM_STATE_MAXIMIZED_HORZ")?,
            vertical: self.atom("_NET_WM_STATE_MAXIMIZED_VERT")?,
            kind: self.atom("_NET_WM_WINDOW_TYPE")?,
            active: self.atom("_NET_ACTIVE_WINDOW")?,
            others: kinds.collect::<Result<_, _>>()?,
        })
    }

    /// The visible windows, oldest first: those the window manager lists, then those on the root that it does not
    /// manage. Without a window manager that is all of them; otherwise any that opened while it was starting.
    fn windows(&self) -> Result<Vec<Window>, DisplayError> {
        let list = self.atom("_NET_CLIENT_LIST")?;
        let mut windows = self.numbers(self.root, list, AtomEnum::WINDOW)?.unwrap_or_default();
        for child in self.connection.query_tree(self.root)?.reply()?.children {
            let attributes = gone_is_none(self.connection.get_window_attributes(child)?.reply())?;
            let visible = attributes.is_some_and(|attributes| attributes.map_state == MapState::VIEWABLE);
            if visible && !windows.contains(&child) {
                windows.push(child);
            }
        }
        Ok(windows)
    }

    /// The running window manager's own window.
    pub fn manager(&self) -> Result<Option<Window>, DisplayError> {
        let check = self.atom("_NET_SUPPORTING_WM_CHECK")?;
        let Some(named) = self.numbers(self.root, check, AtomEnum::WINDOW)?.and_then(|ids| ids.first().copied()) else {
            return Ok(None);
        };
        // A window manager that was killed leaves its name behind, but not its window.
        let there = self.numbers(named, check, AtomEnum::WINDOW)?.is_some_and(|ids| ids.contains(&named));
        Ok(there.then_some(named))
    }

    fn atom(&self, name: &str) -> Result<Atom, DisplayError> {
        Ok(self.connection.intern_atom(false, name.as_bytes())?.reply()?.atom)
    }

    /// Returns `None` if the window no longer exists.
    fn property(&self, window: Window, name: Atom, kind: AtomEnum) -> Result<Option<Vec<u8>>, DisplayError> {
        let reply = self.connection.get_property(false, window, name, kind, 0, 4096)?.reply();
        Ok(gone_is_none(reply)?.map(|reply| reply.value))
    }

    fn numbers(&self, window: Window, name: Atom, kind: AtomEnum) -> Result<Option<Vec<u32>>, DisplayError> {
        let reply = self.connection.get_property(false, window, name, kind, 0, 4096)?.reply();
        Ok(gone_is_none(reply)?.map(|reply| reply.value32().map(Iterator::collect).unwrap_or_default()))
    }

    fn listen(&self, window: Window, mask: EventMask) -> Result<(), DisplayError> {
        let attributes = ChangeWindowAttributesAux::new().event_mask(mask);
        self.connection.change_window_attributes(window, &attributes)?;
        Ok(())
    }

    /// Waits until a window appears, disappears or changes a property.
    fn wait_for_change(&self) -> Result<(), DisplayError> {
        let mut changed = false;
        while !changed {
            changed = matters(&self.connection.wait_for_event()?);
            while let Some(event) = self.connection.poll_for_event()? {
                changed |= matters(&event);
            }
        }
        Ok(())
    }
}

/// Moves and resizes do not matter. Nor do errors: they are about windows that are gone.
fn matters(event: &Event) -> bool {
    !matches!(event, Event::ConfigureNotify(_) | Event::CirculateNotify(_) | Event::GravityNotify(_) | Event::Error(_))
}

/// Turns an error about a window that has just been closed into `None`.
fn gone_is_none<T>(reply: Result<T, ReplyError>) -> Result<Option<T>, DisplayError> {
    match reply {
        Ok(reply) => Ok(Some(reply)),
        Err(ReplyError::X11Error(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
