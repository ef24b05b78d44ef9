//! Reads manifest folders into sources. Owns which files count, the size limit, and the errors for files and folders
//! that cannot be read. Must not parse, and must never hang on whatever is named `x.ron`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags};

use super::trust;
use crate::model::loading::layers::{self, Lock};
use crate::model::loading::problem::Problem;
use crate::model::loading::source::Source;
use crate::model::loading::surroundings::FileKind;
use crate::model::manifest::env_files::Unread;
use crate::model::manifest::name::WORKSPACE;

/// Bytes. A larger file is neither a manifest nor an env file.
const MAX_SIZE: u64 = 1 << 20;

/// Everything that the folders hold.
#[derive(Debug, Default)]
pub struct Loaded {
    /// One source per name, sorted by name. `workspace.ron` has all its layers, with the effective one last. A file
    /// that cannot be read is included, with the reason.
    pub sources: Vec<Source>,
    /// Problems of the folders themselves.
    pub problems: Vec<Problem>,
    /// Every folder was listed, or does not exist. If false, an app without a source was not necessarily deleted.
    pub complete: bool,
    /// Something could not be read for a reason that passes without a change event, such as a lack of descriptors. Read
    /// again later.
    pub look_again: bool,
}

/// Files by name: one for each folder that has it, in the order of the folders, with the folder's number.
type Files = BTreeMap<String, Vec<(usize, PathBuf)>>;

/// Reads every `*.ron` of every folder. If two folders hold the same file name, the later folder wins, unless an
/// earlier one locks the name. A folder that others may write to is not read.
pub fn load(folders: &[PathBuf]) -> Loaded {
    let mut files = Files::new();
    let mut loaded = Loaded { complete: true, ..Loaded::default() };
    for (number, folder) in folders.iter().enumerate() {
        if let Err(why) = trust::folder(folder) {
            loaded.complete = false;
            loaded.problems.push(untrusted(folder, why));
        } else if let Err(error) = list(number, folder, &mut files, &mut loaded.problems) {
            loaded.complete &= is_absent(&error);
            loaded.look_again |= may_pass(&error);
            loaded.problems.push(unlisted(folder, &error));
        }
    }
    let locks = loaded.read_workspace(files.remove(WORKSPACE).unwrap_or_default());
    for (name, layers) in files {
        let counting = loaded.unlocked(&name, layers, &locks).pop();
        if let Some(source) = counting.map(|path| loaded.read(&name, &path)) {
            loaded.sources.push(source);
        }
    }
    loaded.sources.sort_by(|a, b| a.name.cmp(&b.name));
    loaded
}

impl Loaded {
    /// Reads all layers of `workspace.ron` that are not locked out, and collects their locks.
    fn read_workspace(&mut self, layers: Vec<(usize, PathBuf)>) -> Vec<Lock> {
        let mut locks = Vec::new();
        for (folder, path) in layers {
            for path in self.unlocked(WORKSPACE, vec![(folder, path)], &locks) {
                let source = self.read(WORKSPACE, &path);
                locks.extend(Lock::of(folder, &source));
                self.sources.push(source);
            }
        }
        locks
    }

    /// The layers of a name that are not locked out. Reports the others.
    fn unlocked(&mut self, name: &str, layers: Vec<(usize, PathBuf)>, locks: &[Lock]) -> Vec<PathBuf> {
        let mut counting = Vec::new();
        for (folder, path) in layers {
            match layers::locked_out(locks, name, folder) {
                Some(by) => self.problems.push(layers::ignored(&path.display().to_string(), by)),
                None => counting.push(path),
            }
        }
        counting
    }

    fn read(&mut self, name: &str, path: &Path) -> Source {
        let text = read(path, &MANIFEST).map_err(|unread| {
            self.look_again |= unread.may_pass;
            unread.reason
        });
        Source { name: name.into(), file: path.display().to_string(), folder: folder_of(path), text }
    }
}

/// The absolute path of the file's folder. Links stay as they are, so that a folder that is swapped keeps its name.
pub fn folder_of(path: &Path) -> String {
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::path::absolute(folder).unwrap_or_else(|_| folder.into()).display().to_string()
}

fn untrusted(folder: &Path, why: String) -> Problem {
    Problem::whole(&folder.display().to_string(), "the manifests in this folder are not read: others may change them")
        .help(why)
}

/// The kind of file at a path that a manifest names.
pub fn look(path: &str) -> FileKind {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => FileKind::Folder,
        Ok(found) if !found.is_file() => FileKind::Special,
        Ok(_) if fs::access(path, fs::Access::EXEC_OK).is_ok() => FileKind::Program,
        Ok(_) => FileKind::File,
        Err(_) => FileKind::Nothing,
    }
}

