//! The users and groups of this machine, as far as they are in `/etc/passwd` and `/etc/group`. Other sources (LDAP and
//! the like) are not asked: they may take long to answer, and a start must not wait for them.

use std::fs;

use crate::model::accounts::{self, RunAs};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Looks up the user and group that an app runs as, each given by name or number.
///
/// # Errors
/// There is no such user or group, or the files cannot be read.
pub fn run_as(user: &str, group: Option<&str>) -> Result<RunAs, String> {
    let read = |file: &str| {
        let bytes = fs::read(file).map_err(|error| format!("cannot read {file}: {error}"))?;
        Ok::<_, String>(String::from_utf8_lossy(&bytes).into_owned())
    };
    accounts::run_as(&read(PASSWD)?, &read(GROUP)?, user, group)
}

/// The home folder of this user. `None` if it is not known.
pub fn home(uid: u32) -> Option<String> {
    let passwd = String::from_utf8_lossy(&fs::read(PASSWD).ok()?).into_owned();
    let account = accounts::account(&passwd, &uid.to_string())?;
    account.home.starts_with('/').then(|| account.home.to_owned())
}
