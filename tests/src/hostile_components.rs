//! Components that are wrong or hostile, for what the host makes of them.

mod kinds;
mod names;
mod refused;

use std::{fs, path::Path};

use anyhow::Result;
use tempfile::TempDir;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId};

pub use self::{
    kinds::{Kind, kinds},
    names::trap_in_rehearsal,
    refused::{Refused, refused},
};

const OPERATION: &str = "recoup:workspaces/workspaces@1.0.0#create-workspace";

/// Body that asks the host for one grant: with a host that never answers, it waits.
pub const WAIT: &str = "(drop (call $grant))";

/// Returns a component of the world whose operation does this, and answers 400 with an empty message if it
/// comes to the end.
///
/// # Errors
///
/// Where the body is not WebAssembly text.
pub fn component(body: &str) -> Result<Vec<u8>> {
    Module { operation: body, ..Module::default() }.component()
}

/// Returns the same, but only for requests with the [`NAME`]: for all others it creates a workspace, and so passes the
/// rehearsal.
///
/// # Errors
///
/// Where the body is not WebAssembly text.
pub fn two_faced(body: &str) -> Result<Vec<u8>> {
    Module { operation: body, ..Module::default() }.two_faced()
}

/// The core module of a component of the world, in the parts that hostile ones differ in.
#[derive(Debug, Clone, Copy)]
pub struct Module<'a> {
    /// Pages of memory at the start.
    pub pages: u32,
    /// Fields beside those that every module here has: tables, data, exports.
    pub fields: &'a str,
    /// Body of the function in which the host asks for memory.
    pub realloc: &'a str,
    /// Body of the operation; it comes to the end with an answer of 400 with an empty message.
    pub operation: &'a str,
}

impl Default for Module<'_> {
    fn default() -> Self {
        Self { pages: 2, fields: "", realloc: "(i32.const 65536)", operation: "" }
    }
}

/// The name that makes a component of [`Module::two_faced`] hostile.
pub const NAME: &str = "hostile";

/// Body of a two-faced component for other requests than one with the [`NAME`]: it creates a workspace with a name
/// of its own and reports it.
const GOOD: &str = "
    (func $digit (param $at i32) (param $value i32)
        (i32.store8 (local.get $at) (i32.add (local.get $value)
            (select (i32.const 87) (i32.const 48) (i32.gt_u (local.get $value) (i32.const 9))))))
    ;; The text of a UUID that is there as two numbers.
    (func $text (param $from i32) (param $at i32) (local $octet i32) (local $value i32)
        (loop $more
            (local.set $value (i32.load8_u (i32.add (local.get $from) (i32.xor (local.get $octet) (i32.const 7)))))
            (if (i32.and
                    (i32.le_u (i32.sub (local.get $octet) (i32.const 4)) (i32.const 6))
                    (i32.eqz (i32.and (local.get $octet) (i32.const 1))))
                (then
                    (i32.store8 (local.get $at) (i32.const 45))
                    (local.set $at (i32.add (local.get $at) (i32.const 1)))))
            (call $digit (local.get $at) (i32.shr_u (local.get $value) (i32.const 4)))
            (call $digit (i32.add (local.get $at) (i32.const 1)) (i32.and (local.get $value) (i32.const 15)))
            (local.set $at (i32.add (local.get $at) (i32.const 2)))
            (local.set $octet (i32.add (local.get $octet) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $octet) (i32.const 16)))))
    (func $good (result i32) (local $grant i32)
        (local.set $grant (call $grant))
        (call $account (local.get $grant) (i32.const 1072))
        (if (call $store (local.get $grant)) (then unreachable))
        (call $text (i32.const 1056) (i32.const 1152))
        (call $text (i32.const 1072) (i32.const 1216))
        (i32.store8 (i32.const 512) (i32.const 0))
        (i32.store (i32.const 516) (i32.const 1152)) (i32.store (i32.const 520) (i32.const 36))
        (i32.store (i32.const 524) (i32.const 2048)) (i32.store (i32.const 528) (i32.const 7))
        (i32.store (i32.const 532) (i32.const 1216)) (i32.store (i32.const 536) (i32.const 36))
        (i32.store8 (i32.const 540) (i32.const 1))
        (i32.const 512))";

