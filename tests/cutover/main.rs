//! The machine that moves users from one pool to another, alone and in virtual time: stories, tables, and random walks beside a naive model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
// A rule of the naive model is about the phases that it names.
#![allow(clippy::wildcard_enum_match_arm)]

mod invariants;
mod reference;
mod scenarios;
mod story;
mod tables;
