//! Components that are refused before they are called.

use anyhow::{Context as _, Result};

use super::Module;

/// A kind of component that has to be refused when it is loaded.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Description.
    pub name: &'static str,
    /// The bytes that are said to be a component.
    pub component: Vec<u8>,
    /// Part of the refusal's message.
    pub message: &'static str,
}

const NOT_COMPILED: &str = "not a component that can be compiled";

/// Returns all of them.
///
/// # Errors
///
/// None, as long as they are WebAssembly text.
pub fn refused() -> Result<Vec<Refused>> {
    let text = |name, text: &str, message| -> Result<Refused> {
        Ok(Refused { name, component: wat::parse_str(text).context(name)?, message })
    };
    let module = |name, module: Module<'_>, message| -> Result<Refused> {
        Ok(Refused { name, component: module.component().context(name)?, message })
    };
    let core = |fields: &str| format!("(component (core module {fields}))");
    let many = |fields, times| {
        format!("(component (core module $m {fields}) {})", "(core instance (instantiate $m))".repeat(times))
    };
    let (instances, memories, tables) = (many("", 17), many("(memory 1)", 5), many("(table 1 funcref)", 9));
    // Each level has the one before it four times: a million core instances in a kilobyte.
    let nested = (0..10).fold("(core module $m) (core instance (instantiate $m))".to_owned(), |inner, _| {
        format!("(component $c {inner}) {}", "(instance (instantiate $c))".repeat(4))
    });
    let wasi = r#"(component (import "wasi:cli/environment@0.2.0" (instance (export "initial-cwd" (func)))))"#;
    let other = r#"(component (component $c) (instance $i (instantiate $c))
        (export "recoup:workspaces/workspaces@2.0.0" (instance $i)))"#;
    let shape = r#"(component (component $c) (instance $i (instantiate $c))
        (export "recoup:workspaces/workspaces@1.0.0" (instance $i)))"#;
    // Names are text of many bytes, and there are many of them.
    let imports: String =
        (0..2_000).map(|number| format!(r#"(import "x{number}-{}" (func))"#, "a".repeat(500))).collect();
    let exports: String = (0..5_000)
        .map(|number| format!(r#"(type $t{number} u8) (export "x{number}-{}" (type $t{number}))"#, "a".repeat(200)))
        .collect();
    let name = |bytes| format!(r#"(component (import "{}" (func)))"#, "a".repeat(bytes));
    let escapes = r#"(component
        (core module $m (import "a\0a\1b[31m\e2\80\aeb" "c" (func)))
        (core instance (instantiate $m)))"#;
    let doubled: String = (1..64).map(|number| format!("(type $t{number} (tuple $t{0} $t{0}))", number - 1)).collect();
    let sparse: String = (0..5)
        .map(|number| {
            format!(
                r#"(core module $m{number} (memory 240) (data (i32.const 0) "a") (data (i32.const 15728639) "b"))
                   (export "m{number}" (core module $m{number}))"#
            )
        })
        .collect();
    let large = "a".repeat(17 << 20);
    Ok(vec![
        text("thousands of imports with long names", &format!("(component {imports})"), "+ import x0-aaa")?,
        text(
            "thousands of exports with long names",
            &format!("(component {exports})"),
            "recoup:workspaces/workspaces@1.0.0",
        )?,
        text("an import with the longest name", &name(100_000), "bytes left out")?,
        text("an import with a name of 1 MiB", &name(1 << 20), NOT_COMPILED)?,
        text("an import with escapes in its name", escapes, NOT_COMPILED)?,
        text("types that double", &format!("(component (type $t0 (tuple u8 u8)) {doubled})"), NOT_COMPILED)?,
        text("a file of 17 MiB", &format!("(component (@custom \"x\" \"{large}\"))"), "component-size")?,
        text("a small file of 75 MiB compiled", &format!("(component {sparse})"), "compiled-size")?,
        Refused { name: "no WebAssembly", component: b"nonsense".to_vec(), message: NOT_COMPILED },
        Refused { name: "nothing", component: Vec::new(), message: NOT_COMPILED },
        text("a core module", "(module)", NOT_COMPILED)?,
        text("a component that exports nothing", "(component)", "recoup:workspaces/workspaces@1.0.0")?,
        text("a component of another version's world", other, "recoup:workspaces/workspaces@1.0.0")?,
        text("a component without the operation", shape, "create-workspace")?,
        text("a component that imports WASI", wasi, "wasi:cli/environment@0.2.0")?,
        text("a memory of 64 bits", &core("(memory i64 1)"), "memory64")?,
        text("five memories in a component", &memories, "5, where pool.memories is 4")?,
        text("17 core instances", &instances, "17, where pool.core-instances is 16")?,
        text("components in components", &format!("(component {nested})"), "1048576, where pool.core-instances is 16")?,
        text("much memory in several memories", &many("(memory 100)", 3), "19660800, where pool.memory is 16777216")?,
        text(
            "many elements in several tables",
            &many("(table 6000 funcref)", 2),
            "12000, where pool.table-elements is 10000",
        )?,
        text("tail calls", &core("(func $f (return_call $f))"), "tail calls")?,
        text(
            "relaxed SIMD",
            &core("(func (param v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 0))))"),
            "relaxed SIMD",
        )?,
        text("shared memory", &core("(memory 1 1 shared)"), "threads")?,
        module(
            "more memory than the limit",
            Module { pages: 257, ..Module::default() },
            "16842752, where pool.memory is 16777216",
        )?,
        module(
            "a larger table than the limit",
            Module { fields: "(table 10001 funcref)", ..Module::default() },
            "where pool.table-elements is 10000",
        )?,
        text("nine tables in a component", &tables, "9, where pool.tables is 8")?,
    ])
}