impl Module<'_> {
    /// Makes a component of it that is hostile only where the request has the [`NAME`], and passes the rehearsal.
    ///
    /// A field that is a function of its own asks `(global.get $hostile)` first.
    ///
    /// # Errors
    ///
    /// Where a part is not WebAssembly text.
    pub fn two_faced(&self) -> Result<Vec<u8>> {
        self.with_two_faces(|module| module.component())
    }

    /// Makes the same for another version of the contract, whose files are in a folder.
    ///
    /// # Errors
    ///
    /// Where a part is not WebAssembly text.
    pub fn two_faced_for_version(&self, version: &str, wit: &Path) -> Result<Vec<u8>> {
        self.with_two_faces(|module| module.for_version(version, wit, ""))
    }

    fn with_two_faces(&self, make: impl FnOnce(&Module<'_>) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let Self { pages, fields, realloc, operation } = self;
        let length = NAME.len();
        let parameters: String = (0..9).map(|parameter| format!("(local.get {parameter})")).collect();
        let fields = format!(
            "(global $hostile (mut i32) (i32.const 0))
             {GOOD} {fields}
             (func $bad (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                {operation}
                (i32.store8 (i32.const 512) (i32.const 1))
                (i32.const 512))"
        );
        let realloc = format!(
            "(global.set $hostile (i32.eq (local.get 3) (i32.const {length})))
             (if (i32.eqz (global.get $hostile)) (then (return (i32.const 65536))))
             {realloc}"
        );
        let operation = format!(
            "(global.set $hostile (i32.and (local.get 0) (i32.eq (local.get 2) (i32.const {length}))))
             (if (i32.and (i32.eqz (global.get $hostile)) (i32.eqz (i32.or (local.get 3) (local.get 6))))
                (then (return (call $good))))
             ;; It has no rules for other accounts, and refuses them with an empty message.
             (if (i32.eqz (global.get $hostile))
                (then (i32.store8 (i32.const 512) (i32.const 1)) (return (i32.const 512))))
             (return (call $bad {parameters}))"
        );
        make(&Module { pages: *pages, fields: &fields, realloc: &realloc, operation: &operation })
    }

    /// Makes a component of it.
    ///
    /// # Errors
    ///
    /// Where a part is not WebAssembly text.
    pub fn component(&self) -> Result<Vec<u8>> {
        encode(&self.module()?, Path::new(WIT))
    }

    /// Makes a component of it that imports `wasi:cli/environment` with a function of other types than WASI has: `function`
    /// as WIT, and `import`, the field of a core module that imports it.
    ///
    /// # Errors
    ///
    /// Where a part is not WebAssembly text or WIT.
    pub fn with_false_wasi(&self, function: &str, import: &str) -> Result<Vec<u8>> {
        let mut resolve = Resolve::default();
        resolve.push_dir(Path::new(WIT))?;
        resolve.push_str("wasi.wit", &format!("package wasi:cli@0.2.0; interface environment {{ {function} }}"))?;
        let world = "package test:false; world all { include recoup:workspaces/plugin@1.0.0; import wasi:cli/environment@0.2.0; }";
        let package = resolve.push_str("world.wit", world)?;
        let module = wat::parse_str(self.core().replacen("(module", &format!("(module {import}"), 1))?;
        of_world(module, &resolve, resolve.select_world(&[package], Some("all"))?)
    }

    /// Makes a component of it for another version of the contract, whose files are in a folder, with a further import of the
    /// core module.
    ///
    /// # Errors
    ///
    /// Where a part is not WebAssembly text, or does not fit the contract.
    pub fn for_version(&self, version: &str, wit: &Path, import: &str) -> Result<Vec<u8>> {
        let core = self.core().replace("@1.0.0", &format!("@{version}"));
        encode(&wat::parse_str(core.replacen("(module", &format!("(module {import}"), 1))?, wit)
    }

    /// Returns the core module.
    ///
    /// # Errors
    ///
    /// Where a part is not WebAssembly text.
    pub fn module(&self) -> Result<Vec<u8>> {
        Ok(wat::parse_str(self.core())?)
    }

    fn core(&self) -> String {
        let Self { pages, fields, realloc, operation } = self;
        format!(
            r#"(module
                (import "recoup:workspaces/auth@1.0.0" "authorize"
                    (func $authorize (param i32 i64 i64 i32 i64 i64 i32)))
                (import "recoup:workspaces/auth@1.0.0" "[method]grant.account-id" (func $account (param i32 i32)))
                (import "recoup:workspaces/auth@1.0.0" "[resource-drop]grant" (func $drop (param i32)))
                (import "recoup:workspaces/storage@1.0.0" "create-workspace"
                    (func $create (param i32 i32 i32 i32)))
                (memory (export "memory") {pages})
                (data (i32.const 2048) "hostile")
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {realloc})
                ;; A grant for the caller itself.
                (func $grant (result i32)
                    (call $authorize (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 1024))
                    (i32.load (i32.const 1028)))
                ;; Creates "hostile" and returns whether storage refused.
                (func $store (param $grant i32) (result i32)
                    (call $create (local.get $grant) (i32.const 2048) (i32.const 7) (i32.const 1048))
                    (i32.load8_u (i32.const 1048)))
                (func $spin (loop $again (br $again)))
                (func $recurse (call $recurse) (call $spin))
                {fields}
                (func (export "{OPERATION}")
                    (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                    {operation}
                    (i32.store8 (i32.const 512) (i32.const 1))
                    (i32.const 512)))"#
        )
    }
}

