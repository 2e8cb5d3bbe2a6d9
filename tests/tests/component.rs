//! The built component, as bytes.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use anyhow::Result;
use wasmparser::{ComponentExternalKind, Parser, Payload};
use workspaces_host::COMPONENT;

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
