//! A component that looks for what earlier instances left in the memory it is given, and leaves something itself.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use tokio::{sync::Notify, task::JoinSet};
use uuid::Uuid;
use workspaces_host::{
    CreateWorkspaceRequest, Error, Workspaces,
    auth::{Auth, Caller, Credential, Denial, Grant},
    runtime::{Pool, SandboxLimits, Sandboxes},
    storage::sqlite::Sqlite,
};

use crate::hostile_components::{Module, WAIT};

/// Result of the trial.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryResidueReport {
    /// Instances that looked around and then answered.
    pub answered: usize,
    /// Number that trapped.
    pub trapped: usize,
    /// Number that ran until their time was over.
    pub out_of_time: usize,
    /// Number that were dropped while they waited for the host, as when a client goes away.
    pub abandoned: usize,
    /// Places where canaries were found, and how often.
    pub found: BTreeMap<String, usize>,
}

/// Sandboxes that run at once: few, so that the places of instances are used again soon.
const SLOTS: usize = 4;

/// Tasks that call, more than may run.
const TASKS: usize = 2 * SLOTS;

/// Looks for a canary in all of its memory, grown to 1 MiB, its globals and its table, and says with the
/// number of the place where one is; the writers put one there. The table is larger than what the host keeps
/// resident of one, and so is the memory.
const FIELDS: &str = r#"
    (table $table 2000 funcref) (elem declare func $spin)
    (global $number (mut i64) (i64.const 0))
    (global $function (mut funcref) (ref.null func))
    (func $canary (result i64) (i64.const 0x6361_6e61_7279_2121))
    (func $find (result i32) (local $at i32)
        (loop $more
            (if (i64.eq (i64.load (local.get $at)) (call $canary)) (then (return (i32.const 1))))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $more (i32.lt_u (local.get $at) (i32.const 1048576))))
        (if (i64.eq (global.get $number) (call $canary)) (then (return (i32.const 2))))
        (if (i32.eqz (ref.is_null (global.get $function))) (then (return (i32.const 2))))
        (local.set $at (i32.const 0))
        (loop $more
            (if (i32.eqz (ref.is_null (table.get $table (local.get $at)))) (then (return (i32.const 3))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $at) (i32.const 2000))))
        (i32.const 0))
    (func $memory (local $at i32)
        (loop $more
            (i64.store (local.get $at) (call $canary))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $more (i32.lt_u (local.get $at) (i32.const 1048576)))))
    (func $global (global.set $number (call $canary)) (global.set $function (ref.func $spin)))
    (func $table (table.fill $table (i32.const 0) (ref.func $spin) (i32.const 2000)))"#;

/// The places, by their numbers less one; eight bytes are one store.
const PLACES: [&[u8; 8]; 3] = [b"memory  ", b"global  ", b"table   "];

/// Returns a component that first does this, then looks, answers with the place where it found a canary, and if it
/// found none leaves its own in all of them and ends as the length of the name has it.
fn component(first: &str) -> Result<Vec<u8>> {
    let [memory, global, table] = PLACES.map(|place| u64::from_le_bytes(*place));
    let answer = "(i64.store (i32.const 512) (i64.const 1)) (i64.store (i32.const 520) (i64.const 0))";
    let operation = format!(
        "(drop (memory.grow (i32.const 14)))
         {first}
         (local.set 0 (call $find))
         (if (local.get 0) (then
            {answer}
            (i64.store (i32.const 528) (select (i64.const {memory})
                (select (i64.const {global}) (i64.const {table}) (i32.eq (local.get 0) (i32.const 2)))
                (i32.eq (local.get 0) (i32.const 1))))
            (i32.store (i32.const 520) (i32.const 528))
            (i32.store (i32.const 524) (i32.const 8))
            (return (i32.const 512))))
         (call $memory) (call $global) (call $table)
         (if (i32.eq (local.get 2) (i32.const {TRAP})) (then unreachable))
         (if (i32.eq (local.get 2) (i32.const {OUT_OF_TIME})) (then (call $spin)))
         (if (i32.eq (local.get 2) (i32.const {ABANDONED})) (then {WAIT}))
         {answer}"
    );
    Module { fields: FIELDS, operation: &operation, ..Module::default() }.component()
}

/// Ends of instances, as the lengths of the names that they are sent.
const ANSWER: usize = 1;
const TRAP: usize = 2;
const OUT_OF_TIME: usize = 3;
const ABANDONED: usize = 4;

/// Returns the end of a call: mostly answers and traps, which take turns, and the slow ones rarely.
fn end(call: usize) -> usize {
    match call {
        call if call % 250 == 249 => OUT_OF_TIME,
        call if call % 10 == 9 => ABANDONED,
        call if call % 2 == 1 => TRAP,
        _ => ANSWER,
    }
}

