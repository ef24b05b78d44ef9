//! Reads files that hold a secret, such as a token. A file that everybody can read is refused. No error contains a part
//! of the secret.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Longest file in bytes, far longer than any secret.
const LONGEST: u64 = 64 << 10;
/// Longest file with one secret.
const LONGEST_OF_ONE: usize = 4096;

/// The one secret in a file, without white space around it. `named` is the file in error texts.
pub fn read(path: &Path, named: &str) -> Result<String, String> {
    let text = read_whole(path, named)?;
    if text.len() > LONGEST_OF_ONE {
        return Err(format!("{named} is longer than {LONGEST_OF_ONE} bytes: this is not a token"));
    }
    match text.trim() {
        "" => Err(format!("{named} is empty: write the token into it, or do not name it")),
        token => Ok(token.to_owned()),
    }
}

/// The text of a file that may hold several secrets.
pub fn read_whole(path: &Path, named: &str) -> Result<String, String> {
    let failed = |error| format!("cannot read the token from {named}: {error}");
    // A named pipe must not block us.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{named} is not a file"));
    }
    if metadata.mode() & 0o004 != 0 {
        return Err(format!("everybody can read the token in {named}: run `chmod o-r` on it"));
    }
    let mut text = String::new();
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(failed)?;
    match text.len() as u64 > LONGEST {
        true => Err(format!("{named} is longer than {LONGEST} bytes: it holds no secrets")),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn why(path: &Path) -> String {
        read(path, &path.display().to_string()).unwrap_err()
    }

    #[test]
    fn a_file_that_cannot_be_one_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        assert!(why(&path).contains("not a file"));
        assert!(why(&folder.path().join("none")).contains("cannot read the token"));
        for length in [LONGEST_OF_ONE + 1, LONGEST as usize + 1] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(&file, "x".repeat(length)).unwrap();
            assert!(why(file.path()).contains("longer than"));
        }
    }
}
