//! The numbers of the built-in session: a display and three ports. Finds the first display whose ports are free too.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::{Context, bail};

use super::Environment;
use crate::host::{marks, proc, socket};

/// The variables with the built-in session's numbers, each with its offset from the display number.
const NUMBERS: [(&str, u16); 4] = [("DISPLAY_NUMBER", 0), ("VNC_PORT", 5900), ("NOVNC_PORT", 6073), ("CDP_PORT", 9215)];
const FIRST_DISPLAY: u16 = 7;
const LAST_DISPLAY: u16 = 99;

/// The numbers for a session with this state folder, by the name of their variable.
///
/// # Errors
/// Every display or its ports are taken, or a given number is not one.
pub fn choose(given: &dyn Fn(&str) -> Option<String>, state: &Path) -> anyhow::Result<Environment> {
    free_numbers(given, &|number| display(number, state), &port_is_free)
}

/// Whether a display is in use, and by which session.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Display {
    Free,
    Taken,
    /// Used by an X server of this session that has outlived its supervisor and guard.
    Ours,
}

/// Finds the first free display whose ports are free too. Numbers that are `given` are used, or refused if they are
/// taken.
fn free_numbers(
    given: &dyn Fn(&str) -> Option<String>,
    display: &dyn Fn(u16) -> Display,
    port_is_free: &dyn Fn(u16) -> bool,
) -> anyhow::Result<Environment> {
    let mut named = BTreeMap::new();
    for (name, _) in NUMBERS {
        let Some(text) = given(name) else { continue };
        let number = text.parse::<u16>().ok().with_context(|| format!("{name} is `{text}`, which is not a number"))?;
        named.insert(name, number);
    }
    let ports_are_free = |number: u16| {
        NUMBERS[1..].iter().all(|(name, base)| named.contains_key(name) || port_is_free(base.saturating_add(number)))
    };
    let usable = |number: &u16| match display(*number) {
        Display::Ours => true,
        Display::Free => ports_are_free(*number),
        Display::Taken => false,
    };
    let number = match named.get(NUMBERS[0].0).copied() {
        Some(number) if display(number) == Display::Taken => {
            bail!("display :{number} is in use: choose another one, or none to use the first that is free")
        }
        Some(number) => number,
        None => (FIRST_DISPLAY..=LAST_DISPLAY).find(usable).with_context(|| {
            format!("displays :{FIRST_DISPLAY} to :{LAST_DISPLAY} or their ports are all taken: free one of them")
        })?,
    };
    if let Some((name, port)) = named.iter().find(|(name, port)| **name != NUMBERS[0].0 && !port_is_free(**port))
        && display(number) == Display::Free
    {
        bail!("port {port} ({name}) is in use: choose another one");
    }
    let value = |name, base: u16| named.get(name).copied().unwrap_or_else(|| base.saturating_add(number)).to_string();
    Ok(NUMBERS.iter().map(|(name, base)| (name.to_string(), value(name, *base))).collect())
}

fn display(number: u16, state: &Path) -> Display {
    let lock = fs::read_to_string(format!("/tmp/.X{number}-lock")).unwrap_or_default();
    let owner = lock.trim().parse().ok().and_then(proc::process).filter(|owner| !owner.zombie);
    if let Some(owner) = owner {
        let environment = proc::environment(owner.pid);
        let is = |name: &str, what: &dyn Fn(&str) -> bool| {
            proc::variable(&environment, name).is_some_and(|value| what(&value))
        };
        let ours =
            is(marks::APP, &|app| app.starts_with("display:")) && is(marks::STATE, &|its| Path::new(its) == state);
        return if ours { Display::Ours } else { Display::Taken };
    }
    let path = format!("/tmp/.X11-unix/X{number}");
    let answers = socket::answers(&socket::connect(Path::new(&path)))
        || socket::answers(&socket::connect_abstract(path.as_bytes()));
    if answers { Display::Taken } else { Display::Free }
}

fn port_is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers, or why there are none, on a machine where these displays and ports are taken.
    fn numbers(given: &[(&str, &str)], taken: &[u16], ours: &[u16], ports: &[u16]) -> Result<[u16; 4], String> {
        let given = |name: &str| given.iter().find(|(its, _)| *its == name).map(|(_, value)| value.to_string());
        let display = |number| match (taken.contains(&number), ours.contains(&number)) {
            (_, true) => Display::Ours,
            (true, _) => Display::Taken,
            _ => Display::Free,
        };
        let chosen = free_numbers(&given, &display, &|port| !ports.contains(&port)).map_err(|why| why.to_string())?;
        Ok(NUMBERS.map(|(name, _)| chosen[name].parse().unwrap()))
    }

    #[test]
    fn numbers_are_free_ones_of_one_display() {
        assert_eq!(numbers(&[], &[], &[], &[]), Ok([7, 5907, 6080, 9222]));
        assert_eq!(numbers(&[], &[7], &[], &[]), Ok([8, 5908, 6081, 9223]));
        assert_eq!(numbers(&[], &[], &[], &[6080, 9223]), Ok([9, 5909, 6082, 9224]));
        assert_eq!(numbers(&[("NOVNC_PORT", "7000")], &[], &[], &[6080]), Ok([7, 5907, 7000, 9222]));
        assert_eq!(numbers(&[("DISPLAY_NUMBER", "30")], &[7], &[], &[]), Ok([30, 5930, 6103, 9245]));
        assert_eq!(numbers(&[], &[], &[9], &[6080, 6081, 6082]), Ok([9, 5909, 6082, 9224]), "ours holds its own ports");
        let ours = numbers(&[("DISPLAY_NUMBER", "9"), ("NOVNC_PORT", "6082")], &[], &[9], &[6082]);
        assert_eq!(ours, Ok([9, 5909, 6082, 9224]));
    }

    #[test]
    fn a_number_that_cannot_be_used_is_refused_by_name() {
        let everything: Vec<u16> = (0..=200).collect();
        for (given, taken, ports, part) in [
            (vec![], &everything[..], &[][..], "all taken"),
            (vec![("DISPLAY_NUMBER", "8")], &[8], &[], "display :8 is in use"),
            (vec![("NOVNC_PORT", "6080")], &[], &[6080], "port 6080 (NOVNC_PORT) is in use"),
            (vec![("VNC_PORT", "70000")], &[], &[], "VNC_PORT is `70000`"),
            (vec![("DISPLAY_NUMBER", "eight")], &[], &[], "DISPLAY_NUMBER is `eight`"),
        ] {
            let why = numbers(&given, taken, &[], ports).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
