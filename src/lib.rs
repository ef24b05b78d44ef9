//! kasm-void: a declarative process supervisor for container desktops, driven by RON manifests.
//!
//! # Theory of operation
//!
//! The code is split by purity. `model` decides: it does no IO, reads no clock, and turns inputs into effects. `host`
//! wraps the operating system. `daemon`, `guard`, `init`, `launcher` and `proxy` act: they collect inputs, pass them to their
//! part of the model, and carry out its effects. `http` serves connections, `resolver` looks up names, and `cli` talks to people.
//!
//! `kasm-void run` is two processes. The guard holds what must survive a supervisor: the lock of the state folder and
//! the apps' output pipes. It starts the supervisor as its child, and starts the next one when that dies. The
//! supervisor is one event loop (`daemon`) and starts the apps. In each turn, the loop collects what happened, lets
//! `model::supervisor` decide, and performs the effects (`daemon::perform`), until no input is left. Only then does it
//! write log lines and events (`daemon::report`) and save its state for the next supervisor (`daemon::state`).
//!
//! **An exit.** SIGCHLD wakes the loop. `daemon::process` finds the child, records a leader's exit in the ledger and
//! collects the child. `model::exit` turns the wait status into an exit class, and the app's `model::machine` gets it
//! as an event. The machine decides what follows and returns effects: report the crash, sweep the rest of the tree
//! (`model::tree` says which processes that is), arm a timer for the backoff, start the next run, or give up. The
//! results come back as further events: the tree is empty, the timer fired, the program was started. If an app is a
//! child of an earlier supervisor, the guard collects it and reports its exit over `host::link`.
//!
//! **An edit.** `daemon::watch` reports that something in the manifest folders has changed and that the burst is over.
//! `host::load` reads all the folders on another thread. `daemon::manifests` has `model::loading` check them: the
//! result is the checked apps, and every problem with its place. A broken manifest keeps its last good version.
//! `model::supervisor` compares the result with what runs, by means of `model::plan`. It then changes settings in
//! place, and starts, stops or restarts apps through their machines.
//!
//! **A request.** A verb in `cli` sends HTTP to the control socket. `http` reads it, and `daemon::control` turns it
//! into an `Ask` for the loop. `daemon::answer` answers most queries at once, and passes a change to
//! `model::supervisor`. When the app has reached the requested state, an effect answers the request; the types are in
//! `model::protocol`. A client that disconnects cancels only its wait, not the change.
//!
//! **A line of output.** An app writes into its pipe; both ends are one descriptor that the guard holds too. A reader
//! task (`daemon::logs`) copies each chunk without removing it, passes it to followers and to the supervisor's own log
//! if asked, and queues it. One writer thread writes the chunk to the log file and then takes it out of the pipe. A
//! checkpoint records the chunk being written, so that the next supervisor neither loses nor repeats a line. If the
//! disk is slow or full, lines are dropped and counted; the app never waits for it.
//!
//! In the list below, a module uses only those above it.
//! `docs/architecture.md` has the invariants.

#![warn(missing_docs)]

pub mod model;

#[cfg(feature = "daemon")]
mod host;

#[cfg(feature = "daemon")]
pub mod http;

#[cfg(feature = "daemon")]
pub mod cdp;

#[cfg(feature = "daemon")]
mod resolver;

#[cfg(feature = "daemon")]
pub mod daemon;

#[cfg(feature = "daemon")]
mod guard;

#[cfg(feature = "daemon")]
pub mod launcher;

#[cfg(feature = "gateway")]
mod gateway;

#[cfg(feature = "daemon")]
mod proxy;

#[cfg(feature = "daemon")]
mod init;

#[cfg(feature = "daemon")]
mod pty;

#[cfg(feature = "daemon")]
pub mod cli;
