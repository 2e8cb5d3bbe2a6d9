//! The judge of components: right ones pass, each wrong one breaks the rule that it was made to break, and no other.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use workspaces_host::{COMPONENT, harness::Verify};
use workspaces_tests::{
    Deployment,
    browser::Browser,
    hostile_components::{Module, component, other_shape},
    mutants::{FAULTS, Mutants, OTHER_RULES},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

fn mutants() -> Result<Mutants> {
    Mutants::build(env!("CARGO_TARGET_TMPDIR"))
}

/// Returns the rules that a report names.
fn broken(report: &workspaces_host::harness::Report) -> BTreeSet<&'static str> {
    report.failures.iter().map(|failure| failure.violation.rule.word()).collect()
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

#[test]
fn the_built_in_component_passes_by_all_rules() -> Result<()> {
    let report = Verify::new(COMPONENT).default_rules().run()?;
    assert!(report.passed(), "{report}");
    // The same component beside itself: a wide range, as the machine does other work.
    assert!(report.instantiation.is_some_and(|ratio| (0.2..5.0).contains(&ratio)), "{report}");
    assert!(report.cases.len() > 50 && report.cells.len() > 100 && report.inputs == 256, "{report}");
    assert_eq!(report.cells_passed(), report.cells.len());
    Ok(())
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn each_fault_is_found_by_the_rule_that_it_breaks_and_no_other() -> Result<()> {
    let mutants = mutants()?;
    let right = Verify::new(mutants.mutant(0)?).default_rules().run()?;
    assert!(right.passed(), "{right}");
    let mut wrong = Vec::new();
    for (number, does, rule) in FAULTS {
        let report = Verify::new(mutants.mutant(number)?).run()?;
        ensure!(report.is_loaded(), "{does}: {report}");
        if broken(&report) != BTreeSet::from([rule]) {
            wrong.push(format!("{number}: {does}: expected {rule}, found {:?}", broken(&report)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let rules: BTreeSet<_> = FAULTS.iter().map(|(_, _, rule)| *rule).collect();
    assert!(rules.len() >= 18, "{rules:?}");
    Ok(())
}

#[test]
fn other_rules_than_the_built_in_components_are_found_where_they_are_asked_for() -> Result<()> {
    let mutants = mutants()?;
    for (number, does, rule) in OTHER_RULES {
        let wasm = mutants.mutant(number)?;
        let report = Verify::new(wasm.clone()).run()?;
        assert!(report.passed(), "{does}: {report}");
        let report = Verify::new(wasm).default_rules().inputs(0).run()?;
        assert_eq!(broken(&report), BTreeSet::from([rule]), "{does}: {report}");
    }
    Ok(())
}

/// Components whose shape is wrong: a part of the difference, and of the remedy.
fn wrong_shapes() -> Result<Vec<(Vec<u8>, &'static str, &'static str)>> {
    let wat = |text: &str| wat::parse_str(text);
    let import = |name: &str| wat(&format!("(component (import \"{name}\" (instance)))"));
    Ok(vec![
        (b"{}".to_vec(), "- a WebAssembly component", "this is no WebAssembly"),
        (Vec::new(), "- a WebAssembly component", "this is no WebAssembly"),
        (b" (component)".to_vec(), "- a WebAssembly component", "wasm-tools parse"),
        (wat("(module)")?, "+ a core module", "wasm-tools component new"),
        (COMPONENT[..COMPONENT.len() / 2].to_vec(), "+ ", "the file is cut"),
        (wat("(component)")?, "- export recoup:workspaces/workspaces@1.0.0", "exports the interface workspaces"),
        (import("wasi:cli/environment@0.2.0")?, "+ import wasi:cli/environment@0.2.0", "gives no WASI"),
        (import("acme:log/log@1.0.0")?, "+ import acme:log/log@1.0.0", "auth and storage and nothing else"),
        (import("recoup:workspaces/auth@2.0.0")?, "+ recoup:workspaces/auth@2.0.0", "another major version"),
        (import("recoup:workspaces/clock@1.0.0")?, "+ import recoup:workspaces/clock@1.0.0", "no such interface"),
        (other_shape()?, "is-workspace: u32", "are not of this contract"),
        (
            Module { pages: 300, ..Module::default() }.component()?,
            "+ memory: 19660800",
            "raise limits.memory of the tenant, and pool.memory",
        ),
        (
            Module { fields: "(table 20000 funcref)", ..Module::default() }.component()?,
            "+ table-elements: 2000",
            "limits.table-elements",
        ),
        (
            Module { fields: &"(table 1 funcref)".repeat(9), ..Module::default() }.component()?,
            "- tables: 8 at most",
            "raise limits.tables of the tenant, and pool.tables",
        ),
    ])
}

#[test]
fn a_wrong_shape_is_shown_as_a_difference_with_a_remedy_and_exit_code_3() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    for (number, (wasm, difference, remedy)) in wrong_shapes()?.into_iter().enumerate() {
        fs::write(deployment.folder().join("wrong.wasm"), wasm)?;
        let output = deployment.output(&["verify", "wrong.wasm"])?;
        let said = text(&output);
        assert_eq!(output.status.code(), Some(3), "{number}: {said}");
        assert!(said.contains(difference) && said.contains(remedy), "{number}: {difference} {remedy}: {said}");
    }
    let missing = deployment.output(&["verify", "missing.wasm"])?;
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
    // Where there is no verdict, the code is none of a verdict's.
    fs::write(deployment.folder().join("text"), "{")?;
    for (arguments, code, part) in [
        (&["--rules", "none"][..], 2, "invalid value 'none'"),
        (&["--case", "none"], 2, "no case has the id none"),
        (&["--cases", "missing"], 2, "can't read missing"),
        (&["--cases", "text"], 2, "is no case"),
        (&["--budget", "text"], 2, "text is no budget"),
        (&["--expect", "missing"], 2, "can't read missing"),
        (&["--baseline", "missing"], 3, "can't read the component missing"),
        (&["--against", "text"], 3, "--baseline or --against: not a component"),
    ] {
        for json in [&[][..], &["--json"]] {
            let output = deployment.output(&[&["verify"], arguments, json].concat())?;
            assert!(output.status.code() == Some(code) && text(&output).contains(part), "{arguments:?}: {output:?}");
        }
    }
    Ok(())
}

/// A folder with a component that breaks a rule in its matrix.
fn failing(number: u16) -> Result<Deployment> {
    let deployment = Deployment::new(PROGRAM)?;
    fs::write(deployment.folder().join("wrong.wasm"), mutants()?.mutant(number)?)?;
    fs::write(deployment.folder().join("right.wasm"), COMPONENT)?;
    Ok(deployment)
}

#[test]
fn a_report_names_input_rule_expected_and_seen_and_its_case_repeats_the_failure() -> Result<()> {
    let deployment = failing(3)?;
    let output = deployment.output(&["verify", "wrong.wasm", "--write-cases", "found"])?;
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "FAILED answers@inputs",
        "rule      A component answers each request",
        "request   {\"name\":",
        "expected  an answer",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // The trap's backtrace, with the functions' names.
    assert!(said.contains("fault (unreachable)") && said.contains("#create-workspace"), "{said}");
    let file = deployment.folder().join("found/answers-inputs.json");
    let found: Value = serde_json::from_slice(&fs::read(&file)?)?;
    // 201 characters are the shortest name that traps.
    let name = found["request"]["name"].as_str().context("no name")?;
    assert!(name.chars().count() > 200, "{found}");
    assert!(found["request"]["account_id"].is_null() && found["request"]["organization_id"].is_null(), "{found}");
    let again = deployment.output(&["verify", "wrong.wasm", "--cases", "found", "--case", "answers-inputs"])?;
    assert!(again.status.code() == Some(1) && text(&again).contains("answers@case/answers-inputs"), "{}", text(&again));
    // The right component keeps the same case.
    let right = deployment.output(&["verify", "right.wasm", "--cases", "found", "--case", "answers-inputs"])?;
    assert!(right.status.success(), "{}", text(&right));
    Ok(())
}

#[test]
fn known_failures_pass_until_they_are_mended() -> Result<()> {
    let deployment = failing(64)?;
    let report: Value = serde_json::from_slice(&deployment.output(&["verify", "wrong.wasm", "--json"])?.stdout)?;
    let ids: Vec<_> = report["failures"]
        .as_array()
        .context("no failures")?
        .iter()
        .filter_map(|failure| failure["id"].as_str())
        .collect();
    assert!(ids.len() > 3 && report["passed"] == false, "{report:#}");
    fs::write(deployment.folder().join("known"), format!("# to be mended\n{}\n", ids.join("\n")))?;
    assert!(deployment.output(&["verify", "wrong.wasm", "--expect", "known"])?.status.success());
    let mended = deployment.output(&["verify", "right.wasm", "--expect", "known"])?;
    assert!(
        mended.status.code() == Some(1) && text(&mended).contains("MENDED tells-storage-errors@"),
        "{}",
        text(&mended)
    );
    Ok(())
}

#[test]
fn costs_are_the_same_in_each_run_and_held_to_a_budget() -> Result<()> {
    let deployment = failing(50)?;
    deployment.run(&["verify", "right.wasm", "--write-budget", "budget.json"])?;
    deployment.run(&["verify", "right.wasm", "--budget", "budget.json", "--inputs", "0"])?;
    let mut budget: Value = serde_json::from_slice(&fs::read(deployment.folder().join("budget.json"))?)?;
    let instructions = budget["plain"]["instructions"].as_u64().context("no instructions")?;
    assert!((100..1_000_000).contains(&instructions), "{budget}");
    budget["plain"]["instructions"] = (instructions - 1).into();
    fs::write(deployment.folder().join("budget.json"), budget.to_string())?;
    let over = deployment.output(&["verify", "right.wasm", "--budget", "budget.json"])?;
    let expected =
        format!("OVER BUDGET plain: instructions: {instructions}, where the budget has {}", instructions - 1);
    assert!(over.status.code() == Some(1) && text(&over).contains(&expected), "{}", text(&over));
    // The other component costs more or less, and its report says how much.
    let other = text(&deployment.output(&["verify", "wrong.wasm", "--baseline", "right.wasm"])?);
    assert!(other.contains(&format!("plain: instructions {instructions} → ")), "{other}");
    let same = text(&deployment.output(&["verify", "right.wasm", "--baseline", "right.wasm"])?);
    assert!(!same.contains(" → "), "{same}");
    Ok(())
}

#[test]
fn the_built_in_component_costs_no_more_than_its_budget() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    fs::write(deployment.folder().join("built-in.wasm"), COMPONENT)?;
    let budget = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest/budget.json");
    let output = deployment.output(&["verify", "built-in.wasm", "--budget", budget, "--inputs", "0"])?;
    assert!(
        output.status.success(),
        "a change that costs more on purpose writes the file anew: workspaces verify COMPONENT --write-budget guest/budget.json\n{}",
        text(&output)
    );
    Ok(())
}

#[test]
fn a_comparison_says_which_version_a_change_calls_for() -> Result<()> {
    let deployment = failing(0)?;
    let mutants = mutants()?;
    for (old, new, verdict, difference) in [
        (0, 0, "patch", None),
        (72, 0, "patch", Some("has another message")),
        (86, 0, "minor", Some("creates what the old one refuses")),
        (0, 86, "breaking", Some("refuses what the old one creates")),
        (0, 83, "breaking", Some("creates another workspace")),
        (0, 61, "breaking", Some("answers another error")),
        (0, 3, "breaking", Some("fails where the old one answers")),
        (3, 0, "patch", Some("answers where the old one fails")),
    ] {
        fs::write(deployment.folder().join("old.wasm"), mutants.mutant(old)?)?;
        fs::write(deployment.folder().join("new.wasm"), mutants.mutant(new)?)?;
        let output = deployment.output(&["verify", "new.wasm", "--against", "old.wasm", "--rules", "default"])?;
        let said = text(&output);
        let line = said.lines().find(|line| line.starts_with("against sha256 ")).context(said.clone())?;
        assert!(line.ends_with(&format!(" inputs: {verdict}")), "{old} to {new}: {said}");
        assert!(difference.is_none_or(|difference| said.contains(difference)), "{old} to {new}: {said}");
    }
    Ok(())
}

#[test]
fn reports_have_the_forms_of_ci_systems() -> Result<()> {
    let deployment = failing(71)?;
    let junit = text(&deployment.output(&["verify", "wrong.wasm", "--format", "junit"])?);
    let parser = "import sys, xml.etree.ElementTree as t; r = t.parse(sys.stdin).getroot(); print(r.get('tests'), r.get('failures'), len(r.findall('testcase')), len(r.findall('testcase/failure')))";
    fs::write(deployment.folder().join("junit.xml"), &junit)?;
    let parsed = Command::new("/usr/bin/python3")
        .args(["-c", parser])
        .stdin(fs::File::open(deployment.folder().join("junit.xml"))?)
        .output()?;
    let parsed = text(&parsed);
    let numbers: Vec<u64> =
        parsed.split_whitespace().map(str::parse).collect::<Result<_, _>>().with_context(|| parsed.clone())?;
    assert!(numbers[0] > 100 && numbers[0] == numbers[2] && numbers[1] > 0 && numbers[1] == numbers[3], "{parsed}");
    let github = text(&deployment.output(&["verify", "wrong.wasm", "--format", "github"])?);
    assert!(
        github.lines().count() > 1
            && github.lines().all(|line| line.starts_with("::error file=wrong.wasm,title=messages-fit@")),
        "{github}"
    );
    assert_eq!(text(&deployment.output(&["verify", "right.wasm", "--format", "github"])?), "");
    Ok(())
}

#[test]
fn the_page_of_a_report_shows_the_matrix_in_a_browser() -> Result<()> {
    let deployment = failing(58)?;
    let output = deployment.output(&["verify", "wrong.wasm", "--format", "html", "--output", "report.html"])?;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let mut browser = Browser::start()?;
    browser.go(&format!("file://{}", deployment.folder().join("report.html").display()))?;
    let count = |browser: &mut Browser, selector: &str| -> Result<u64> {
        let found = browser.evaluate(&format!("document.querySelectorAll({selector:?}).length"))?;
        found.as_u64().with_context(|| found.to_string())
    };
    browser.wait_for("document.getElementById('cases')")?;
    assert_eq!(browser.evaluate("document.getElementById('verdict').textContent")?, "failed");
    let (good, bad) = (count(&mut browser, "#matrix .cell.good")?, count(&mut browser, "#matrix .cell.bad")?);
    assert!(good > 100 && bad == 4, "{good} {bad}");
    // The cells have a size and a colour.
    let shown = browser.evaluate("(() => { const cell = document.querySelector('#matrix .cell.bad'); const box = cell.getBoundingClientRect(); return [box.width > 8, getComputedStyle(cell).backgroundColor].join(' ') })()")?;
    assert_eq!(shown, "true rgb(192, 57, 43)");
    let bars = browser.evaluate(
        "Math.max(...[...document.querySelectorAll('.bar')].map(bar => bar.getBoundingClientRect().width))",
    )?;
    assert!(bars.as_f64().is_some_and(|width| width > 200.0), "{bars}");
    Ok(())
}

#[test]
fn the_contract_is_printed_as_files_that_bindings_can_be_made_of() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    deployment.run(&["wit", "--output", "wit"])?;
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../wit"))? {
        let entry = entry?;
        let written = fs::read_to_string(deployment.folder().join("wit").join(entry.file_name()))?;
        assert_eq!(written, fs::read_to_string(entry.path())?, "{entry:?}");
    }
    // What is printed is one document.
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_source("printed.wit", &deployment.run(&["wit"])?)?;
    assert!(resolve.select_world(&[package], Some("plugin")).is_ok());
    Ok(())
}

#[test]
fn a_component_cannot_write_to_the_terminal_through_a_report() -> Result<()> {
    // A message of 7 bytes at 2048.
    let escape = component(
        "(i32.store8 (i32.const 512) (i32.const 1)) (i32.store (i32.const 520) (i32.const 2048)) (i32.store (i32.const 524) (i32.const 7))
         (i32.store8 (i32.const 2048) (i32.const 27)) (i32.store8 (i32.const 2049) (i32.const 91)) (return (i32.const 512))",
    )?;
    let deployment = Deployment::new(PROGRAM)?;
    fs::write(deployment.folder().join("wrong.wasm"), escape)?;
    for format in ["text", "json", "junit", "github", "html"] {
        let output = deployment.output(&["verify", "wrong.wasm", "--format", format])?;
        assert!(output.status.code() == Some(1) && !output.stdout.contains(&27), "{format}: {}", text(&output));
    }
    Ok(())
}
