//! Components that load, and then misbehave when they are called.

use anyhow::{Context as _, Result};

use super::{Module, OPERATION, names::names};

/// A kind of hostile component.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Description, in a few words.
    pub name: &'static str,
    /// The component, which is hostile to requests with the name [`NAME`](super::NAME).
    pub component: Vec<u8>,
    /// Status with which the host should answer each request.
    pub statuses: &'static [u16],
    /// Number of workspaces that each request leaves behind.
    pub creates: u64,
}

pub(super) const FAILED: &[u16] = &[500];
const OUT_OF_TIME: &[u16] = &[503];
/// Comes to an end, if its time does not before: page faults take the machine a varying time.
const CLIENTS_FAULT_OR_OUT_OF_TIME: &[u16] = &[400, 503];

/// Returns all kinds.
///
/// # Errors
///
/// None, as long as they are WebAssembly text.
pub fn kinds() -> Result<Vec<Kind>> {
    let parts = [time()?, space()?, answers()?, grants()?, exports()?, names()?];
    Ok(parts.into_iter().flatten().collect())
}

pub(super) fn kind(name: &'static str, module: Module<'_>, statuses: &'static [u16], creates: u64) -> Result<Kind> {
    Ok(Kind { name, component: module.two_faced().context(name)?, statuses, creates })
}

/// Returns a kind whose operation does this.
fn operation(name: &'static str, operation: &str, statuses: &'static [u16], creates: u64) -> Result<Kind> {
    kind(name, Module { operation, ..Module::default() }, statuses, creates)
}

/// Returns kinds that never come to an end by themselves.
fn time() -> Result<Vec<Kind>> {
    let endless = |name, body: &str| operation(name, &format!("(loop $again {body} (br $again))"), OUT_OF_TIME, 0);
    Ok(vec![
        endless("loops", "")?,
        // Little code that takes much time: the clock is looked at only between two of them.
        endless(
            "fills its memory again and again",
            "(drop (memory.grow (i32.const 254))) (memory.fill (i32.const 0) (i32.const 7) (i32.const 16777216))",
        )?,
        operation("asks for grants and drops them", "(loop $again (call $drop (call $grant)) (br $again))", FAILED, 0)?,
        // Names of 1 MiB, copied before they are refused.
        operation(
            "shows storage long names",
            "(drop (memory.grow (i32.const 64)))
             (loop $again
                (local.set 0 (call $grant))
                (call $create (local.get 0) (i32.const 65536) (i32.const 1048576) (i32.const 1048))
                (call $drop (local.get 0))
                (br $again))",
            FAILED,
            0,
        )?,
        operation(
            "creates with a used grant again and again",
            "(local.set 0 (call $grant)) (loop $again (drop (call $store (local.get 0))) (br $again))",
            FAILED,
            1,
        )?,
        operation(
            "creates with a new grant again and again",
            "(loop $again
                (local.set 0 (call $grant)) (drop (call $store (local.get 0))) (call $drop (local.get 0))
                (br $again))",
            FAILED,
            1,
        )?,
    ])
}

/// Returns kinds that take all they get, and want more.
fn space() -> Result<Vec<Kind>> {
    let grown = "(loop $more
        (local.set 0 (memory.grow (i32.const 1)))
        (if (i32.ne (local.get 0) (i32.const -1)) (then
            (memory.fill (i32.mul (local.get 0) (i32.const 65536)) (i32.const 7) (i32.const 65536))))
        (br $more))";
    let table = Module {
        fields: "(table $table 1 funcref) (elem declare func $spin)",
        operation: "(loop $more (drop (table.grow $table (ref.func $spin) (i32.const 100))) (br $more))",
        ..Module::default()
    };
    let data = format!("(data (i32.const 65536) \"{}\")", "hostile!".repeat((15 << 20) / 8));
    Ok(vec![
        operation("grows its memory", grown, OUT_OF_TIME, 0)?,
        kind("grows its table", table, OUT_OF_TIME, 0)?,
        operation("recurses", "(call $recurse)", FAILED, 0)?,
        operation("holds on to grants", "(loop $more (drop (call $grant)) (br $more))", FAILED, 0)?,
        // No more than its due, and all of it in the file.
        kind(
            "is born large",
            Module {
                pages: 256,
                fields: &data,
                operation: "(memory.fill (i32.const 4096) (i32.const 7) (i32.const 16773120))",
                ..Module::default()
            },
            CLIENTS_FAULT_OR_OUT_OF_TIME,
            0,
        )?,
    ])
}

