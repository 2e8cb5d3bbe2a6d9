//! The operation over TCP: the behaviour table, the access rules and the clients in the field.
#![allow(missing_docs, reason = "a test's name says what it shows")]

mod access;
mod bodies;
mod clients;
mod http;
mod log;
mod scene;
mod server;
mod wire;

use scene::Scene;

/// An id that nothing has.
const UNKNOWN: &str = "123e4567-e89b-42d3-a456-426614174000";