/// Never answers, and says when it was asked, to the task whose number the caller's id is.
struct Silent {
    asked: [Notify; TASKS],
}

#[async_trait]
impl Auth for Silent {
    async fn authenticate(&self, _: &Credential) -> Result<Caller, Denial> {
        Err(Denial::Unauthenticated("no credential is valid here"))
    }

    async fn authorize(&self, caller: &Caller, _: Option<Uuid>, _: Option<Uuid>) -> Result<Grant, Denial> {
        let task = usize::try_from(caller.account_id.as_u128()).ok().and_then(|task| self.asked.get(task));
        task.ok_or(Denial::Unavailable)?.notify_one();
        pending().await
    }
}

/// The host's sandboxes with this component in them.
struct Scene {
    workspaces: Workspaces,
    auth: Arc<Silent>,
}

impl Scene {
    fn new(component: &[u8]) -> Result<Self> {
        // Time for all to have their turn, on a slow machine too.
        let (queue, time) = (TASKS - SLOTS, Duration::from_secs(60));
        let pool = Pool { concurrency: SLOTS, queue, admission_wait: time, target_delay: time, ..Pool::default() };
        let auth = Arc::new(Silent { asked: [const { Notify::const_new() }; TASKS] });
        // A fresh mebibyte is 256 page faults. A virtual machine whose own machine was busy took over 100 ms of its
        // processor's time for them.
        let limits = SandboxLimits { cpu: Duration::from_millis(500), ..SandboxLimits::default() };
        let workspaces = Workspaces::builder(Arc::new(Sqlite::in_memory()?), auth.clone())
            .component(component)
            .limits(limits)
            .sandboxes(Sandboxes::new(pool)?)
            .build()?;
        Ok(Self { workspaces, auth })
    }

    /// Makes one call from a task; returns the place where it found a canary.
    async fn call(&self, task: usize, end: usize) -> Result<Option<String>> {
        let caller = Caller::new(Uuid::from_u128(u128::try_from(task)?));
        let request = CreateWorkspaceRequest { name: Some("n".repeat(end)), ..Default::default() };
        let answer = tokio::select! {
            answer = self.workspaces.create_workspace_for(caller, request, None) => answer,
            () = self.auth.asked[task].notified() => return Ok(None),
        };
        match (end, answer) {
            (_, Err(Error::InvalidRequest(place))) if !place.is_empty() => Ok(Some(place.trim_end().into())),
            (ANSWER, Err(Error::InvalidRequest(_)))
            | (TRAP, Err(Error::Component(_)))
            | (OUT_OF_TIME, Err(Error::OutOfTime(_))) => Ok(None),
            (end, answer) => bail!("with end {end} it got {answer:?}"),
        }
    }
}

/// Calls so often.
///
/// # Errors
///
/// Where a call does not end as it should.
pub fn run(calls: usize) -> Result<MemoryResidueReport> {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(SLOTS).enable_all().build()?;
    let world = Arc::new(Scene::new(&component("")?)?);
    tokio.block_on(async {
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let world = world.clone();
            tasks.spawn(async move {
                let mut report = MemoryResidueReport::default();
                for call in (task..calls).step_by(TASKS) {
                    let end = end(call);
                    if let Some(place) = world.call(task, end).await? {
                        *report.found.entry(place).or_default() += 1;
                    }
                    *match end {
                        ANSWER => &mut report.answered,
                        TRAP => &mut report.trapped,
                        OUT_OF_TIME => &mut report.out_of_time,
                        _ => &mut report.abandoned,
                    } += 1;
                }
                Ok::<_, anyhow::Error>(report)
            });
        }
        let mut sum = MemoryResidueReport::default();
        while let Some(report) = tasks.join_next().await {
            let report = report??;
            sum.answered += report.answered;
            sum.trapped += report.trapped;
            sum.out_of_time += report.out_of_time;
            sum.abandoned += report.abandoned;
            for (place, times) in report.found {
                *sum.found.entry(place).or_default() += times;
            }
        }
        Ok(sum)
    })
}

/// Has a canary written to each place before it looks: what it then finds shows that it can.
///
/// # Errors
///
/// Where it does not find one.
pub fn control() -> Result<Vec<String>> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut found = Vec::new();
    for place in PLACES {
        let place = String::from_utf8(place.to_vec())?;
        let world = Scene::new(&component(&format!("(call ${})", place.trim_end()))?)?;
        found.push(tokio.block_on(world.call(0, ANSWER))?.context("not found")?);
    }
    Ok(found)
}
