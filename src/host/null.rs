//! The file that is always empty, `/dev/null`.

use std::fs::File;
use std::io;

/// Opens it for reading.
///
/// # Errors
/// It is missing, as in a container or a chroot without `/dev`. The error says how to get it.
pub fn open() -> io::Result<File> {
    let way_out = "mount /dev, or run `mknod -m 666 /dev/null c 1 3`";
    File::open("/dev/null")
        .map_err(|error| io::Error::new(error.kind(), format!("/dev/null cannot be opened: {error}: {way_out}")))
}
