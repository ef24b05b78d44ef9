//! The URL launcher: puts a page on the shared screen for whoever may ask for one. What may be opened is
//! decided in `model::url`.

pub mod resolve;
