//! The machine that moves users from one pool to another, alone and in virtual time: stories, tables, and random walks beside a naive model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod scenarios;
mod story;
mod tables;
