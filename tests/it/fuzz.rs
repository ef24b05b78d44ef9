//! Replays the corpus of the fuzz targets, and random changes of it, on any toolchain. The fuzz targets themselves need a
//! nightly toolchain (docs/reliability.md).

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

#[path = "../../fuzz/entries.rs"]
mod entries;

use entries::{ENTRIES, Entry};

/// How many changed copies of each entry's corpus are tried.
const CASES: u32 = 2000;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).expect("a corpus for each entry").flatten().collect();
    files.sort_by_key(fs::DirEntry::file_name);
    assert!(!files.is_empty(), "nothing in {}", folder.display());
    files.iter().map(|file| fs::read(file.path()).expect("a file of the corpus")).collect()
}

#[test]
fn what_was_found_once_is_not_found_again() {
    for (name, entry) in ENTRIES {
        corpus(name).iter().for_each(|bytes| entry(bytes));
    }
}

#[test]
fn what_chance_makes_of_the_corpus_does_no_harm() {
    for (name, entry) in ENTRIES {
        try_changed(name, *entry);
    }
}

/// Drops, doubles or moves pieces of a file, or replaces them with pieces of another file or noise.
fn try_changed(name: &str, entry: Entry) {
    let corpus = corpus(name);
    let change = (any::<Index>(), any::<Index>(), any::<Index>(), select(corpus.clone()), vec(any::<u8>(), 0..6));
    let input = (select(corpus), vec(change, 1..5));
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&input, |(mut bytes, changes)| {
        for (from, to, kind, other, noise) in changes {
            let (from, to) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
            let (from, to) = (from.min(to), from.max(to));
            let piece = bytes[from..to].to_vec();
            match kind.index(4) {
                0 => drop(bytes.drain(from..to)),
                1 => drop(bytes.splice(to..to, piece)),
                2 => drop(bytes.splice(from..to, noise)),
                _ => drop(bytes.splice(from..to, other[from.min(other.len())..to.min(other.len())].to_vec())),
            }
            bytes.truncate(64 << 10);
        }
        entry(&bytes);
        Ok(())
    });
    result.unwrap_or_else(|failed| panic!("{name}: {failed}"));
}