/// The package of the contract.
const WIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit");

/// Makes a component of a core module, for the world in this folder.
fn encode(module: &[u8], wit: &Path) -> Result<Vec<u8>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit)?;
    let world = resolve.select_world(&[package], Some("plugin"))?;
    of_world(module.to_vec(), &resolve, world)
}

/// Makes a component of a core module, for a world.
pub(crate) fn of_world(mut module: Vec<u8>, resolve: &Resolve, world: WorldId) -> Result<Vec<u8>> {
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8)?;
    ComponentEncoder::default().module(&module)?.validate(true).encode()
}

/// Returns a component of a world with the same names, in which one field of a record has another type.
///
/// # Errors
///
/// Where the contract can't be read.
pub fn other_shape() -> Result<Vec<u8>> {
    let wit = variant_of_contract(|text| text.replace("is-workspace: bool", "is-workspace: u32"))?;
    encode(&Module::default().module()?, wit.path())
}

/// Returns a folder with the contract's files, changed.
///
/// # Errors
///
/// Where they can't be read or written.
pub fn variant_of_contract(change: impl Fn(String) -> String) -> Result<TempDir> {
    let folder = TempDir::new()?;
    for entry in fs::read_dir(WIT)? {
        let entry = entry?;
        fs::write(folder.path().join(entry.file_name()), change(fs::read_to_string(entry.path())?))?;
    }
    Ok(folder)
}

/// Blocks of the function in [`compile_bomb`].
const BLOCKS: usize = 800;

/// Returns a small component of the world that takes very long and very much memory to compile, and then does
/// as it should.
///
/// One function jumps into a row of blocks, each of which changes a local of its own: where the blocks
/// begin, each local changed so far may have two values. A compiler keeps them all apart, so that its
/// work grows with the square of the size.
///
/// # Errors
///
/// None, as long as it is WebAssembly text.
pub fn compile_bomb() -> Result<Vec<u8>> {
    let locals = "(local i32)".repeat(BLOCKS);
    let opened = "(block ".repeat(BLOCKS);
    let targets: String = (0..BLOCKS).map(|block| format!("{block} ")).collect();
    let blocks: String =
        (1..=BLOCKS).map(|local| format!(") (local.set {local} (i32.load (i32.const {})))", local * 4)).collect();
    let sum: String = (1..=BLOCKS).map(|local| format!("(local.get {local}) (i32.add)")).collect();
    let fields = format!(
        "(func (export \"bomb\") (param i32) (result i32) {locals}
            {opened} (br_table {targets} (local.get 0)) {blocks}
            (i32.const 0) {sum})"
    );
    Module { fields: &fields, ..Module::default() }.component()
}
