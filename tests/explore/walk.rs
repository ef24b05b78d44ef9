//! Walks every reachable state of a world, breadth first: the way to the first mistake is a shortest one.

use std::collections::{HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::time::{Duration, Instant};

/// A world that can be explored.
pub trait Explored: Clone + Hash {
    type Step: Clone + Debug;

    /// Everything that can happen next. Empty if the world has come to rest and nothing more will happen to it.
    fn steps(&self) -> Vec<Self::Step>;

    /// What is wrong with the world as it is, if anything.
    fn wrong(&self) -> Option<String>;

    /// The world after this step, or which promise the step has broken.
    fn after(&self, step: &Self::Step) -> Result<Self, String>;
}

/// What a walk has seen.
pub struct Seen<Step> {
    pub states: usize,
    pub steps: usize,
    /// The longest way from the beginning, in steps.
    pub longest: usize,
    pub took: Duration,
    pub wrong: Option<Wrong<Step>>,
}

/// A promise that is broken, and a shortest way there.
pub struct Wrong<Step> {
    pub promise: String,
    pub way: Vec<Step>,
}

/// More steps than this without a mistake mean that the world does not come to rest.
const NEVER: usize = 400;

pub fn walk<World: Explored>(first: World) -> Seen<World::Step> {
    let began = Instant::now();
    let hasher = BuildHasherDefault::<DefaultHasher>::new();
    let mut known = HashSet::from([hasher.hash_one(&first)]);
    // For each state: the state before it, the step, and how many steps led there.
    let mut from: Vec<(usize, Option<World::Step>, usize)> = vec![(0, None, 0)];
    let mut queue = VecDeque::from([(0, first)]);
    let mut seen = Seen { states: 1, steps: 0, longest: 0, took: Duration::ZERO, wrong: None };
    'walk: while let Some((at, world)) = queue.pop_front() {
        let length = from[at].2;
        seen.longest = seen.longest.max(length);
        let endless = (length > NEVER).then(|| "it never comes to rest".to_string());
        if let Some(promise) = world.wrong().or(endless) {
            seen.wrong = Some(Wrong { promise, way: way(&from, at, None) });
            break;
        }
        for step in world.steps() {
            seen.steps += 1;
            match world.after(&step) {
                Ok(next) => {
                    if known.insert(hasher.hash_one(&next)) {
                        from.push((at, Some(step), length + 1));
                        queue.push_back((from.len() - 1, next));
                    }
                }
                Err(promise) => {
                    seen.wrong = Some(Wrong { promise, way: way(&from, at, Some(step)) });
                    break 'walk;
                }
            }
        }
    }
    (seen.states, seen.took) = (known.len(), began.elapsed());
    seen
}

fn way<Step: Clone>(from: &[(usize, Option<Step>, usize)], mut at: usize, last: Option<Step>) -> Vec<Step> {
    let mut way: Vec<Step> = last.into_iter().collect();
    while let (before, Some(step), _) = &from[at] {
        way.push(step.clone());
        at = *before;
    }
    way.reverse();
    way
}
