//! Locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex` even when a thread has panicked while holding it: what is behind our locks is whole at every step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
