//! Acts: the only loop.
