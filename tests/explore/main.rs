//! Explores whole sessions: the real guard, supervisor, app machine and tree rules of the model, composed, in a world
//! where processes die and fork, people ask and edit, and everything may be killed between any two steps. Every order of
//! events is tried, up to a number of things that happen. What must never be seen is in `promises`.
//!
//! `cargo test --test explore` explores each story, and then puts known bugs back to see that each of them is found.
//! `cargo test --test explore -- --depth 4` lets more happen, and `--story NAME` explores one story alone.
//! This file owns the command line and what is printed; `stories` owns what is explored.

mod container;
mod guarding;
mod hands;
mod jobs;
mod kernel;
mod promises;
mod stories;
mod supervising;
mod upgrading;
mod walk;
mod world;

use std::process::ExitCode;

use stories::{Chapter, bugs, stories};
use walk::{Seen, walk};
use world::{Step, World};

const NAME: &str = "explore";

#[derive(Default)]
struct Arguments {
    /// How many things happen in each story, instead of what it says itself.
    depth: Option<usize>,
    /// Only this story.
    story: Option<String>,
    /// A test runner asks for the list of tests.
    list: bool,
    /// The filters of a test runner do not select this test.
    unwanted: bool,
}

fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{NAME}: {why}; --depth N and --story NAME are what it takes");
            return ExitCode::from(2);
        }
    };
    match (arguments.unwanted, arguments.list) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => {
            println!("{NAME}: test");
            ExitCode::SUCCESS
        }
        (false, false) if explore(&arguments) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let mut ignored = false;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--depth" => {
                let depth = words.next().unwrap_or_default();
                arguments.depth = Some(depth.parse().map_err(|_| format!("`{depth}` is not a number"))?);
            }
            "--story" => arguments.story = words.next(),
            // What test runners pass.
            "--list" => arguments.list = true,
            "--ignored" => ignored = true,
            "--include-ignored" | "--exact" | "--nocapture" | "--show-output" | "--quiet" | "-q" => {}
            "--format" | "--color" | "--test-threads" | "--skip" => drop(words.next()),
            other if other.starts_with('-') => return Err(format!("there is no {other}")),
            filter => arguments.unwanted |= !NAME.contains(filter),
        }
    }
    arguments.unwanted |= ignored;
    Ok(arguments)
}

/// Returns whether every promise was kept, and every bug found.
fn explore(arguments: &Arguments) -> bool {
    let mut good = true;
    let wanted = |name: &str| arguments.story.as_deref().is_none_or(|only| only == name);
    for Chapter { name, depth, story } in stories().into_iter().filter(|chapter| wanted(chapter.name)) {
        let depth = arguments.depth.unwrap_or(depth);
        let seen = walk(World::new(story, depth));
        println!("{name}: {}", counted(&seen, depth));
        if let Some(wrong) = &seen.wrong {
            good = false;
            println!("  {}, after:", wrong.promise);
            wrong.way.iter().for_each(|step| println!("    {step:?}"));
        }
    }
    for Chapter { depth, story, .. } in bugs().into_iter().filter(|chapter| wanted(chapter.name)) {
        let seen = walk(World::new(story, depth));
        match &seen.wrong {
            Some(wrong) => println!("{:?} is found after {} steps: {}", story.bugs, wrong.way.len(), wrong.promise),
            None => println!("{:?} is not found: {}", story.bugs, counted(&seen, depth)),
        }
        good &= seen.wrong.is_some();
    }
    good
}

fn counted(seen: &Seen<Step>, depth: usize) -> String {
    let Seen { states, steps, longest, took, .. } = seen;
    let took = took.as_secs_f64();
    format!("{depth} things happen: {states} states, {steps} steps, the longest way has {longest}; {took:.1} s")
}
