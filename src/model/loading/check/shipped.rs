//! What the image's manifests make of the variables that people set: each is an interface with a name, a default and a
//! meaning, and so is the order of the browser's flags.

use std::path::Path;
use std::time::Duration;

use super::tests::{check_with, said};
use super::*;
use crate::model::manifest::backoff::GiveUp;
use crate::model::manifest::hook::{Hook, Locks, OnFailure, Step};
use crate::model::manifest::probe::Target;

/// The image's manifests, on a machine with the image's programs.
fn image(env: &[(&str, &str)]) -> Checked {
    check_with(
        &mut Checker::default(),
        &[&[("CLOAK_HOME", "/opt/cloakbrowser"), ("CLOAK_BIN", "/opt/cloakbrowser/cloakbrowser")], env].concat(),
        &[
            ("cloakbrowser", include_str!("../../../../manifests/cloakbrowser.ron")),
            ("discord", include_str!("../../../../manifests/discord.ron")),
            ("nav-shim", include_str!("../../../../manifests/nav-shim.ron")),
            ("workspace", include_str!("../../../../manifests/workspace.ron")),
        ],
    )
}

fn arguments(app: &str, env: &[(&str, &str)]) -> Vec<String> {
    image(env).apps[app].program.argv[1..].to_vec()
}

/// Whether `wanted` are among the words in this order, perhaps with others between them.
fn in_order(words: &[String], wanted: &[&str]) -> bool {
    let mut words = words.iter();
    wanted.iter().all(|wanted| words.any(|word| word == wanted))
}

const FLAGS: [&str; 12] = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-software-rasterizer",
    "--start-maximized",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    "--user-data-dir=/home/me/.config/cloakbrowser",
    "--remote-debugging-port=9222",
    "--remote-debugging-address=127.0.0.1",
    "https://kbve.com",
];

#[test]
fn the_browser_has_its_flags_in_order_and_the_first_page_last() {
    for env in [&[][..], &[("START_URL", ""), ("CDP_PORT", ""), ("CLOAK_USER_DATA_DIR", ""), ("CLOAK_APP_ARGS", "")]] {
        let words = arguments("cloakbrowser", env);
        assert!(in_order(&words, &FLAGS) && words.last().unwrap() == FLAGS[11], "{words:?}");
    }
}

#[test]
fn each_variable_moves_what_it_names() {
    for (name, value, word) in [
        ("START_URL", "https://example.com/?a=b c", "https://example.com/?a=b c"),
        ("CDP_PORT", "9333", "--remote-debugging-port=9333"),
        ("CLOAK_USER_DATA_DIR", "/data/profile", "--user-data-dir=/data/profile"),
    ] {
        assert!(arguments("cloakbrowser", &[(name, value)]).contains(&word.to_owned()), "{name}");
    }
    let own = image(&[("CLOAK_BIN", "/usr/bin/web")]);
    assert_eq!(own.apps["cloakbrowser"].program.argv[0], "/usr/bin/web");
    let launcher = &image(&[("NAV_SHIM_PORT", "9000"), ("CDP_PORT", "9333")]).apps["nav-shim"].program.env;
    assert_eq!((launcher["NAV_SHIM_PORT"].as_str(), launcher["CDP_PORT"].as_str()), ("9000", "9333"));
}

#[test]
fn an_override_is_shell_words_and_keeps_what_the_launcher_needs() {
    let words = arguments("cloakbrowser", &[("CLOAK_APP_ARGS", "--incognito --user-agent='An agent'")]);
    assert!(
        in_order(&words, &["--incognito", "--user-agent=An agent", FLAGS[8], FLAGS[9], FLAGS[10], FLAGS[11]]),
        "{words:?}"
    );
    assert!(!words.contains(&FLAGS[1].to_owned()), "{words:?}");
    let words = arguments("discord", &[("APP_ARGS", "--no-sandbox --user-agent=\"An agent with spaces\"")]);
    assert_eq!(words, ["--no-sandbox", "--user-agent=An agent with spaces"]);
    assert_eq!(arguments("discord", &[("APP_ARGS", "")]), ["--no-sandbox"]);
}

#[test]
fn a_switch_is_a_word_for_yes_or_no_and_anything_else_is_an_error_with_the_default() {
    for (variable, app) in
        [("LAUNCH_CLOAK", "cloakbrowser"), ("LAUNCH_DISCORD", "discord"), ("LAUNCH_NAV_SHIM", "nav-shim")]
    {
        for (value, enabled) in [
            ("1", true),
            ("true", true),
            ("YES", true),
            ("on", true),
            ("", true),
            ("0", false),
            ("False", false),
            ("no", false),
            ("off", false),
        ] {
            assert_eq!(image(&[(variable, value)]).apps[app].enabled, enabled, "{variable}={value}");
        }
        let wrong = image(&[(variable, "maybe")]);
        assert!(
            wrong.apps[app].enabled && said(&wrong).iter().any(|text| text.contains("maybe")),
            "{:?}",
            said(&wrong)
        );
    }
    for (value, starts) in [("", true), ("1", false), ("0", false), ("anything", false)] {
        assert_eq!(image(&[("DISABLE_CUSTOM_STARTUP", value)]).workspace.autostart, starts, "{value}");
    }
    let maximises = |value| {
        let checked = image(&[("MAXIMIZE", value)]);
        let steps = ["cloakbrowser", "discord"].map(|app| checked.apps[app].hooks.postlaunch[0].step.clone());
        steps.map(|step| matches!(step, Step::Maximize { enabled: true, .. }))
    };
    assert_eq!([maximises(""), maximises("true"), maximises("false")], [[true; 2], [true; 2], [false; 2]]);
}

