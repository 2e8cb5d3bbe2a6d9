//! The component in hosts of other languages, in `host/examples`: each answers the cases of the judge as this host does.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use workspaces_host::{
    COMPONENT,
    harness::{Player, case::built_in},
    runtime::script::{Ending, Played},
};
use workspaces_tests::{
    browser::{Browser, available},
    installed,
};

/// Returns a copy of an example, with the component and the cases in it.
fn example(language: &str) -> Result<TempDir> {
    let (folder, example) =
        (TempDir::new()?, Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/examples").join(language));
    for entry in fs::read_dir(&example)? {
        let entry = entry?;
        // Not what a build has made there.
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
        }
    }
    fs::write(folder.path().join("component.wasm"), COMPONENT)?;
    fs::write(folder.path().join("cases.json"), serde_json::to_vec(&built_in())?)?;
    Ok(folder)
}

/// Runs a command in a folder and returns its output.
fn run(folder: &TempDir, command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().context("no command")?;
    let output = Command::new(program).args(arguments).current_dir(folder.path()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8(output.stdout)?)
}

/// Returns this host's lines: of each case its id, the calls of imports and the answer.
fn expected() -> Result<Vec<String>> {
    let player = Player::new()?;
    let component = player.load(COMPONENT)?;
    let lines = built_in().into_iter().map(|case| {
        let Played { exchanges, ending, .. } = player.play(&component, &case);
        let Ending::Answered(answer) = ending else { anyhow::bail!("{}: {ending:?}", case.id) };
        let calls = exchanges.into_iter().map(|exchange| exchange.call).collect::<Vec<_>>();
        let (id, calls, answer) = (json!(case.id), serde_json::to_string(&calls)?, serde_json::to_string(&answer)?);
        Ok(format!(r#"{{"id":{id},"calls":{calls},"answer":{answer}}}"#))
    });
    lines.collect()
}

/// Compares lines byte for byte.
fn same(lines: &[&str]) -> Result<()> {
    let expected = expected()?;
    ensure!(expected.len() > 60 && lines.len() == expected.len(), "{} lines for {}", lines.len(), expected.len());
    for (line, expected) in lines.iter().zip(&expected) {
        ensure!(line == expected, "expected {expected}\nfound    {line}");
    }
    Ok(())
}

#[test]
#[ignore = "needs packages of PyPI: run with --include-ignored"]
fn a_host_in_python_answers_as_this_one() -> Result<()> {
    if !installed(&["python3"], "python3-venv")? {
        return Ok(());
    }
    let folder = example("python")?;
    run(&folder, &["python3", "-m", "venv", "venv"])?;
    run(&folder, &["venv/bin/pip", "install", "--quiet", "--requirement", "requirements.txt"])?;
    let lines = run(&folder, &["venv/bin/python", "conformance.py", "component.wasm", "cases.json"])?;
    same(&lines.lines().collect::<Vec<_>>())?;
    // The example itself, with auth and storage of its own.
    let example = |request| run(&folder, &["venv/bin/python", "workspaces.py", "component.wasm", request]);
    let created: Value = serde_json::from_str(&example(r#"{"name": " Studio "}"#)?)?;
    assert_eq!(created["created"]["name"], "Studio");
    let forbidden = example(r#"{"account_id": "0190a2b4-6f00-7abc-9def-001122334455"}"#);
    assert!(forbidden.is_err_and(|error| error.to_string().contains("You have no access to this account_id")));
    Ok(())
}

#[test]
#[ignore = "needs packages of npm: run with --include-ignored"]
fn hosts_in_node_and_a_browser_answer_as_this_one() -> Result<()> {
    if !installed(&["node"], "nodejs")? || !installed(&["npm"], "npm")? {
        return Ok(());
    }
    let folder = example("javascript")?;
    run(&folder, &["sh", "build.sh", "component.wasm"])?;
    let lines = run(&folder, &["node", "conformance-node.js", "cases.json"])?;
    same(&lines.lines().collect::<Vec<_>>())?;
    let created: Value = serde_json::from_str(&run(&folder, &["node", "node.js", r#"{"name": " Studio "}"#])?)?;
    assert_eq!(created["name"], "Studio");
    let refused = run(&folder, &["node", "node.js", r#"{"name": "a\u0000b"}"#]);
    assert!(refused.is_err_and(|error| error.to_string().contains("name holds a control character")));
    if available()? {
        in_browser(&folder)?;
    }
    Ok(())
}

/// Server of files.
struct Files(Child);

impl Drop for Files {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn in_browser(folder: &TempDir) -> Result<()> {
    let mut server = Command::new("python3");
    server.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]).current_dir(folder.path());
    let mut server = Files(server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().context("no output")?).read_line(&mut line)?;
    let address = line.split(['(', ')']).nth(1).context("no address")?.to_owned();
    let mut browser = Browser::start()?;
    browser.go(&address)?;
    browser.wait_for("globalThis.conformance")?;
    let lines = browser.evaluate("fetch('cases.json').then((cases) => cases.json()).then(globalThis.conformance)")?;
    let lines: Vec<String> = serde_json::from_value(lines)?;
    same(&lines.iter().map(String::as_str).collect::<Vec<_>>())?;
    // The page itself.
    browser
        .evaluate("document.querySelector('input').value = '  Studio '; document.querySelector('button').click()")?;
    let item = browser.wait_for("document.querySelector('li')?.textContent")?;
    ensure!(item.as_str().is_some_and(|item| item.starts_with("Studio (")), "{item}");
    Ok(())
}
