//! Users and groups, from the texts of `/etc/passwd` and `/etc/group`: who an app runs as.

use crate::model::spelling::closest;

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswdEntry<'a> {
    /// The login name.
    pub name: &'a str,
    /// The user's number.
    pub uid: u32,
    /// The number of the primary group.
    pub gid: u32,
    /// The home folder; may be empty.
    pub home: &'a str,
    /// The login shell; may be empty.
    pub shell: &'a str,
}

/// The numbers and variables of a process that runs as a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// The user's number.
    pub uid: u32,
    /// The number of the group that new files get.
    pub gid: u32,
    /// The other groups, with `gid`.
    pub groups: Vec<u32>,
    /// The home folder; `/` for a user without one.
    pub home: String,
    /// `HOME`, `USER`, `LOGNAME` and `SHELL`, as far as they are known.
    pub variables: Vec<(&'static str, String)>,
}

/// Looks up the user and group that an app runs as, each given by name or number.
///
/// # Errors
/// There is no such user or group, or the number of a user says nothing about the group.
pub fn run_as(passwd: &str, groups: &str, user: &str, group: Option<&str>) -> Result<RunAs, String> {
    let gid = group.map(|group| gid(groups, group)).transpose()?;
    let account = account(passwd, user);
    let number = user.parse().map_err(|_| unknown("user", user, passwd));
    let uid = account.as_ref().map_or(number, |account| Ok(account.uid))?;
    let gid = gid.or(account.as_ref().map(|account| account.gid));
    let gid =
        gid.ok_or_else(|| format!("the user {uid} is not in /etc/passwd, so its group is not known: add `group`"))?;
    let others = account.iter().flat_map(|account| memberships(groups, account.name));
    let mut groups: Vec<u32> = std::iter::once(gid).chain(others).collect();
    groups.sort_unstable();
    groups.dedup();
    let home = account.as_ref().map(|account| account.home).filter(|home| home.starts_with('/')).unwrap_or("/");
    let mut variables = vec![("HOME", home.to_owned())];
    if let Some(PasswdEntry { name, shell, .. }) = account {
        let shell = if shell.is_empty() { "/bin/sh" } else { shell };
        variables.extend([("USER", name.into()), ("LOGNAME", name.into()), ("SHELL", shell.into())]);
    }
    Ok(RunAs { uid, gid, groups, home: home.into(), variables })
}

/// The account of this name or number.
pub fn account<'a>(passwd: &'a str, user: &str) -> Option<PasswdEntry<'a>> {
    let number: Option<u32> = user.parse().ok();
    let accounts = || passwd.lines().filter_map(read);
    accounts().find(|account| account.name == user).or_else(|| accounts().find(|account| Some(account.uid) == number))
}

fn read(line: &str) -> Option<PasswdEntry<'_>> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
    Some(PasswdEntry { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home, shell })
}

/// The number of the group of this name or number. A number needs no entry.
fn gid(groups: &str, group: &str) -> Result<u32, String> {
    let named = entries(groups).find(|(name, ..)| *name == group).map(|(_, gid, _)| gid);
    named.or_else(|| group.parse().ok()).ok_or_else(|| unknown("group", group, groups))
}

/// The groups that list this user as a member.
fn memberships<'a>(groups: &'a str, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    entries(groups)
        .filter(move |(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
}

fn entries(groups: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    groups.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members] = fields[..] else { return None };
        Some((name, gid.parse().ok()?, members))
    })
}

fn unknown(kind: &str, name: &str, text: &str) -> String {
    let names = text.lines().filter_map(|line| line.split(':').next());
    match closest(name, names) {
        Some(near) => format!("there is no {kind} `{name}` on this machine: did you mean `{near}`?"),
        None => format!("there is no {kind} `{name}` on this machine: create it, or use a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n#bad\nweb:x:1000:1001:Web,,,:/home/web:/bin/zsh\n\
        no:x:7:7:::\nshort:x:8:8\n+::::::\n";
    const GROUPS: &str = "root:x:0:\nweb:x:1001:\naudio:x:29:web,other\nvideo:x:44:other,web\nwebs:x:45:website\nbad\n";

    fn run_as(user: &str, group: Option<&str>) -> Result<RunAs, String> {
        super::run_as(PASSWD, GROUPS, user, group)
    }

    #[test]
    fn a_user_brings_groups_and_variables() {
        let web = RunAs {
            uid: 1000,
            gid: 1001,
            groups: vec![29, 44, 1001],
            home: "/home/web".into(),
            variables: vec![
                ("HOME", "/home/web".into()),
                ("USER", "web".into()),
                ("LOGNAME", "web".into()),
                ("SHELL", "/bin/zsh".into()),
            ],
        };
        assert_eq!(run_as("web", None), Ok(web.clone()));
        assert_eq!(run_as("1000", None), Ok(web.clone()), "by number");
        let audio = RunAs { gid: 29, groups: vec![29, 44], ..web };
        assert_eq!(run_as("web", Some("audio")), Ok(audio.clone()));
        assert_eq!(run_as("web", Some("29")), Ok(audio));
    }

    #[test]
    fn a_user_with_an_incomplete_entry_gets_what_is_safe() {
        let no = run_as("no", None).unwrap();
        assert_eq!((no.uid, no.gid, no.home.as_str()), (7, 7, "/"));
        assert!(no.variables.contains(&("SHELL", "/bin/sh".into())));
        let number = run_as("12345", Some("54321")).unwrap();
        assert_eq!((number.uid, number.groups), (12345, vec![54321]));
        assert_eq!(number.variables, [("HOME", "/".into())]);
    }

    #[test]
    fn who_is_not_there_is_said() {
        for (user, group, said) in [
            ("webb", None, "there is no user `webb` on this machine: did you mean `web`?"),
            ("nobody-at-all", None, "there is no user `nobody-at-all` on this machine: create it, or use a number"),
            ("web", Some("vidoe"), "there is no group `vidoe` on this machine: did you mean `video`?"),
            ("12345", None, "the user 12345 is not in /etc/passwd, so its group is not known: add `group`"),
            ("-1", None, "there is no user `-1` on this machine: create it, or use a number"),
            ("", None, "there is no user `` on this machine: create it, or use a number"),
        ] {
            assert_eq!(run_as(user, group), Err(said.into()), "{user} {group:?}");
        }
    }
}
