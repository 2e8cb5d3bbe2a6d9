//! The program `trials`: runs one at length and prints what it saw.
#![allow(clippy::print_stdout, reason = "its answers go to standard output")]

use std::{io::Write as _, time::Duration};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use workspaces_tests::{
    postgres::Postgres,
    trials::{
        Backend, failover, idempotency, io_faults,
        kill_loop::{self, Victim},
        malformed, many_tenants, memory_residue,
        neighbour_rates::{self, Trouble},
        neighbours, overload, parity,
        patroni::{self, Fault},
        power_cut, program, slow_clients, swaps, throughput,
    },
};

/// Breaks things at length: what the tests do small. Build with --release where speed is measured.
#[derive(Parser)]
enum Trial {
    /// Kill the program, or its PostgreSQL server, under 64 clients, and look for what is lost
    KillLoop {
        #[arg(long, value_enum, default_value = "sqlite")]
        on: Kind,
        #[arg(long, value_enum, default_value = "host")]
        kill: Kill,
        #[arg(long, default_value_t = 10_000)]
        cycles: usize,
    },
    /// Cut the power at each sync of the disk, and look for what is lost
    PowerCut {
        #[arg(long, default_value_t = 1000)]
        creates: usize,
        /// Open the database with synchronous=OFF, to see that the trial finds what is lost
        #[arg(long)]
        control: bool,
    },
    /// Have each I/O call of a create fail once
    IoFaults {
        /// Fail one in so many of the calls that copy the log into the database
        #[arg(long, default_value_t = 1)]
        stride: usize,
    },
    /// Send each idempotency key 16 times at once, with kills in between
    Idempotency {
        #[arg(long, value_enum, default_value = "sqlite")]
        on: Kind,
        #[arg(long, default_value_t = 10_000)]
        keys: usize,
    },
    /// Send the same generated requests to SQLite and PostgreSQL and compare the answers
    Parity {
        #[arg(long, default_value_t = 10_000)]
        requests: usize,
        #[arg(long, default_value_t = fastrand::u64(..))]
        seed: u64,
    },
    /// Kill a PostgreSQL primary under load and promote its standby
    Failover {
        #[arg(long, default_value_t = 1)]
        times: usize,
    },
    /// Kill, freeze and cut off from etcd the primary of a Patroni cluster under load
    Patroni {
        #[arg(long, default_value_t = 1)]
        times: usize,
    },
    /// Hold connections and send next to nothing, beside a client that only wants its answers
    SlowClients {
        #[arg(long, default_value_t = 2000)]
        connections: usize,
    },
    /// Look for what earlier sandboxes left in the memory of later ones
    MemoryResidue {
        #[arg(long, default_value_t = 100_000)]
        reuses: usize,
    },
    /// Measure what gets done when many times more clients come than can be served
    Overload {
        /// Factor over the number of clients that find the peak
        #[arg(long, default_value_t = 10)]
        times: usize,
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds at the peak and over it, in each round
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Places for requests that wait, in place of the default
        #[arg(long)]
        queue: Option<usize>,
    },
    /// Run a healthy tenant beside each adversary: components, files, tenants, databases, strangers and others
    Neighbours {
        /// Adversaries whose name contains this; may be given several times
        #[arg(long)]
        only: Vec<String>,
        /// Number of times that the healthy tenant is measured alone and beside it, in turns
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Time of each measurement, at least
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Print JSON, one object a line, in place of a Markdown table
        #[arg(long)]
        json: bool,
    },
    /// Measure the creates of healthy tenants beside one whose database is stuck, or whose component loops
    NeighbourRates {
        /// Healthy tenants, a table line each
        #[arg(long, value_delimiter = ',', default_value = "1,2,16")]
        tenants: Vec<usize>,
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds alone and beside, in each round
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// Program to measure in place of the one built here
        #[arg(long)]
        program: Option<String>,
    },
    /// Start a server of very many tenants
    ManyTenants {
        #[arg(long, default_value_t = 1000)]
        tenants: usize,
        /// Give all of them one database, in place of one each
        #[arg(long)]
        one_database: bool,
    },
    /// Swap a tenant's component under load
    Swaps {
        #[arg(long, default_value_t = 100)]
        swaps: usize,
    },
    /// Send malformed requests, made by hand and by mutation, and hold each answer to its form
    Malformed {
        #[arg(long, default_value_t = 1_000_000)]
        requests: usize,
        #[arg(long, default_value_t = fastrand::u64(..))]
        seed: u64,
    },
    /// Measure creates a second with wrk, group commit against one commit a request
    Throughput {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Measure PostgreSQL too
        #[arg(long)]
        postgres: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Sqlite,
    Postgres,
}

impl From<Kind> for Backend {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Sqlite => Self::Sqlite,
            Kind::Postgres => Self::Postgres,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Kill {
    Host,
    Database,
}

fn main() -> Result<()> {
    let program = program()?;
    match Trial::parse() {
        Trial::KillLoop { on, kill, cycles } => {
            let victim = match kill {
                Kill::Host => Victim::Host,
                Kill::Database => Victim::Database,
            };
            let report = kill_loop::run(&program, on.into(), victim, cycles, |so_far| {
                if so_far.cycles % 100 == 0 {
                    println!("{so_far:?}");
                    let _ = std::io::stdout().flush();
                }
            })?;
            println!("{report:?}");
        }
        Trial::PowerCut { creates, control } => println!("{:?}", power_cut::run(creates, !control)?),
        Trial::IoFaults { stride } => println!("{:?}", io_faults::run(stride.max(1))?),
        Trial::Idempotency { on, keys } => println!("{:?}", idempotency::run(&program, on.into(), keys)?),
        Trial::Parity { requests, seed } => {
            let postgres = Postgres::deployed()?;
            println!("{:?}", parity::run(&program, &postgres.service_url(), requests, seed)?);
        }
        Trial::Failover { times } => {
            for _ in 0..times {
                println!("{:?}", failover::run(&program)?);
            }
        }
        Trial::Patroni { times } => {
            let faults: Vec<_> = std::iter::repeat_n(Fault::ALL, times).flatten().collect();
            let failovers = patroni::run(&program, &faults, |failover| {
                println!("{failover}");
                let _ = std::io::stdout().flush();
            })?;
            let wrong = failovers.iter().filter(|failover| !failover.is_clean()).count();
            ensure!(wrong == 0, "{wrong} of {} failovers lost, doubled or took too long", failovers.len());
        }
        Trial::SlowClients { connections } => println!("{:?}", slow_clients::run(&program, connections)?),
        Trial::MemoryResidue { reuses } => {
            println!("found where one was left: {:?}", memory_residue::control()?);
            println!("{:?}", memory_residue::run(reuses)?);
        }
        Trial::Overload { times, rounds, seconds, queue } => {
            println!("{}", overload::run(&program, rounds, times, Duration::from_secs(seconds), queue)?);
        }
        Trial::NeighbourRates { tenants, rounds, seconds, program: other } => {
            let program = other.unwrap_or(program);
            for trouble in [Trouble::Stuck, Trouble::Loops] {
                for &healthy in &tenants {
                    let phase = Duration::from_secs(seconds);
                    println!("{}", neighbour_rates::run(&program, healthy, trouble, rounds, phase)?);
                }
            }
        }
        Trial::Neighbours { only, rounds, seconds, json } => {
            let phase = Duration::try_from_secs_f64(seconds)?;
            let options = neighbours::NeighbourOptions { only, rounds, phase, together: false };
            if !json {
                println!("{}", neighbours::HEAD);
            }
            let lines = neighbours::run(&program, &options, |line| {
                match json {
                    true => println!("{}", line.json()),
                    false => println!("{line}"),
                }
                let _ = std::io::stdout().flush();
            })?;
            let harmed = lines.iter().filter(|line| !line.verdict().is_empty()).count();
            ensure!(harmed == 0, "{harmed} of {} lines show harm", lines.len());
        }
        Trial::ManyTenants { tenants, one_database } => {
            println!("{:?}", many_tenants::run(&program, tenants, one_database)?)
        }
        Trial::Swaps { swaps } => println!("{:?}", swaps::run(&program, swaps)?),
        Trial::Malformed { requests, seed } => println!("{:?}", malformed::run(&program, requests, seed)?),
        Trial::Throughput { rounds, seconds, postgres } => {
            let server = if postgres { Some(Postgres::start()?) } else { None };
            throughput::run(&program, rounds, seconds, server.as_ref().map(Postgres::url).as_deref())?;
        }
    }
    Ok(())
}
