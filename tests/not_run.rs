//! Reports which tests could not run on this machine, so that a pass does not hide them. `tests/run.sh` collects the
//! reports and prints them at the end.

use std::io::Write;

/// The file that `tests/run.sh` reads.
const GATHERED: &str = "KASM_VOID_NOT_RUN";

pub fn not_run(what: &str, why: &str) {
    eprintln!("not run: {what}: {why}");
    if let Some(path) = std::env::var_os(GATHERED) {
        let file = std::fs::File::options().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{what} ({why})"));
        written.unwrap_or_else(|error| panic!("cannot note it in {}: {error}", path.display()));
    }
}
