//! Decides which windows `Maximize` asks the window manager to maximise. Does no I/O: `daemon::display` repeatedly
//! passes in the windows on the screen, and sends the requests.
//!
//! An app may show a splash screen first, or open its window late. So the step watches all windows of the app until
//! it ends. It requests each window only once, so that a window stays smaller if a person has resized it.

use std::collections::BTreeMap;

/// The X id of a window.
pub type WindowId = u32;

/// A visible window of the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppWindow {
    /// Its X id.
    pub id: WindowId,
    /// Whether it is meant to fill the screen.
    pub kind: WindowKind,
    /// It is resizable.
    pub resizable: bool,
    /// It fills the screen in both directions.
    pub maximised: bool,
}

/// The purpose of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowKind {
    /// A normal window.
    Main,
    /// A splash screen, dialog, menu or tooltip, which keeps its own size.
    Other,
}

/// The app's windows so far, and which of them were maximised.
#[derive(Debug, Default)]
pub struct Maximizer {
    windows: BTreeMap<WindowId, Progress>,
    maximised: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Asked,
    Maximised,
}

/// The result of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maximized {
    /// This many windows were maximised.
    Windows(usize),
    /// The window manager did not act on the request.
    Ignored,
    /// No window could be maximised: there was none, or only splash screens and the like.
    NoWindow,
}

impl Maximizer {
    /// Takes the windows now on the screen, and returns those to maximise.
    pub fn look(&mut self, windows: &[AppWindow]) -> Vec<WindowId> {
        self.windows.retain(|id, _| windows.iter().any(|window| window.id == *id));
        let mut ask = Vec::new();
        for window in windows {
            match self.windows.get(&window.id) {
                Some(Progress::Maximised) => {}
                _ if window.maximised => {
                    self.windows.insert(window.id, Progress::Maximised);
                    self.maximised += 1;
                }
                Some(Progress::Asked) => {}
                None if window.kind == WindowKind::Main && window.resizable => {
                    self.windows.insert(window.id, Progress::Asked);
                    ask.push(window.id);
                }
                None => {}
            }
        }
        ask
    }

    /// How many windows have been maximised so far, by us or by the app.
    pub fn maximised(&self) -> usize {
        self.maximised
    }

    /// The result of the step so far.
    pub fn outcome(&self) -> Maximized {
        match (self.maximised, self.windows.is_empty()) {
            (0, true) => Maximized::NoWindow,
            (0, false) => Maximized::Ignored,
            (count, _) => Maximized::Windows(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn main(id: WindowId) -> AppWindow {
        AppWindow { id, kind: WindowKind::Main, resizable: true, maximised: false }
    }

    fn splash(id: WindowId) -> AppWindow {
        AppWindow { kind: WindowKind::Other, ..main(id) }
    }

    fn maximised(id: WindowId) -> AppWindow {
        AppWindow { maximised: true, ..main(id) }
    }

    #[test]
    fn the_window_behind_the_splash_is_asked_for_when_it_comes() {
        let mut maximizer = Maximizer::default();
        assert!(maximizer.look(&[splash(1), AppWindow { resizable: false, ..main(2) }]).is_empty());
        assert_eq!(maximizer.outcome(), Maximized::NoWindow);
        assert_eq!(maximizer.look(&[main(3)]), [3]);
        assert_eq!(maximizer.outcome(), Maximized::Ignored);
        assert!(maximizer.look(&[maximised(3)]).is_empty());
        assert_eq!(maximizer.outcome(), Maximized::Windows(1));
    }

    #[test]
    fn a_splash_that_looks_like_a_window_does_not_use_up_the_request() {
        let mut maximizer = Maximizer::default();
        assert_eq!(maximizer.look(&[main(1)]), [1]);
        assert_eq!(maximizer.look(&[main(2)]), [2]);
        maximizer.look(&[maximised(2)]);
        assert_eq!(maximizer.outcome(), Maximized::Windows(1));
    }

    #[test]
    fn a_window_that_a_person_makes_smaller_stays_so() {
        let mut maximizer = Maximizer::default();
        maximizer.look(&[main(1)]);
        maximizer.look(&[maximised(1)]);
        assert!(maximizer.look(&[main(1)]).is_empty());
        // The next run of the step requests it again.
        assert_eq!(Maximizer::default().look(&[main(1)]), [1]);
    }

    #[test]
    fn a_fixed_window_is_asked_for_once_it_can_be_resized() {
        let mut maximizer = Maximizer::default();
        assert!(maximizer.look(&[AppWindow { resizable: false, ..main(1) }]).is_empty());
        assert_eq!(maximizer.look(&[main(1)]), [1]);
    }

    fn window() -> impl Strategy<Value = AppWindow> {
        (0..4_u32, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(id, other, resizable, maximised)| {
            AppWindow { id, kind: if other { WindowKind::Other } else { WindowKind::Main }, resizable, maximised }
        })
    }

    proptest! {
        #[test]
        fn each_window_is_asked_for_at_most_once_while_it_is_there(
            screens in proptest::collection::vec(proptest::collection::btree_map(0..4_u32, window(), 0..4), 0..20),
        ) {
            let mut maximizer = Maximizer::default();
            let mut asked = BTreeSet::new();
            for screen in screens {
                let windows: Vec<AppWindow> = screen.into_iter().map(|(id, window)| AppWindow { id, ..window }).collect();
                asked.retain(|id| windows.iter().any(|window| window.id == *id));
                for id in maximizer.look(&windows) {
                    let window = windows.iter().find(|window| window.id == id).unwrap();
                    prop_assert!(window.kind == WindowKind::Main && window.resizable && !window.maximised);
                    prop_assert!(asked.insert(id));
                }
            }
        }
    }
}
