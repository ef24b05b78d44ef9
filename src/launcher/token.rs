//! The bearer token: reads it, and compares it with the one in a request. Only `kasm-void open` gets the token itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use subtle::ConstantTimeEq;

use crate::host::secret;

/// The variable that names the token file. The file is read again for every request, because secrets rotate.
pub const FILE: &str = "URL_LAUNCHER_TOKEN_FILE";
/// The variables that hold the token if no file is named. The first one that is not empty counts.
pub const VARIABLES: [&str; 2] = ["URL_LAUNCHER_TOKEN", "VNC_PW"];

/// A token with fewer characters can be guessed, because an attacker with many addresses has many tries.
const SHORT: usize = 16;

/// The source of the token.
pub struct Token {
    file: Option<PathBuf>,
    variable: Option<String>,
    /// The last warning about the file, so that it is not repeated.
    warned: Mutex<Option<String>>,
}

impl Token {
    /// Reads the settings from the environment through `variable`.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &&str| Some(set(name)?.to_str()?.trim().to_owned()).filter(|text| !text.is_empty());
        Token {
            file: set(FILE).map(PathBuf::from),
            variable: VARIABLES.iter().find_map(text),
            warned: Mutex::default(),
        }
    }

    /// The token, if there is one. A file that cannot be read or trusted is an error, without a fallback to a variable:
    /// if a file is named, the password that is also set is not meant.
    pub fn get(&self) -> Result<Option<String>, String> {
        match &self.file {
            None => Ok(self.variable.clone()),
            Some(file) => read(file).map(Some),
        }
    }

    /// Whether this `Authorization` header contains the token.
    pub fn is_in(&self, header: &[u8]) -> bool {
        let token = self.get();
        self.warn_once(token.as_ref().err());
        let (Ok(Some(token)), Some(sent)) = (token, bearer(header)) else { return false };
        sent.ct_eq(token.as_bytes()).into()
    }

    /// Logs a warning if there is no token, or if it is short.
    pub fn warn_when_missing(&self) {
        let token = self.get();
        self.warn_once(token.as_ref().err());
        match token {
            Ok(None) => tracing::warn!(
                event = "launcher.no_token",
                help = format!("set {FILE}, {} or {}", VARIABLES[0], VARIABLES[1]),
                "no token is set: every request to open a page will be refused"
            ),
            Ok(Some(token)) if token.len() < SHORT => tracing::warn!(
                event = "launcher.short_token",
                help = "use 32 random characters, as from `openssl rand -hex 16`",
                "the token has fewer than {SHORT} characters, so it can be guessed"
            ),
            _ => {}
        }
    }

    fn warn_once(&self, why: Option<&String>) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = why.filter(|why| warned.as_ref() != Some(*why)) {
            tracing::warn!(event = "launcher.token_refused", "every request to open a page will be refused: {why}");
        }
        *warned = why.cloned();
    }
}

fn read(path: &Path) -> Result<String, String> {
    secret::read(path, &format!("{} ({FILE})", path.display()))
}

/// The token after the scheme `Bearer`, which is compared without case.
pub fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.trim_ascii().split_at_checked("bearer".len())?;
    let spaced = token.first().is_some_and(u8::is_ascii_whitespace);
    (scheme.eq_ignore_ascii_case(b"bearer") && spaced).then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn of(variables: &[(&str, &str)]) -> Token {
        Token::new(|name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into()))
    }

    struct Secret(tempfile::NamedTempFile);

    impl Secret {
        fn new(text: &str) -> Self {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(&file, text).unwrap();
            Secret(file)
        }

        fn with(&self, others: &[(&str, &str)]) -> Token {
            of(&[&[(FILE, self.0.path().to_str().unwrap())], others].concat())
        }
    }

    #[test]
    fn the_first_that_is_not_empty_counts() {
        for (variables, expected) in [
            (&[("URL_LAUNCHER_TOKEN", "a"), ("VNC_PW", "b")][..], Some("a")),
            (&[("URL_LAUNCHER_TOKEN", " \n"), ("VNC_PW", " b ")], Some("b")),
            (&[("URL_LAUNCHER_TOKEN", ""), (FILE, "")], None),
            (&[], None),
        ] {
            assert_eq!(of(variables).get().unwrap().as_deref(), expected, "{variables:?}");
        }
        assert_eq!(Secret::new("f\n").with(&[("VNC_PW", "b")]).get(), Ok(Some("f".into())));
    }

    #[test]
    fn only_the_whole_token_opens() {
        let token = of(&[("URL_LAUNCHER_TOKEN", "s3cret")]);
        for header in ["Bearer s3cret", "bearer s3cret", "BEARER \t s3cret  "] {
            assert!(token.is_in(header.as_bytes()), "{header}");
        }
        for header in
            ["", "Bearer", "Bearer ", "s3cret", "Basic s3cret", "Bearers3cret", "Bearer s3cre", "Bearer s3cret2"]
        {
            assert!(!token.is_in(header.as_bytes()), "{header}");
        }
        assert!(!token.is_in(b"Bearer \xff\xfe"));
    }

    #[test]
    fn without_a_token_nothing_opens() {
        for header in ["Bearer ", "Bearer", "", "Bearer x"] {
            assert!(!of(&[]).is_in(header.as_bytes()), "{header:?}");
        }
    }

    #[test]
    fn a_rotated_token_counts_at_once() {
        let secret = Secret::new("old");
        let token = secret.with(&[]);
        assert!(token.is_in(b"Bearer old"));
        fs::write(&secret.0, "new").unwrap();
        assert!(token.is_in(b"Bearer new") && !token.is_in(b"Bearer old"));
    }

    #[test]
    fn a_file_that_everybody_reads_opens_nothing_and_neither_does_a_password_beside_it() {
        let secret = Secret::new("s3cret");
        let token = secret.with(&[("VNC_PW", "password")]);
        fs::set_permissions(&secret.0, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!token.is_in(b"Bearer s3cret") && !token.is_in(b"Bearer password"));
        assert!(token.get().unwrap_err().contains("everybody can read"));
    }

    #[test]
    fn an_empty_file_opens_nothing_and_neither_does_a_password_beside_it() {
        for text in ["", "\n", " \t\r\n"] {
            let secret = Secret::new(text);
            let token = secret.with(&[("VNC_PW", "password")]);
            assert!(token.get().unwrap_err().contains("is empty") && !token.is_in(b"Bearer password"));
        }
    }
}
