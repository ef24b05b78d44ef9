//! Turns the texts of manifests into checked apps, or reports every problem at once, each with its place.

pub mod foreign;
pub mod index;
pub mod problem;
pub mod shell;
pub mod source;
pub mod surroundings;

pub mod interpolate;
pub mod locator;
pub mod parse;

pub mod dotenv;

pub mod scope;

pub mod absence;
pub mod arguments;
pub mod resolve;
pub mod variables;

pub mod layers;
pub mod overlay;

pub mod check;

pub mod copies;
