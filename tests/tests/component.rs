//! The built component, as bytes.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use anyhow::Result;
use wasmparser::{ComponentExternalKind, Parser, Payload};
use workspaces_host::{
    COMPONENT,
    runtime::{LoadError, Pool, Sandboxes, compile},
};

#[test]
fn imports_its_contract_and_nothing_else() -> Result<()> {
    const ALLOWED: [&str; 3] =
        ["recoup:workspaces/auth@1.0.0", "recoup:workspaces/storage@1.0.0", "recoup:workspaces/types@1.0.0"];
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0);
    for payload in Parser::new(0).parse_all(COMPONENT) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export?;
                    assert_eq!(export.kind, ComponentExternalKind::Instance);
                    exports.push(export.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    for import in &imports {
        assert!(ALLOWED.contains(&import.as_str()), "the component imports {import}");
    }
    assert!(imports.iter().any(|import| import == ALLOWED[0]) && imports.iter().any(|import| import == ALLOWED[1]));
    assert_eq!(exports, ["recoup:workspaces/workspaces@1.0.0"]);
    Ok(())
}

#[test]
fn is_small_and_keeps_its_function_names() {
    assert!(COMPONENT.len() < 100_000, "{} bytes", COMPONENT.len());
    let name = b"16create_workspace17h";
    assert!(COMPONENT.windows(name.len()).any(|window| window == name), "no function names for backtraces");
}

/// Two components in one, with a text from the one to the other: the compiler makes a module with two memories for that.
const COMPOSED: &str = r#"(component
    (component $callee
        (core module $module
            (memory (export "memory") 1)
            (func (export "take") (param i32 i32))
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0)))
        (core instance $instance (instantiate $module))
        (alias core export $instance "memory" (core memory $memory))
        (alias core export $instance "take" (core func $take))
        (alias core export $instance "realloc" (core func $realloc))
        (func (export "take") (param "text" string)
            (canon lift (core func $take) (memory $memory) (realloc $realloc))))
    (component $caller
        (import "take" (func $take (param "text" string)))
        (core module $libc (memory (export "memory") 1))
        (core instance $libc (instantiate $libc))
        (alias core export $libc "memory" (core memory $memory))
        (core func $take (canon lower (func $take) (memory $memory)))
        (core module $module
            (import "" "take" (func $take (param i32 i32)))
            (func (export "run") (call $take (i32.const 0) (i32.const 0))))
        (core instance $instance (instantiate $module (with "" (instance (export "take" (func $take))))))
        (alias core export $instance "run" (core func $run))
        (func (export "run") (canon lift (core func $run))))
    (instance $a (instantiate $callee))
    (alias export $a "take" (func $take))
    (instance $b (instantiate $caller (with "take" (func $take))))
    (alias export $b "run" (func $run))
    (export "run" (func $run)))"#;

#[test]
fn a_composed_component_is_an_error_of_the_component_and_no_panic() -> Result<()> {
    let composed = wat::parse_str(COMPOSED)?;
    let sandboxes = Sandboxes::new(Pool { concurrency: 1, queue: 1, ..Pool::default() })?;
    for error in [sandboxes.compile(&composed).map(drop), compile(&composed).map(drop)] {
        assert!(matches!(&error, Err(LoadError::Compile(reason)) if reason.contains("composed")), "{error:?}");
    }
    // They go on.
    assert!(sandboxes.compile(COMPONENT).is_ok() && compile(COMPONENT).is_ok());
    Ok(())
}
