//! Trust: whose manifests are read, and whose binary an upgrade starts. Both decide what runs as our user, so write access
//! to them means access to everything we can do. As sshd does with its files, we refuse one that another user owns, or
//! that others may write to.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat, StatVfsMountFlags, fstat, fstatvfs, open, stat, statvfs};
use rustix::process::{getegid, geteuid};

/// The relevant permissions of a file or folder.
#[derive(Debug, Clone, Copy)]
struct Access {
    uid: u32,
    gid: u32,
    mode: u32,
    /// On a read-only mount. Then its mode does not matter: ConfigMaps are mounted with mode 0777.
    read_only: bool,
}

/// Our user and group.
#[derive(Debug, Clone, Copy)]
struct Identity {
    uid: u32,
    gid: u32,
}

/// Refuses a folder that others may change, or whose parents let others replace it. The error says why, and how to fix
/// it.
pub fn folder(path: &Path) -> Result<(), String> {
    let Ok(path) = path.canonicalize() else { return Ok(()) }; // reading it reports the error
    let us = identity();
    let above = path.ancestors().skip(1);
    let doubts = std::iter::once((path.as_path(), false)).chain(above.map(|above| (above, true)));
    for (path, is_above) in doubts {
        let Some(access) = access(path) else { continue };
        if let Some(why) = doubt(access, us, is_above) {
            return Err(format!("{} {why}", path.display()));
        }
    }
    Ok(())
}

/// Refuses an open file that others may change.
pub fn file(opened: impl AsFd, found: &Stat) -> Result<(), String> {
    let read_only = fstatvfs(opened).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY));
    let access = Access { uid: found.st_uid, gid: found.st_gid, mode: found.st_mode, read_only };
    doubt(access, identity(), false).map_or(Ok(()), Err)
}

/// Opens a program that nobody else may change, in a folder where nobody else may replace it. Whoever starts it through
/// the descriptor starts this file, whatever its path is by then.
///
/// # Errors
/// It cannot be executed, or others may change it. The text begins with its path.
pub fn program(path: &Path) -> Result<OwnedFd, String> {
    let said = path.display();
    folder(path.parent().unwrap_or(path))?;
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let opened = open(path, flags, Mode::empty()).map_err(|error| format!("{said}: {error}"))?;
    let found = fstat(&opened).map_err(|error| format!("{said}: {error}"))?;
    let executable = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_mode & 0o111 != 0;
    if !executable {
        return Err(format!("{said} is not an executable file"));
    }
    file(&opened, &found).map_err(|why| format!("{said} {why}"))?;
    Ok(opened)
}

fn identity() -> Identity {
    Identity { uid: geteuid().as_raw(), gid: getegid().as_raw() }
}

fn access(path: &Path) -> Option<Access> {
    let found = stat(path).ok()?;
    Some(Access { uid: found.st_uid, gid: found.st_gid, mode: found.st_mode, read_only: is_read_only(path) })
}

fn is_read_only(path: &Path) -> bool {
    statvfs(path).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Why it is not trusted, if so. In a folder with the sticky bit, such as /tmp, others cannot replace our files. But
/// they can add files, so manifests are not read from such a folder itself.
fn doubt(Access { uid, gid, mode, read_only }: Access, us: Identity, is_above: bool) -> Option<String> {
    let sticky = is_above && mode & 0o1000 != 0;
    if read_only {
        return None;
    }
    if uid != us.uid && uid != 0 {
        let way_out = format!("change its owner to root or uid {}", us.uid);
        return Some(format!("belongs to uid {uid}, who could run anything as uid {}: {way_out}", us.uid));
    }
    if mode & 0o002 != 0 && !sticky {
        return Some("may be written by everybody: `chmod o-w` it".into());
    }
    if mode & 0o020 != 0 && gid != us.gid && !sticky {
        return Some(format!("may be written by group {gid}: `chmod g-w` it"));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const US: Identity = Identity { uid: 1000, gid: 1000 };

    fn with(uid: u32, gid: u32, mode: u32) -> Access {
        Access { uid, gid, mode, read_only: false }
    }

    #[test]
    fn what_others_can_write_is_refused() {
        let table = [
            (with(1000, 1000, 0o100644), false, None),
            (with(0, 0, 0o100644), false, None),
            (with(1000, 1000, 0o100664), false, None),
            (with(1000, 27, 0o100664), false, Some("may be written by group 27")),
            (with(0, 0, 0o100666), false, Some("may be written by everybody")),
            (with(1001, 1000, 0o100600), false, Some("belongs to uid 1001")),
            (with(0, 0, 0o041777), true, None),
            (with(0, 0, 0o041777), false, Some("may be written by everybody")),
            (with(0, 0, 0o040777), true, Some("may be written by everybody")),
            (with(1001, 1001, 0o040755), true, Some("belongs to uid 1001")),
        ];
        for (access, is_above, wanted) in table {
            let said = doubt(access, US, is_above);
            match wanted {
                None => assert_eq!(said, None, "{access:?}"),
                Some(wanted) => {
                    assert!(said.as_ref().is_some_and(|said| said.starts_with(wanted)), "{access:?}: {said:?}")
                }
            }
        }
        assert_eq!(doubt(Access { read_only: true, ..with(0, 0, 0o040777) }, US, false), None, "a ConfigMap");
    }
    #[test]
    fn a_program_that_others_could_change_is_not_started() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().canonicalize().unwrap().join("program");
        let with = |mode| {
            fs::write(&path, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            program(&path)
        };
        assert!(with(0o755).is_ok() && with(0o700).is_ok() && with(0o111).is_ok());
        assert!(with(0o757).unwrap_err().contains("may be written by everybody"));
        assert!(with(0o644).unwrap_err().contains("not an executable file"));
        assert!(program(place.path()).is_err());
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(with(0o755).unwrap_err().contains("may be written by everybody"), "its folder");
    }
}
