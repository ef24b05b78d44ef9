//! The policy from outside: vectors, words of the configuration, and properties over all addresses.
