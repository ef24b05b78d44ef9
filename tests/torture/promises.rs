//! What the suite holds the supervisor to. A promise that is not kept yet is `false` here, and nowhere else:
//! turning it on is all it takes to have it checked.

/// An app stopped by hand stays down when the supervisor dies.
pub const HOLDS_OUTLIVE_THE_SUPERVISOR: bool = true;

/// A manifest that is removed or disabled, or whose program is changed, while nobody supervises is carried out by the
/// next supervisor. It leaves no process of an app alive that its manifest does not let it start.
pub const EDITS_WHILE_AWAY_ARE_CARRIED_OUT: bool = true;

/// No line an app has written is lost when the supervisor dies. Without it lines may be missing around a kill of
/// the supervisor, but none is doubled, torn or out of order even then.
pub const LINES_OUTLIVE_THE_SUPERVISOR: bool = true;

/// A supervisor without a descriptor to spare still sees what is left of a tree. Without it so many are left to it
/// that it can look into `/proc`.
pub const TREES_ARE_SEEN_WITHOUT_DESCRIPTORS: bool = true;
