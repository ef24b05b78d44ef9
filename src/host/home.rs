//! The home folder of our user.

use std::path::Path;

/// `HOME`, else the entry in `/etc/passwd`. `None` if neither names a folder.
pub fn folder(variable: Option<&str>) -> Option<String> {
    let known = variable.filter(|home| !home.is_empty()).map(str::to_owned);
    known.or_else(|| {
        let passwd = std::fs::read_to_string(Path::new("/etc/passwd")).ok()?;
        entry(&passwd, rustix::process::geteuid().as_raw()).map(str::to_owned)
    })
}

/// The home folder in the passwd entry of this user.
fn entry(passwd: &str, uid: u32) -> Option<&str> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut own = fields.filter(|fields| fields.get(2).and_then(|id| id.parse().ok()) == Some(uid));
    own.next()?.get(5).copied().filter(|home| home.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_folder_is_the_users_own() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n#bad\nme:x:1000:1000::/home/me:/bin/sh\nno:x:7:7:::\n";
        assert_eq!((entry(passwd, 0), entry(passwd, 1000)), (Some("/root"), Some("/home/me")));
        assert_eq!((entry(passwd, 7), entry(passwd, 65534)), (None, None));
        assert_eq!(folder(Some("/elsewhere")).as_deref(), Some("/elsewhere"));
    }
}
