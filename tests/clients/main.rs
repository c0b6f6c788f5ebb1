//! Real clients talk through the gate as they talk to what is behind it: Dify's own packages, Socket.IO, gRPC, a browser.

#![allow(clippy::unwrap_used)]

mod acceptance;
mod browser;
mod browser_endings;
mod cookies;
mod dify;
mod endings;
mod grpc;
#[path = "../origins/mod.rs"]
mod origins;
mod servers;
mod socket_io;
mod talking;
