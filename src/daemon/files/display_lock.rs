//! `ClearLocks` for an X display: asks whether the display is up, and removes its lock and socket if it is not.
//! `model::hooks::display_lock` decides.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::program::runs;
use super::removal::{Judged, remove_judged};
use super::tree::Folder;
use super::{Around, Done, cannot};
use crate::host::display::{self, Address};
use crate::host::{proc, socket};
use crate::model::hooks::display_lock::{DisplayFacts, DisplayVerdict, judge, serves};

pub(super) fn clear_display(around: &Around) -> Done {
    let display = around.display.ok_or("DISPLAY is not set: set it in `env` of workspace.ron or of the app")?;
    let address = Address::parse(display)?;
    let lock = place(&address.lock())?;
    let socket = place(&address.socket())?;
    let leftovers: Vec<&Found> = lock.iter().chain(&socket).collect();
    let pid = lock.as_ref().and_then(|lock| std::fs::read_to_string(&lock.path).ok()?.trim().parse().ok());
    let facts = DisplayFacts {
        answers: socket::answers(&display::connect(address)),
        leftovers: !leftovers.is_empty(),
        pid,
        starting: pid.is_some_and(|pid| {
            let arguments = proc::arguments(pid);
            runs(pid, &arguments, around.program) && serves(&arguments, address.number)
        }),
    };
    match judge(facts) {
        DisplayVerdict::Nothing => Ok(String::new()),
        DisplayVerdict::Keep(holder) => Ok(format!("kept the lock of display {display}: {holder}")),
        DisplayVerdict::Remove => {
            for Found { folder, name, judged, .. } in leftovers {
                if !remove_judged(folder, name, judged)? {
                    return Ok(format!("kept the lock of display {display}: an X server has just taken it"));
                }
            }
            Ok(format!("removed the stale lock of display {display}: no X server answers there"))
        }
    }
}

/// A file that exists.
struct Found {
    path: PathBuf,
    folder: Folder,
    name: OsString,
    judged: Judged,
}

fn place(path: &Path) -> Result<Option<Found>, String> {
    let cannot = |error| cannot(format!("look at `{}`", path.display()), error);
    let (folder, name) = match Folder::holding(path) {
        Ok(place) => place,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(cannot(error)),
    };
    let judged = Judged::of(&folder, &name).map_err(cannot)?;
    Ok(judged.map(|judged| Found { path: path.into(), folder, name, judged }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn clear(display: &str) -> Done {
        super::clear_display(&Around {
            hostname: "pod-b",
            home: Path::new("/nonexistent"),
            display: Some(display),
            program: Path::new("/usr/bin/Xtigervnc"),
            of_app: &|_| false,
            cancelled: &|| false,
        })
    }

    /// The files of a display that no server on this machine uses. They are removed with the test.
    struct Files(Address);

    impl Files {
        /// Takes the first free display number from here on, so that tests do not collide.
        fn of_a_free_display() -> Self {
            std::fs::create_dir_all("/tmp/.X11-unix").unwrap();
            let first = 20_000 + std::process::id() as u16 % 20_000;
            let number = (first..).find(|number| {
                let lock = Address { number: *number, screen: 0 }.lock();
                std::fs::File::create_new(&lock).is_ok()
            });
            Files(Address { number: number.unwrap(), screen: 0 })
        }

        fn display(&self) -> String {
            format!(":{}", self.0.number)
        }

        /// Writes a lock as an X server does.
        fn lock(&self, pid: i32) {
            std::fs::write(self.0.lock(), format!("{pid:>10}\n")).unwrap();
        }

        fn there(&self) -> [bool; 2] {
            [self.0.lock().exists(), self.0.socket().exists()]
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(self.0.lock());
            let _ = std::fs::remove_file(self.0.socket());
        }
    }

    #[test]
    fn a_lock_that_names_a_live_process_goes_when_the_display_does_not_answer() {
        let files = Files::of_a_free_display();
        files.lock(std::process::id() as i32);
        drop(UnixListener::bind(files.0.socket()).unwrap());
        let told = clear(&files.display()).unwrap();
        assert!(told.contains("removed the stale lock"), "{told}");
        assert_eq!(files.there(), [false, false]);
        assert_eq!(clear(&files.display()).unwrap(), "");
    }

    #[test]
    fn a_display_that_answers_keeps_its_files() {
        let files = Files::of_a_free_display();
        files.lock(1);
        let _server = UnixListener::bind(files.0.socket()).unwrap();
        let told = clear(&files.display()).unwrap();
        assert!(told.contains("an X server answers there"), "{told}");
        assert_eq!(files.there(), [true, true]);
    }

    #[test]
    fn a_display_that_answers_on_its_abstract_socket_alone_keeps_its_lock() {
        use std::os::linux::net::SocketAddrExt;
        let files = Files::of_a_free_display();
        let name = std::os::unix::net::SocketAddr::from_abstract_name(files.0.socket().to_str().unwrap()).unwrap();
        let _server = UnixListener::bind_addr(&name).unwrap();
        let told = clear(&files.display()).unwrap();
        assert!(told.contains("an X server answers there"), "{told}");
        assert_eq!(files.there(), [true, false]);
    }

    #[test]
    fn without_a_display_the_way_out_is_told() {
        assert!(clear("elsewhere:1").unwrap_err().contains("only a display of this machine"));
    }
}
