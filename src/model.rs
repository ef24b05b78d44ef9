//! Makes all decisions. Pure: no tokio, no IO, no clock, no environment. A module uses only modules declared above it.

pub mod plain;
pub mod rate;
pub mod repeats;
pub mod signal;
pub mod spelling;
pub mod synonyms;

pub mod reference;

pub mod url;
pub mod visit;

pub mod proxy;

pub mod output;

pub mod exit;

pub mod hooks;

pub mod accounts;
pub mod desktop_entry;
pub mod manifest;

pub mod predecessor;

pub mod protocol;

pub mod app;

pub mod guard;
pub mod init;

pub mod loading;

pub mod editor;

pub mod tree;

pub mod plan;

pub(crate) mod machine;
pub mod metrics;
pub mod report;

pub mod gateway;

pub mod supervisor;

pub mod ledger;
