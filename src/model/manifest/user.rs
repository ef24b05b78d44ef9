//! `user` and `group`: who an app runs as. Check.

use crate::model::manifest::fields::Fields;

/// The user and the group, each by name or number.
pub fn check(user: Option<String>, group: Option<String>, fields: &mut Fields<'_>) -> (Option<String>, Option<String>) {
    let user = user.map(|user| fields.text("user", user));
    let group = group.map(|group| fields.text("group", group));
    for (field, name) in [("user", &user), ("group", &group)] {
        if name.as_ref().is_some_and(String::is_empty) {
            fields.error(field, "the name is empty", format!("name a {field}, or leave the field out"));
        }
    }
    if group.is_some() && user.is_none() {
        fields.mismatch("group", "`group` needs `user`", "name the user too, by name or number");
    }
    (user, group)
}