fn list(number: usize, folder: &Path, files: &mut Files, problems: &mut Vec<Problem>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "ron") {
            continue;
        }
        match path.file_stem().and_then(|stem| stem.to_str()) {
            Some(stem) if is_temporary(stem) => {}
            Some(stem) => {
                files.entry(stem.to_owned()).or_default().push((number, path));
            }
            None => problems.push(
                Problem::whole(&path.display().to_string(), "the file name is not UTF-8, so it cannot name an app")
                    .help("rename the file"),
            ),
        }
    }
    Ok(())
}

/// Whether the file is an editor's and not the operator's: hidden files, and Emacs's `.#x.ron` and `#x.ron`. Other
/// editor files (`x.ron~`, `x.ron.swp`, `4913`, `#x.ron#`) do not end in `.ron`.
fn is_temporary(stem: &str) -> bool {
    stem.starts_with(['.', '#'])
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn unlisted(folder: &Path, error: &io::Error) -> Problem {
    let name = folder.display().to_string();
    match error.kind() {
        io::ErrorKind::NotFound => Problem::whole(&name, "the manifest folder does not exist")
            .help("create it, or remove it from the command line; its manifests are applied as soon as it is there")
            .warning(),
        io::ErrorKind::NotADirectory => {
            Problem::whole(&name, "is not a folder").help("name the folder that holds the manifests")
        }
        io::ErrorKind::PermissionDenied => Problem::whole(&name, "the manifest folder cannot be listed: no permission")
            .help(format!("give uid {} read and search permission on it", rustix::process::geteuid().as_raw())),
        _ => Problem::whole(&name, format!("the manifest folder cannot be listed: {error}"))
            .help("its apps stay as they are until it can be"),
    }
}

/// Whether the error comes from a temporary shortage on this machine, and not from the file or its permissions.
fn may_pass(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const PASSING: [Errno; 8] =
        [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::STALE, Errno::TIMEDOUT, Errno::AGAIN, Errno::INTR];
    Errno::from_io_error(error).is_some_and(|errno| PASSING.contains(&errno))
}

/// The text of an env file; `None` if it does not exist. It decides what runs as our user, as a manifest does, so it must
/// be trusted.
pub fn env_file(path: &str) -> Result<Option<String>, Unread> {
    let path = Path::new(path);
    trust::folder(path.parent().unwrap_or(path)).map_err(|why| format!("is not read: {why}"))?;
    match fs::stat(path) {
        Err(rustix::io::Errno::NOENT) => Ok(None),
        _ => read(path, &ENV_FILE).map(Some),
    }
}

/// A kind of text, as messages name it.
struct TextKind {
    name: &'static str,
    /// The help for a file that is not of this kind.
    way_out: &'static str,
}

const MANIFEST: TextKind =
    TextKind { name: "a manifest", way_out: "remove it, or rename it so that it does not end in `.ron`" };
const ENV_FILE: TextKind = TextKind { name: "an env file", way_out: "name a regular file" };

fn read(path: &Path, kind: &TextKind) -> Result<String, Unread> {
    let file = open(path, kind)?;
    let mut bytes = Vec::new();
    // One byte past the limit shows that the file is too large, without reading the rest.
    file.take(MAX_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Unread { reason: format!("cannot be read: {error}"), may_pass: may_pass(&error) })?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err("is larger than 1 MiB: is it the right file?".to_owned().into());
    }
    Ok(String::from_utf8(bytes).map_err(|error| not_utf8(&error))?)
}

/// Opens a regular file, or a link to one. Refuses others before opening them: to open a FIFO or a device can block
/// forever or have side effects.
fn open(path: &Path, kind: &TextKind) -> Result<File, Unread> {
    let seen = fs::stat(path).map_err(|error| unopened(path, error))?;
    refuse_special(FileType::from_raw_mode(seen.st_mode), kind)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = fs::open(path, flags, Mode::empty()).map_err(|error| unopened(path, error))?;
    let opened = fs::fstat(&file).map_err(|error| unopened(path, error))?;
    refuse_special(FileType::from_raw_mode(opened.st_mode), kind)?;
    trust::file(&file, &opened)?;
    Ok(File::from(file))
}

fn refuse_special(found: FileType, TextKind { name, way_out }: &TextKind) -> Result<(), String> {
    let what = match found {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "a folder",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "no regular file",
    };
    Err(format!("is {what}, not {name}: {way_out}"))
}

