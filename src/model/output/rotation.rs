//! Decides when a log file is rotated, and whether a file is safe to write to.

use super::lines::{LONGEST, last_line_end, line_end};

/// How much output to write now, and whether to rotate the file afterwards.
#[derive(Debug, PartialEq, Eq)]
pub struct WriteStep {
    /// In bytes.
    pub write: usize,
    /// Whether to rotate the file after the write.
    pub rotate: bool,
}

/// The next step for `bytes` and a file of `length` bytes that should not grow beyond `max_size` (0: no limit).
/// Files are rotated between lines, so an unfinished line may exceed the size a little. `mid_line`: the last line in
/// the file is unfinished.
pub fn next_step(bytes: &[u8], length: u64, max_size: u64, mid_line: bool) -> WriteStep {
    let within = |limit: u64| usize::try_from(limit.saturating_sub(length)).unwrap_or(usize::MAX).min(bytes.len());
    let room = within(max_size);
    if max_size == 0 || room == bytes.len() {
        return WriteStep { write: bytes.len(), rotate: false };
    }
    if let Some(write) = last_line_end(&bytes[..room]) {
        return WriteStep { write, rotate: true };
    }
    if length > 0 && !mid_line {
        return WriteStep { write: 0, rotate: true };
    }
    let room = within(max_size.saturating_add(LONGEST as u64));
    match line_end(&bytes[..room]) {
        Some(write) => WriteStep { write, rotate: true },
        None => WriteStep { write: room, rotate: room < bytes.len() },
    }
}

/// The size that a file may reach if it cannot be rotated: the total size allowed for all its generations.
pub fn limit_without_rotation(max_size: u64, keep: u32) -> u64 {
    max_size.saturating_mul(u64::from(keep) + 1)
}

/// Facts about a file before output is written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// Its kind.
    pub kind: Kind,
    /// The uid of its owner.
    pub uid: u32,
    /// The number of its hard links.
    pub links: u64,
}

/// The kinds of files that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// `/dev/null`, to discard the output. Its owner does not matter.
    Null,
    /// Anything else: a folder, a device, a pipe.
    Other,
}

/// Why output must not go into this file. In a world-writable folder such as `/tmp`, another user may have created the
/// file first, or hard-linked a file of ours that is not a log. `us` is our uid.
pub fn refusal(facts: &FileFacts, us: u32) -> Option<String> {
    const WAY_OUT: &str = "remove it or give another `log.file`";
    match facts {
        FileFacts { kind: Kind::Null, .. } => None,
        FileFacts { kind: Kind::Other, .. } => Some(format!("it is not a regular file: {WAY_OUT}")),
        FileFacts { uid, .. } if *uid != us && *uid != 0 => Some(format!("it belongs to uid {uid}: {WAY_OUT}")),
        FileFacts { links, .. } if *links > 1 => Some(format!("the file has {links} names (hard links): {WAY_OUT}")),
        FileFacts { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_ends_between_two_lines() {
        assert_eq!(next_step(b"a\nb\n", 0, 0, false), WriteStep { write: 4, rotate: false });
        assert_eq!(next_step(b"a\nb\n", 6, 10, false), WriteStep { write: 4, rotate: false });
        assert_eq!(next_step(b"a\nb\n", 7, 10, false), WriteStep { write: 2, rotate: true });
        assert_eq!(next_step(b"long\n", 7, 10, false), WriteStep { write: 0, rotate: true });
        assert_eq!(next_step(b"long\nx", 7, 10, true), WriteStep { write: 5, rotate: true });
    }

    #[test]
    fn a_file_that_is_not_ours_alone_is_refused() {
        let facts = FileFacts { kind: Kind::Regular, uid: 1000, links: 1 };
        assert_eq!(refusal(&facts, 1000), None);
        assert_eq!(refusal(&FileFacts { uid: 0, ..facts }, 1000), None);
        assert!(refusal(&FileFacts { uid: 1001, ..facts }, 1000).unwrap().contains("uid 1001"));
        assert!(refusal(&FileFacts { uid: 1001, ..facts }, 0).unwrap().contains("uid 1001"));
        assert!(refusal(&FileFacts { links: 2, ..facts }, 1000).unwrap().contains("hard links"));
        assert!(refusal(&FileFacts { kind: Kind::Other, ..facts }, 1000).unwrap().contains("not a regular file"));
        assert_eq!(refusal(&FileFacts { kind: Kind::Null, uid: 0, links: 1 }, 1000), None);
    }

    #[test]
    fn a_file_that_cannot_be_rotated_has_the_room_of_all_generations() {
        assert_eq!(limit_without_rotation(10, 3), 40);
        assert_eq!(limit_without_rotation(u64::MAX, 3), u64::MAX);
    }

    proptest! {
        #[test]
        fn every_byte_is_written_once_and_files_stay_within_their_size(
            text in "[a\n]{0,200}", max_size in 1u64..40, begin in 0u64..60,
        ) {
            let (mut bytes, mut length, mut mid_line) = (text.as_bytes(), begin, false);
            let mut steps = 0;
            while !bytes.is_empty() {
                let step = next_step(bytes, length, max_size, mid_line);
                prop_assert!(step.write > 0 || (step.rotate && length > 0), "no progress");
                let (now, later) = bytes.split_at(step.write);
                length += now.len() as u64;
                mid_line = now.last().map_or(mid_line, |last| *last != b'\n');
                prop_assert!(!now.is_empty() || step.rotate);
                if step.rotate {
                    (length, mid_line) = (0, false);
                }
                bytes = later;
                steps += 1;
                prop_assert!(steps < 1000);
            }
        }
    }
}
