//! The home folder of our user.

use super::accounts;

/// `HOME`, else the entry in `/etc/passwd`. `None` if neither names a folder.
pub fn folder(variable: Option<&str>) -> Option<String> {
    let known = variable.filter(|home| !home.is_empty()).map(str::to_owned);
    known.or_else(|| accounts::home(rustix::process::geteuid().as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_folder_is_the_users_own() {
        assert_eq!(folder(Some("/elsewhere")).as_deref(), Some("/elsewhere"));
        assert_eq!(accounts::home(0).as_deref(), Some("/root"));
        assert_eq!(accounts::home(4_000_000_000), None);
    }
}
