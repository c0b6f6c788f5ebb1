//! Floor 1: every decision of the gate, and nothing else.
//!
//! Who may ask for what (`path`, `guard`, `client`, `scheme`, `hygiene`, `alarm`, `route`, `pace`), who may serve (`health`, `components`, `dependencies`, `passive`, `window`, `latency`,
//! `rhythm`, `capacity`, `lapse`, `flapping`, `ramp`, `schedule`, `state`, `overrides`, `knowledge`, `keeper`), who wants a restart
//! (`liveness`),
//! where requests go (`direction`, `cutover`), who takes the next one (`selection`, `ring`), whether it may be sent while a dependency
//! fails (`outage`) and whether it may be sent again (`retry`),
//! and where a stream may be ended (`sse`, `websocket`).
//!
//! **Invariant.** Nothing here does I/O, reads a clock, draws a random number or names a framework: time comes in as `now`, chance
//! as a `ticket` or a seed. So every rule can be tested in a moment, and the whole folder could move to another proxy.

pub mod alarm;
pub mod capacity;
pub mod cidr;
pub mod client;
pub mod components;
pub mod cors;
pub mod cutover;
pub mod dependencies;
pub mod direction;
pub mod flapping;
pub mod guard;
pub mod haste;
pub mod health;
pub mod hygiene;
pub mod keeper;
pub mod knowledge;
pub mod lapse;
pub mod latency;
pub mod liveness;
pub mod names;
pub mod outage;
pub mod overrides;
pub mod pace;
pub mod passive;
pub mod path;
pub mod ramp;
pub mod retry;
pub mod rhythm;
pub mod ring;
pub mod route;
pub mod schedule;
pub mod scheme;
pub mod selection;
pub mod sse;
pub mod state;
pub mod websocket;
pub mod window;
