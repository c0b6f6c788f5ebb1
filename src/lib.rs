//! difygate, a health gatekeeper in front of Dify: it probes every instance, sends traffic only to those fit to serve, and keeps the probe
//! path away from the outside.
//!
//! # Architecture
//!
//! Floors; a file imports only from floors below it, or from its own folder.
//!
//! | floor | what | knows |
//! |---|---|---|
//! | 6 | [`cli`], [`demo`] | everything |
//! | 5 | [`server`]: builds a gate and stops it | everything below |
//! | 4 | [`driver`] (the one writer), [`warden`] (asks for restarts), [`conductor`] (carries cutovers out), `proxy` (the request path), [`admin`] (the API), [`edge`] (listeners) | floors below, not each other; but `proxy` knows the connections of [`edge`] |
//! | 3 | [`config`]: a file becomes settings, or all of its errors; [`reload`]: the way to the one who loads it again | settings of floors 1 and 2 |
//! | 2 | [`wire`] (bytes in the clear or within TLS), [`tls`] (towards others), [`http1`], [`probe`], [`restart`], [`upstream`], [`upgrade`], [`mailbox`], [`cutover`], [`acme`], [`healthz`], [`lines`] (written without waiting), [`log`], [`metrics`], [`files`], [`access_log`], [`store`], [`audit`], [`url`], [`clock`], [`client`] | floor 1, and each other in that order |
//! | 1 | [`gate`]: every decision, pure | nothing |
//!
//! [`simulated_dify`] stands aside: a Dify for demos, tests and benches, which the gate meets only over sockets.
//!
//! # Walks
//!
//! **A request**: [`edge`] accepts → `proxy` reads it strictly, `gate::client` tells who asks, `gate::guard` whether they may, `gate::route` where it
//! goes → `upstream::snapshot` holds who may serve, `gate::selection` picks one → `proxy::direct` sends what is whole and relays the answer,
//! `proxy::upload` what comes later, `proxy::tunnel` carries WebSockets, the framework asks endpoints of HTTP/2 → on a failure `gate::retry` decides → one access line, one count.
//!
//! **A probe**: `gate::keeper` says that one is due → [`driver`] sends it through [`probe`] → the answer comes back by [`mailbox`] → `gate::keeper` weighs it →
//! a change is announced, counted and published as a new snapshot; what waits on an endpoint that went down goes elsewhere.
//!
//! **A cutover**: an order comes by [`cutover`] to [`conductor`] → it looks at both pools, by [`driver`] and by what each endpoint's traffic came to → `gate::cutover`
//! decides the next step → it is kept with its audit entry, and only then [`driver`] publishes another `gate::direction` → `proxy` sends each new request to
//! one pool, and streams stay where they began, listed in `upstream::streams` until the last has ended or is told to.
//!
//! **Another configuration**: a signal or `POST config:reload` goes by [`reload`] to [`server`], which parses it → [`driver`] takes the new list for the old one,
//! `gate::keeper` keeps all that it knows of who stays → once who is new has answered, `proxy` gets another site for the requests that come.
//!
//! **Another process**: [`upgrade`] brings it the listening sockets and what `gate::keeper` knew → it serves → the old one accepts nothing more, tells how
//! much it still carries, and ends with its last stream.
//!
//! # Invariants (held by `tests/architecture.rs`)
//!
//! 1. `gate` does no I/O, reads no clock, draws no random number, and names no framework.
//! 2. One writer: only [`driver`] changes what is published. A request reads one snapshot and bumps counters.
//! 3. Fail closed: unknown is not routable, an ambiguous target is refused, a client that cannot be told is external.
//! 4. No change of state without a cause and an event; no step of a cutover before its record is kept.
//! 5. Every file opens by saying why it exists; none is longer than 450 lines, no function longer than 60.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods))] // a test may start where it likes

pub mod access_log;
pub mod acme;
pub mod admin;
pub mod audit;
pub mod cli;
pub mod client;
pub mod clock;
pub mod conductor;
pub mod config;
pub mod cutover;
#[allow(clippy::disallowed_methods)] // a story is told in real time
pub mod demo;
pub mod discovery;
pub mod driver;
pub mod edge;
pub mod files;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
pub mod healthz;
pub mod http1;
pub mod lines;
pub mod log;
pub mod mailbox;
pub mod metrics;
pub mod probe;
pub(crate) mod proxy;
pub mod reload;
pub mod restart;
pub mod server;
#[allow(clippy::disallowed_methods)] // it is a peer, and has a clock of its own
pub mod simulated_dify;
pub mod store;
pub mod tls;
pub mod upgrade;
pub mod upstream;
pub mod url;
pub mod warden;
pub mod wire;
