//! The gate as its users meet it: real sockets before it, real sockets behind it, and nothing simulated in between.

#![allow(clippy::unwrap_used)]

mod acme;
mod admin;
mod attacks;
mod authority;
mod balance;
mod cli;
mod connections;
mod cutover;
mod cutover_cli;
mod cutover_judging;
mod cutover_state;
mod databases;
mod discovery;
mod endpoints_http2;
mod endpoints_tls;
mod failover;
mod healthz;
mod healthz_faults;
mod healthz_presets;
mod limits;
mod liveness;
mod overlap;
mod overrides;
mod own_faults;
mod pausing;
mod probes;
mod proxy_protocol;
mod release;
mod reload;
mod request_path;
mod routes;
mod secure_ends;
mod severing;
mod splits;
mod state;
mod streaming;
mod support;
mod tallies;
mod tls;
mod tunnel;
mod upgrade;
mod uploads;
mod verdicts;
mod wire;
