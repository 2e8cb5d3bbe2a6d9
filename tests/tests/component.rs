//! The built component, as bytes.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use anyhow::Result;
use wasmparser::{ComponentExternalKind, Parser, Payload};
use workspaces_host::{
    COMPONENT, CreateWorkspaceRequest,
    harness::Verify,
    runtime::{
        LoadError, Pool, SandboxLimits, Sandboxes, compile,
        script::{Answer, Call, Ending, Exchange, Replies, Reply},
    },
};
use workspaces_tests::{
    composed::{composed, relay},
    hostile_components::Module,
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

/// Returns sandboxes for one at a time.
fn sandboxes() -> Result<Sandboxes> {
    Ok(Sandboxes::new(Pool { concurrency: 1, queue: 1, ..Pool::default() })?)
}

#[test]
fn composed_components_keep_the_contract() -> Result<()> {
    // The first one's memory is between the guest's and the host's; the second one's between both of them.
    let same = relay("(local.get 0)")?;
    let once = composed(COMPONENT, &[&same])?;
    let twice = composed(&once, &[&relay("(local.get 0)")?])?;
    for component in [once, twice] {
        let report = Verify::new(&*component).default_rules().inputs(32).run()?;
        assert!(report.passed() && report.shape.memories > 1, "{report}");
        compile(&component)?;
    }
    Ok(())
}

#[test]
fn a_component_of_a_composition_that_changes_a_name_is_found() -> Result<()> {
    // The guest reports the name that it has sent, and storage has got another one.
    let loud = composed(COMPONENT, &[&relay("(i32.xor (local.get 0) (i32.const 32))")?])?;
    let report = Verify::new(loud).inputs(0).run()?;
    assert!(!report.passed() && report.to_string().contains("FAILED reports-name"), "{report}");
    Ok(())
}

/// A component of the world, in which each call grows both memories and both tables, in turns, until nothing grows any more.
const GROWS: Module<'_> = Module {
    pages: 2,
    fields: r#"(memory $second 1) (table $a 1 funcref) (table $b 1 funcref)"#,
    realloc: "(i32.const 65536)",
    operation: r#"
        (loop $more
            (local.set 0 (i32.const 0))
            (if (i32.ne (memory.grow 0 (i32.const 1)) (i32.const -1)) (then (local.set 0 (i32.const 1))))
            (if (i32.ne (memory.grow $second (i32.const 1)) (i32.const -1)) (then (local.set 0 (i32.const 1))))
            (if (i32.ne (table.grow $a (ref.null func) (i32.const 9)) (i32.const -1)) (then (local.set 0 (i32.const 1))))
            (if (i32.ne (table.grow $b (ref.null func) (i32.const 9)) (i32.const -1)) (then (local.set 0 (i32.const 1))))
            (br_if $more (local.get 0)))
        ;; A trap where the sums are not what the limits say.
        (if (i32.ne (i32.add (memory.size 0) (memory.size $second)) (i32.const 32)) (then unreachable))
        (if (i32.gt_u (i32.add (table.size $a) (table.size $b)) (i32.const 100)) (then unreachable))
        (if (i32.lt_u (i32.add (table.size $a) (table.size $b)) (i32.const 92)) (then unreachable))"#,
};

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_for_all_memories_and_tables_together() -> Result<()> {
    let limits = SandboxLimits { memory: 32 << 16, table_elements: 100, ..SandboxLimits::default() };
    let sandboxes = sandboxes()?;
    let component = sandboxes.compile(&GROWS.component()?)?;
    let played = sandboxes.play(&component, &limits, &CreateWorkspaceRequest::default(), Nothing).await;
    let is_answer = matches!(played.ending, Ending::Answered(Answer::Refused { .. }));
    assert!(is_answer && played.cost.memory == 32 << 16, "{played:?}");
    Ok(())
}

/// Imports that trap.
struct Nothing;

impl Replies for Nothing {
    fn reply(&mut self, _: &Call, _: &[Exchange]) -> Reply {
        Reply::Trap
    }
}

#[test]
fn needs_are_compared_with_each_limit_before_anything_is_compiled() -> Result<()> {
    let component = composed(COMPONENT, &[&relay("(local.get 0)")?])?;
    let is_allowed = |pool: Pool| match Sandboxes::new(pool).and_then(|sandboxes| sandboxes.compile(&component)) {
        Ok(_) => Ok(()),
        Err(LoadError::Needs(reason)) => Err(reason),
        Err(other) => Err(other.to_string()),
    };
    let pool = || Pool { concurrency: 1, slow: 1, queue: 1, ..Pool::default() };
    assert_eq!(is_allowed(pool()), Ok(()));
    for (pool, reason) in [
        (Pool { memories: 1, ..pool() }, "2, where pool.memories is 1"),
        (Pool { core_instances: 3, ..pool() }, "where pool.core-instances is 3"),
        (Pool { tables: 1, ..pool() }, "where pool.tables is 1"),
        (Pool { memory: 2 << 16, ..pool() }, "where pool.memory is 131072"),
        (Pool { table_elements: 1, ..pool() }, "where pool.table-elements is 1"),
    ] {
        let allowed = is_allowed(pool);
        assert!(matches!(&allowed, Err(found) if found.contains(reason)), "{reason}: {allowed:?}");
    }
    Ok(())
}

/// Returns components with a few bytes changed or cut off.
fn broken(seed: u64) -> Result<Vec<Vec<u8>>> {
    let relayed = composed(COMPONENT, &[&relay("(local.get 0)")?])?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut broken = Vec::new();
    for component in [COMPONENT.to_vec(), relayed] {
        for _ in 0..50 {
            let mut bytes = component.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(8..bytes.len());
                bytes[at] = random.u8(..);
            }
            if random.bool() {
                bytes.truncate(random.usize(8..bytes.len()));
            }
            broken.push(bytes);
        }
    }
    Ok(broken)
}

#[test]
fn a_broken_component_is_an_error_and_no_panic() -> Result<()> {
    let sandboxes = sandboxes()?;
    let (seed, mut refused) = (fastrand::u64(..), 0);
    for bytes in broken(seed)? {
        // A panic within them is caught, and would have a reason of its own.
        for loaded in [sandboxes.compile(&bytes).map(drop), compile(&bytes).map(drop)] {
            if let Err(error) = loaded {
                assert!(!error.to_string().contains("the compiler failed on it"), "seed {seed}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 50, "seed {seed}: {refused}");
    // They go on.
    assert!(sandboxes.compile(COMPONENT).is_ok() && compile(COMPONENT).is_ok());
    Ok(())
}
