//! Metrics of the process, under the names that Prometheus's client libraries give them.

use std::fmt;

use procfs::{
    ProcResult,
    process::{LimitValue, Process},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// Collector that reads `/proc/self` at each scrape. A process that may not read it has none of these metrics.
#[derive(Debug)]
pub(super) struct ProcessCollector;

/// Numbers of a process at one moment.
struct Numbers {
    cpu_seconds: f64,
    /// Seconds since the Unix epoch.
    start_time_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: i64,
    open_files: u64,
    /// Limit of open files; `None` where there is none.
    max_files: Option<u64>,
}

impl Numbers {
    fn read() -> ProcResult<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
        let max_files = match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(files) => Some(files),
            LimitValue::Unlimited => None,
        };
        Ok(Self {
            cpu_seconds: seconds(stat.utime + stat.stime),
            start_time_seconds: procfs::boot_time_secs()? as f64 + seconds(stat.starttime),
            resident_bytes: stat.rss.saturating_mul(procfs::page_size()),
            virtual_bytes: stat.vsize,
            threads: stat.num_threads,
            open_files: process.fd_count()? as u64,
            max_files,
        })
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Ok(numbers) = Numbers::read() else { return Ok(()) };
        let mut write = |name: &str, help: &str, unit: Option<&Unit>, metric: &dyn EncodeMetric| {
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        let (seconds, bytes) = (Some(&Unit::Seconds), Some(&Unit::Bytes));
        write("process_cpu", "Processor time of the process", seconds, &ConstCounter::new(numbers.cpu_seconds))?;
        let started = ConstGauge::new(numbers.start_time_seconds);
        write("process_start_time", "Start of the process, since the Unix epoch", seconds, &started)?;
        write("process_resident_memory", "Memory in use", bytes, &ConstGauge::new(numbers.resident_bytes))?;
        write("process_virtual_memory", "Address space in use", bytes, &ConstGauge::new(numbers.virtual_bytes))?;
        write("process_threads", "Threads of the process", None, &ConstGauge::new(numbers.threads))?;
        write("process_open_fds", "Files that are open", None, &ConstGauge::new(numbers.open_files))?;
        match numbers.max_files {
            Some(files) => write("process_max_fds", "Limit of open files", None, &ConstGauge::new(files)),
            None => Ok(()),
        }
    }
}
