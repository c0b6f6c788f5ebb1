//! The parts of the benchmark `servers` that a test runs as well.

#![allow(dead_code, clippy::disallowed_methods)] // the benchmark uses the others, and times itself

#[path = "../../benches/servers/acceptance/mod.rs"]
pub(crate) mod acceptance;
#[path = "../../benches/servers/before.rs"]
pub(crate) mod before;
#[path = "../../benches/servers/client.rs"]
pub(crate) mod client;
#[path = "../../benches/launch/mod.rs"]
pub(crate) mod launch;