fn unopened(path: &Path, error: rustix::io::Errno) -> Unread {
    use rustix::io::Errno;
    let reason = match error {
        Errno::NOENT if path.is_symlink() => "is a link to nothing: put its target in place, or remove the link".into(),
        Errno::LOOP => "is a link that leads back to itself: remove it".into(),
        Errno::ACCESS | Errno::PERM => {
            format!("cannot be read: give uid {} read permission on it", rustix::process::geteuid().as_raw())
        }
        error => format!("cannot be read: {error}"),
    };
    Unread { reason, may_pass: may_pass(&error.into()) }
}

fn not_utf8(error: &std::string::FromUtf8Error) -> String {
    let at = error.utf8_error().valid_up_to();
    let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("is not UTF-8 at byte {at} (line {line}): save it as UTF-8")
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir, write};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::model::loading::source::effective;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn load_one(dir: &tempfile::TempDir) -> Loaded {
        load(&[dir.path().to_owned()])
    }

    fn names(loaded: &Loaded) -> Vec<&str> {
        loaded.sources.iter().map(|source| source.name.as_str()).collect()
    }

    fn reason(loaded: &Loaded) -> &str {
        loaded.sources[0].text.as_ref().unwrap_err()
    }

    #[test]
    fn later_folders_win_by_file_name() {
        let (image, user) = (folder(), folder());
        write(image.path().join("a.ron"), "image").unwrap();
        write(image.path().join("b.ron"), "image").unwrap();
        write(user.path().join("b.ron"), "user").unwrap();
        let loaded = load(&[image.path().to_owned(), user.path().to_owned()]);
        assert_eq!(names(&loaded), ["a", "b"]);
        assert_eq!(loaded.sources[1].text.as_deref(), Ok("user"));
        assert_eq!(loaded.sources[1].file, user.path().join("b.ron").display().to_string());
        assert!(loaded.complete && loaded.problems.is_empty());
    }

    #[test]
    fn all_layers_of_the_sessions_manifest_are_read() {
        let (image, user) = (folder(), folder());
        write(image.path().join("workspace.ron"), "Workspace()").unwrap();
        write(image.path().join("zoo.ron"), "image").unwrap();
        write(user.path().join("workspace.ron"), "user").unwrap();
        let loaded = load(&[image.path().to_owned(), user.path().to_owned()]);
        let texts: Vec<_> = loaded.sources.iter().map(|source| source.text.as_deref().unwrap()).collect();
        assert_eq!(
            (names(&loaded), texts),
            (vec!["workspace", "workspace", "zoo"], vec!["Workspace()", "user", "image"])
        );
        let effective: Vec<_> = effective(&loaded.sources).map(|source| source.text.as_deref().unwrap()).collect();
        assert_eq!(effective, ["user", "image"]);
    }

    #[test]
    fn an_operators_folder_locks_names() {
        let (image, operator, person) = (folder(), folder(), folder());
        write(image.path().join("nav-shim.ron"), "image").unwrap();
        write(operator.path().join("workspace.ron"), r#"Workspace(locked: ["workspace", "nav-shim", "miner"])"#)
            .unwrap();
        for name in ["workspace", "nav-shim", "miner", "web"] {
            write(person.path().join(format!("{name}.ron")), "person").unwrap();
        }
        let folders = [&image, &operator, &person].map(|folder| folder.path().to_owned());
        let loaded = load(&folders);
        let texts: Vec<_> = loaded.sources.iter().map(|source| source.text.as_deref().unwrap()).collect();
        assert_eq!(names(&loaded), ["nav-shim", "web", "workspace"]);
        assert_eq!(texts[..2], ["image", "person"]);
        assert!(texts[2].starts_with("Workspace("), "the operator's");
        assert_eq!(loaded.problems.len(), 3, "{:?}", loaded.problems);
        assert!(loaded.problems.iter().all(|problem| problem.message.contains("locks its name")));
    }

    #[test]
    fn what_others_may_write_is_not_read() {
        use std::os::unix::fs::PermissionsExt;
        let chmod = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let dir = folder();
        write(dir.path().join("a.ron"), "App()").unwrap();
        write(dir.path().join("b.ron"), "App()").unwrap();
        chmod(&dir.path().join("b.ron"), 0o666);
        let loaded = load_one(&dir);
        assert_eq!(loaded.sources[0].text.as_deref(), Ok("App()"));
        assert!(loaded.sources[1].text.as_ref().is_err_and(|why| why.starts_with("may be written by everybody")));
        chmod(dir.path(), 0o777);
        let open = load_one(&dir);
        assert!(open.sources.is_empty() && !open.complete && open.problems[0].is_error(), "{:?}", open.problems);
        let below = dir.path().join("below");
        create_dir(&below).unwrap();
        write(below.join("a.ron"), "App()").unwrap();
        assert!(load(&[below]).sources.is_empty(), "whoever can write above can put another folder in its place");
        chmod(dir.path(), 0o700);
    }

    #[test]
    fn what_the_machine_lacks_just_now_is_worth_another_look() {
        let dir = folder();
        write(dir.path().join("a.ron"), [0xff]).unwrap();
        assert!(!load_one(&dir).look_again, "the file is what it is");
        let code = |errno: rustix::io::Errno| io::Error::from(errno);
        assert!(may_pass(&code(rustix::io::Errno::MFILE)));
        assert!(!may_pass(&code(rustix::io::Errno::ACCESS)));
    }

    #[test]
    fn what_editors_leave_is_no_manifest() {
        let dir = folder();
        for name in [".hidden.ron", ".#a.ron", "#a.ron", "#a.ron#", "a.ron~", ".a.ron.swp", "4913", "a.ron.bak", "ron"]
        {
            write(dir.path().join(name), "").unwrap();
        }
        write(dir.path().join("a.ron"), "App()").unwrap();
        assert_eq!(names(&load_one(&dir)), ["a"]);
    }

    #[test]
    fn a_config_map_is_read_through_its_links() {
        let dir = folder();
        create_dir(dir.path().join("..2026_11_23")).unwrap();
        write(dir.path().join("..2026_11_23/a.ron"), "App()").unwrap();
        symlink("..2026_11_23", dir.path().join("..data")).unwrap();
        symlink("..data/a.ron", dir.path().join("a.ron")).unwrap();
        let loaded = load_one(&dir);
        assert_eq!(names(&loaded), ["a"]);
        assert_eq!(loaded.sources[0].text.as_deref(), Ok("App()"));
    }

    #[test]
    fn a_fifo_is_refused_and_nobody_waits() {
        let dir = folder();
        fs::mknodat(fs::CWD, dir.path().join("a.ron"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(reason(&load_one(&dir)).starts_with("is a FIFO"));
    }

    #[test]
    fn folders_sockets_and_devices_are_refused() {
        for (name, what) in [("folder", "is a folder"), ("socket", "is a socket"), ("device", "is a device")] {
            let dir = folder();
            let path = dir.path().join("a.ron");
            match name {
                "folder" => create_dir(&path).unwrap(),
                "socket" => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
                _ => symlink("/dev/zero", &path).unwrap(),
            }
            let loaded = load_one(&dir);
            assert!(reason(&loaded).starts_with(what), "{name}: {}", reason(&loaded));
        }
    }

    #[test]
    fn links_to_nowhere_say_so() {
        let dir = folder();
        symlink("gone", dir.path().join("a.ron")).unwrap();
        assert!(reason(&load_one(&dir)).starts_with("is a link to nothing"));
        let dir = folder();
        symlink("a.ron", dir.path().join("a.ron")).unwrap();
        assert!(reason(&load_one(&dir)).starts_with("is a link that leads back"));
    }

    #[test]
    fn one_mebibyte_is_a_manifest_and_one_byte_more_is_not() {
        let dir = folder();
        write(dir.path().join("a.ron"), vec![b' '; MAX_SIZE as usize]).unwrap();
        assert!(load_one(&dir).sources[0].text.is_ok());
        write(dir.path().join("a.ron"), vec![b' '; MAX_SIZE as usize + 1]).unwrap();
        assert!(reason(&load_one(&dir)).starts_with("is larger than 1 MiB"));
    }

    #[test]
    fn a_byte_that_is_not_utf8_is_pointed_at() {
        let dir = folder();
        write(dir.path().join("a.ron"), b"App(\n  \xff)").unwrap();
        assert_eq!(reason(&load_one(&dir)), "is not UTF-8 at byte 7 (line 2): save it as UTF-8");
    }

    #[test]
    fn a_missing_folder_is_a_warning_and_the_others_are_read() {
        let dir = folder();
        write(dir.path().join("a.ron"), "App()").unwrap();
        let loaded = load(&[dir.path().join("later"), dir.path().to_owned()]);
        assert_eq!(names(&loaded), ["a"]);
        assert!(loaded.complete && !loaded.problems[0].is_error());
    }

    #[test]
    fn a_folder_that_cannot_be_listed_deletes_no_app() {
        let dir = folder();
        write(dir.path().join("file"), "").unwrap();
        let loaded = load(&[dir.path().join("file")]);
        assert!(!loaded.complete && loaded.problems[0].is_error());
    }

    #[test]
    fn a_file_name_that_is_not_utf8_is_a_problem() {
        let dir = folder();
        write(dir.path().join(std::ffi::OsStr::from_bytes(b"\xff.ron")), "").unwrap();
        let loaded = load_one(&dir);
        assert!(loaded.sources.is_empty());
        assert!(loaded.problems[0].message.contains("not UTF-8"));
    }
}
