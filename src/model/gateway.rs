//! The decisions of the gateway: which callers are let in, where a request goes and how it is answered, and the list of
//! workspaces as its clients see it. Pure, like the rest of the model: `crate::gateway` reads files, watches the cluster and
//! sends requests.

pub mod apps;
pub mod auth;
pub mod cluster;
pub mod launch;
pub mod list;
pub mod openapi;
pub mod route;
pub mod settings;
pub mod view;

/// The rule for names of workspaces, as text.
pub const NAME_RULE: &str = "use up to 63 letters, digits and hyphens";

/// Whether this can be the name of a workspace.
pub fn is_workspace_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for name in ["a", "kasm-vpn", "-", "A1", &"x".repeat(63)] {
            assert!(is_workspace_name(name), "{name}");
        }
        for name in ["", "a.b", "a_b", "a/b", "..", "ä", "a b", "a\n", &"x".repeat(64)] {
            assert!(!is_workspace_name(name), "{name}");
        }
    }
}