#[test]
fn the_logs_are_where_they_were_and_the_tokens_reach_the_launcher_alone() {
    let checked = image(&[]);
    for (app, file) in
        [("cloakbrowser", "/tmp/cloakbrowser.log"), ("discord", "/tmp/discord.log"), ("nav-shim", "/tmp/nav_shim.log")]
    {
        let log = &checked.apps[app].log;
        assert_eq!((log.file.as_deref(), log.max_size), (Some(Path::new(file)), 10 << 20));
        for secret in ["URL_LAUNCHER_TOKEN", "URL_LAUNCHER_TOKEN_FILE", "VNC_PW", "VNC_VIEW_ONLY_PW"] {
            let given = app == "nav-shim" && secret != "VNC_VIEW_ONLY_PW";
            assert_eq!(checked.apps[app].program.env_hidden.contains(secret), !given, "{app}: {secret}");
        }
    }
    assert_eq!(said(&checked), [""; 0]);
}

/// A step in short: its kind, and the program or folder that it is about.
fn brief(hook: &Hook) -> String {
    match &hook.step {
        Step::WaitFor { what: Target::Display } => "display".into(),
        Step::Run { argv, if_present: true } => argv.join(" "),
        Step::MakeDir { path } => format!("make {}", path.display()),
        Step::ClearLocks { locks: Locks::Profile { dir, .. } } => format!("locks {}", dir.display()),
        Step::SeedJson { file, .. } => format!("seed {}", file.display()),
        step => panic!("{step:?}"),
    }
}

#[test]
fn each_start_waits_for_the_desktop_not_for_ever_and_clears_stale_locks() {
    let checked = image(&[]);
    for (app, folder, seed) in
        [("cloakbrowser", "/home/me/.config/cloakbrowser", false), ("discord", "/home/me/.config/discord", true)]
    {
        let steps = &checked.apps[app].hooks.prelaunch;
        let mut wanted = vec!["display".into(), "/usr/bin/filter_ready".into(), "/usr/bin/desktop_ready".into()];
        wanted.extend([format!("make {folder}"), format!("locks {folder}")]);
        wanted.extend(seed.then(|| format!("seed {folder}/settings.json")));
        assert_eq!(steps.iter().map(brief).collect::<Vec<_>>(), wanted, "{app}");
        for step in steps {
            assert!(step.timeout <= Duration::from_secs(30), "{step:?}");
            let upstreams = matches!(step.step, Step::Run { .. });
            assert!(!upstreams || step.on_failure == OnFailure::Continue, "{step:?}");
        }
    }
}

#[test]
fn waits_grow_from_three_to_thirty_seconds_and_no_app_is_given_up() {
    let checked = image(&[]);
    for app in ["cloakbrowser", "discord"] {
        let backoff = &checked.apps[app].policy.backoff;
        let waits: Vec<u64> = (1..=6).map(|attempt| backoff.wait(attempt, 0.9).as_secs()).collect();
        assert_eq!(waits, [3, 6, 12, 24, 30, 30], "{app}");
        assert_eq!((backoff.stable_after, backoff.give_up), (Duration::from_secs(2), GiveUp::Never), "{app}");
    }
    assert_eq!(checked.apps["nav-shim"].policy.backoff.give_up, GiveUp::Never);
}

#[test]
fn discord_is_seeded_before_each_start_and_a_reset_keeps_the_login() {
    let discord = image(&[]).apps["discord"].clone();
    let seeds = discord.hooks.prelaunch.iter().find_map(|hook| match &hook.step {
        Step::SeedJson { set, default, .. } => Some((set.clone(), default.clone())),
        _ => None,
    });
    let (set, default) = seeds.expect("a seed");
    assert_eq!(serde_json::to_value(set).unwrap(), serde_json::json!({ "SKIP_HOST_UPDATE": true }));
    let defaults = serde_json::json!({
        "IS_MAXIMIZED": true, "IS_MINIMIZED": false, "trayBalloonShown": true, "openasmaximized": true,
    });
    assert_eq!(serde_json::to_value(default).unwrap(), defaults);
    let cleared: Vec<String> = discord.hooks.actions["reset"]
        .iter()
        .map(|hook| match &hook.step {
            Step::ClearDir { path } => path.file_name().unwrap().to_string_lossy().into_owned(),
            step => panic!("{step:?}"),
        })
        .collect();
    assert_eq!(cleared, ["Cache", "Code Cache", "GPUCache", "Shared Dictionary"]);
}
