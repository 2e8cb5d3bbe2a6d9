//! Limits on what one client can cost: of a connection, a request's head, its body and what is repeated of it.

use std::time::Duration;

/// Default maximum of connections that are open at once. Measured by the trial `slow-clients`, one without a request
/// takes 10 KiB, one whose head has nearly 32 KiB takes 42 KiB, over TLS 60 KiB, one within a handshake 32 KiB: at most
/// 120 MiB in all before any credential.
pub const CONNECTIONS: usize = 2048;

/// Maximum time that requests in progress take to finish once the server stops.
pub const DRAIN: Duration = Duration::from_secs(5);

/// Maximum time for a client to begin its first request, where the server stops after it has accepted the connection: some
/// round trips.
pub const LATE_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum time for a request's head, and for which a kept-alive connection may be idle.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(8);

/// Maximum time for a body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(8);

/// Maximum time for a handshake, a head or a body on connections that are accepted while they are scarce.
pub const SCARCE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum time without progress while the system has no more room for an answer. Before that, a client that reads
/// nothing takes some seconds to fill what room there is.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Size of the system's buffer of answers that a client has not read, in bytes: five of the largest answers. The system's
/// default grows to megabytes for each.
pub(super) const SEND_BUFFER: usize = 64 << 10;

/// Maximum size of a request's head, in bytes, and of what a connection buffers. hyper's default is 400 KiB.
pub const MAX_HEAD: usize = 32 << 10;

/// Maximum size of a body, in bytes.
pub const MAX_BODY: usize = 64 << 10;

/// Maximum depth to which arrays and objects nest in a body, the outermost object counted.
pub const MAX_DEPTH: usize = 64;

/// Maximum number of bytes that a client may send before its handshake is done. rustls alone would keep 64 KiB
/// of a message that is announced and never finished. A client sends under 4 KiB: no certificate is asked for.
#[cfg(feature = "tls")]
pub const MAX_HANDSHAKE: usize = 16 << 10;

/// Maximum length of a request id that is taken from a client, in bytes.
pub const MAX_REQUEST_ID: usize = 128;

/// Maximum length of a path in the log, in bytes.
pub(super) const MAX_LOGGED_PATH: usize = 1 << 10;

/// Maximum length of what a message repeats of a request, in bytes.
pub(super) const MAX_QUOTED: usize = 256;

/// Time for which a browser may cache the answer to a preflight: the maximum that Chromium takes.
pub const PREFLIGHT_AGE: Duration = Duration::from_secs(2 * 60 * 60);
