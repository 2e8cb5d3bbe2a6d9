//! Times, in the one form that the program prints: RFC 3339, UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use tracing_subscriber::fmt::{format::Writer, time::FormatTime};

/// Time in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) i64);

impl std::fmt::Display for Time {
    /// Writes whole seconds, for people.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", humantime::format_rfc3339_seconds(self.system()))
    }
}

impl Serialize for Time {
    /// Writes milliseconds, for programs.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(self.system()))
    }
}

impl Time {
    /// Returns the time; one before 1970 as 1970, one after 9999 as its end.
    fn system(self) -> SystemTime {
        const LAST: u64 = 253_402_300_799_999;
        UNIX_EPOCH + Duration::from_millis(u64::try_from(self.0).unwrap_or_default().min(LAST))
    }
}

/// Clock of the log, in the form of [`Time`] for programs.
pub(super) struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{}", humantime::format_rfc3339_millis(SystemTime::now()))
    }
}
