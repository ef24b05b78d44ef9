//! The part of `doctor` about the home: whether it can be written and outlives the container, whether claims of profiles
//! work on it, and what an older workspace image left in it.

use std::path::{Path, PathBuf};

use rustix::fs::{self, Access, AtFlags};
use rustix::io::Errno;

use super::{Finding, Verdict, finding};
use crate::cli::retire;
use crate::host::home;

pub(super) fn of_the_home() -> Vec<Finding> {
    let variable = std::env::var("HOME").ok();
    let Some(home) = home::folder(variable.as_deref()).map(PathBuf::from) else {
        return vec![finding("home", Verdict::Doubtful, "this user has no home folder: set HOME")];
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let disk =
        Mount::of(&mounts, &home.canonicalize().unwrap_or_else(|_| home.clone())).map(|mount| mount.judge(&home));
    let old = retire::examine(&home).into_iter().map(|(todo, text)| {
        let verdict = if todo { Verdict::Doubtful } else { Verdict::Fine };
        finding("home", verdict, format!("{} {text}", home.display()))
    });
    let may = fs::accessat(fs::CWD, &home, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
    disk.into_iter().chain(may.err().map(|error| unwritable(&home, error))).chain(old).collect()
}

/// The finding about a home in which nothing can be made. `error` is the kernel's answer.
fn unwritable(home: &Path, error: Errno) -> Finding {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let home = home.display();
    let text = match error {
        Errno::ACCESS => format!(
            "uid {user} may not write in {home}, so apps that keep a profile there do not start: make it that user's, \
             as root: chown {user}:{group} {home}"
        ),
        Errno::ROFS => format!("{home} is mounted read-only, so apps that keep a profile there do not start"),
        Errno::NOENT => {
            format!("{home} does not exist, so apps start in `/`: make it if one of them keeps a profile there")
        }
        error => format!("{home} cannot be used: {}", std::io::Error::from(error)),
    };
    finding("home", Verdict::Doubtful, text)
}

/// The file system that a path is on.
#[derive(Debug, PartialEq)]
struct Mount<'a> {
    point: &'a str,
    kind: &'a str,
    /// Of the mount and of the file system.
    options: Vec<&'a str>,
}

impl<'a> Mount<'a> {
    /// Finds it in the text of `/proc/self/mountinfo`. Of several mounts on one point, the last one counts.
    fn of(mounts: &'a str, path: &Path) -> Option<Self> {
        let all = mounts.lines().filter_map(|line| {
            let (mount, system) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(4);
            let (point, options) = (fields.next()?, fields.next()?);
            let mut fields = system.split(' ');
            let (kind, of_system) = (fields.next()?, fields.nth(1)?);
            Some(Mount { point, kind, options: options.split(',').chain(of_system.split(',')).collect() })
        });
        all.filter(|mount| path.starts_with(mount.point)).max_by_key(|mount| mount.point.len())
    }

    fn judge(&self, home: &Path) -> Finding {
        let Mount { point, kind, options } = self;
        let home = home.display();
        let has = |wanted: &[&str]| options.iter().any(|option| wanted.contains(option));
        let doubt = match *kind {
            "overlay" if *point == "/" => {
                "is on the container's own disk: profiles and logins are lost with the container: mount a volume there"
            }
            "tmpfs" => "is in memory: profiles and logins are lost at the next start: mount a volume there",
            "nfs" | "nfs4" if has(&["nolock", "local_lock=all", "local_lock=flock"]) => {
                "is on NFS without locks: two containers on different hosts could use one profile and destroy it: mount it with locks"
            }
            _ => return finding("home", Verdict::Fine, format!("{home} is on {kind}, mounted at {point}")),
        };
        finding("home", Verdict::Doubtful, format!("{home} {doubt}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 0:20 / / rw,relatime - overlay overlay rw,lowerdir=/a
23 22 0:21 / /tmp rw - tmpfs tmpfs rw,size=64k
24 22 8:1 /pods/x/volume /home/kasm-user rw,relatime shared:1 - ext4 /dev/sda1 rw
25 22 0:40 / /mnt/a rw - nfs4 server:/a rw,vers=4.2,local_lock=none
26 22 0:41 / /mnt/b rw - nfs server:/b rw,vers=3,nolock,local_lock=all";

    #[test]
    fn a_home_in_which_nothing_can_be_made_is_told_with_the_fix() {
        let user = rustix::process::geteuid().as_raw();
        for (error, words) in [
            (Errno::ACCESS, format!("as root: chown {user}:")),
            (Errno::ROFS, "is mounted read-only".into()),
            (Errno::NOENT, "apps start in `/`".into()),
            (Errno::IO, "cannot be used: Input/output error".into()),
        ] {
            let found = unwritable(Path::new("/home/kasm-user"), error);
            assert!(found.verdict == Verdict::Doubtful && found.text.contains(&words), "{}", found.text);
        }
    }

    #[test]
    fn a_home_is_judged_by_its_disk() {
        for (home, verdict, words) in [
            ("/home/kasm-user", Verdict::Fine, "ext4, mounted at /home/kasm-user"),
            ("/home/kasm-user/deeper", Verdict::Fine, "ext4"),
            ("/home/kasm-user-2", Verdict::Doubtful, "own disk"),
            ("/tmp/home", Verdict::Doubtful, "in memory"),
            ("/mnt/a/home", Verdict::Fine, "nfs4"),
            ("/mnt/b/home", Verdict::Doubtful, "without locks"),
        ] {
            let found = Mount::of(MOUNTS, Path::new(home)).unwrap().judge(Path::new(home));
            assert!(found.verdict == verdict && found.text.contains(words), "{home}: {}", found.text);
        }
        assert_eq!(Mount::of("", Path::new("/home")), None);
    }
}
