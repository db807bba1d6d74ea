//! The shell of Phalanx: what touches the outside. The kernel side feeds the engine, the engine's
//! changes feed the views, the views answer the API and the metrics.
//!
//! Deliberately absent: anything that can be computed from values alone (it lives in the engine).

pub mod agent;
pub mod analysis;
pub mod api;
pub mod auth;
pub mod capture;
pub mod capture_file;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
mod disk;
pub mod doctor;
pub mod hub;
pub mod interface;
pub mod kernel;
pub mod link;
pub mod lookback;
pub mod metrics;
mod netlink;
pub mod pcapng;
mod plain;
pub mod privilege;
#[cfg(test)]
#[path = "../../phalanx-common/tests/support/random.rs"]
mod random;
pub mod redaction;
pub mod report;
pub mod socket;
pub mod stream;
pub mod translation;
pub mod view;