/// Returns an answer at 512 that says `invalid-request` with the message there.
fn message(at: u32, length: u32) -> String {
    format!(
        "(drop (memory.grow (i32.const 254)))
         (i32.store8 (i32.const 512) (i32.const 1))
         (i32.store (i32.const 520) (i32.const {at}))
         (i32.store (i32.const 524) (i32.const {length}))
         (return (i32.const 512))"
    )
}

/// Returns an answer at 512 that reports a workspace, all of its strings the same.
fn workspace(at: u32, length: u32) -> String {
    let string = |field: u32| {
        format!(
            "(i32.store (i32.const {field}) (i32.const {at})) (i32.store (i32.const {}) (i32.const {length}))",
            field + 4
        )
    };
    format!(
        "(drop (memory.grow (i32.const 254)))
         (i32.store8 (i32.const 512) (i32.const 0))
         {} {} {}
         (i32.store8 (i32.const 540) (i32.const 1))
         (return (i32.const 512))",
        string(516),
        string(524),
        string(532)
    )
}

/// Returns kinds whose answers are too large, not what the contract says, or not true.
fn answers() -> Result<Vec<Kind>> {
    let failed = |name, body: &str| operation(name, body, FAILED, 0);
    let after_creating =
        |name, body: &str| operation(name, &format!("(drop (call $store (call $grant))) {body}"), FAILED, 1);
    Ok(vec![
        failed("says 513 bytes", &message(65_536, 513))?,
        failed("says 1 MiB", &message(65_536, 1 << 20))?,
        failed("says 15 MiB", &message(65_536, 15 << 20))?,
        failed("says what is beyond its memory", &message((16 << 20) - 1, i32::MAX.unsigned_abs()))?,
        failed("says what begins beyond its memory", &message(u32::MAX - 3, 4))?,
        failed("reports strings of 15 MiB that are all the same", &workspace(65_536, 15 << 20))?,
        failed(
            "says what is not UTF-8",
            &format!("(i32.store8 (i32.const 2048) (i32.const 0xff)) {}", message(2048, 7)),
        )?,
        failed("answers with no case there is", "(i32.store8 (i32.const 512) (i32.const 2)) (return (i32.const 512))")?,
        failed(
            "answers with no error there is",
            "(i32.store8 (i32.const 512) (i32.const 1)) (i32.store8 (i32.const 516) (i32.const 5)) (return (i32.const 512))",
        )?,
        failed("answers where no answer can be", "(return (i32.const 513))")?,
        failed("answers beyond its memory", "(return (i32.const -4))")?,
        failed("reports a workspace without creating one", &workspace(2048, 7))?,
        after_creating("reports another workspace than it created", &workspace(2048, 7))?,
        after_creating("refuses after creating", &message(2048, 7))?,
        after_creating("traps after creating", "unreachable")?,
        after_creating("loops after creating", "(call $spin)")?,
    ])
}

/// Returns kinds that misuse handles, or make them up.
fn grants() -> Result<Vec<Kind>> {
    Ok(vec![
        operation("makes up a grant", "(drop (call $store (i32.const 77)))", FAILED, 0)?,
        operation(
            "uses a dropped grant",
            "(local.set 0 (call $grant)) (call $drop (local.get 0)) (drop (call $store (local.get 0)))",
            FAILED,
            0,
        )?,
        operation(
            "drops a grant twice",
            "(local.set 0 (call $grant)) (call $drop (local.get 0)) (call $drop (local.get 0))",
            FAILED,
            0,
        )?,
        operation(
            "uses a grant twice",
            "(local.set 0 (call $grant)) (drop (call $store (local.get 0))) (drop (call $store (local.get 0)))",
            FAILED,
            1,
        )?,
    ])
}

/// Returns kinds that misbehave in each function that the host calls.
fn exports() -> Result<Vec<Kind>> {
    let fields = |name, fields: &str, statuses| kind(name, Module { fields, ..Module::default() }, statuses, 0);
    let realloc = |name, realloc, statuses| kind(name, Module { realloc, ..Module::default() }, statuses, 0);
    let afterwards = |body| {
        format!("(func (export \"cabi_post_{OPERATION}\") (param i32) (if (global.get $hostile) (then {body})))")
    };
    Ok(vec![
        operation("traps", "unreachable", FAILED, 0)?,
        realloc("traps when asked for memory", "unreachable", FAILED)?,
        realloc("loops when asked for memory", "(call $spin) (i32.const 65536)", OUT_OF_TIME)?,
        realloc("offers memory that it does not have", "(i32.const -16)", FAILED)?,
        fields("traps after its answer", &afterwards("unreachable"), FAILED)?,
        fields("loops after its answer", &afterwards("(call $spin)"), OUT_OF_TIME)?,
        fields("asks for a grant after its answer", &afterwards("(drop (call $grant))"), FAILED)?,
    ])
}
