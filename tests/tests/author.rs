//! The path of a component's author, from nothing to a served component.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use workspaces_host::harness::{Verify, case};
use workspaces_tests::{Answer, Deployment, installed};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

fn page() -> Result<String> {
    Ok(fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/components.md"))?)
}

/// Returns the blocks of a language on the page.
fn blocks(language: &str) -> Result<Vec<String>> {
    let start = format!("```{language}\n");
    let page = page()?;
    Ok(page.split(start.as_str()).skip(1).filter_map(|rest| rest.split("\n```").next()).map(str::to_owned).collect())
}

/// A folder with the program in its path.
fn folder() -> Result<(TempDir, String)> {
    let folder = TempDir::new()?;
    fs::create_dir(folder.path().join("bin"))?;
    symlink(PROGRAM, folder.path().join("bin/workspaces"))?;
    let path = format!("{}:{}", folder.path().join("bin").display(), std::env::var("PATH")?);
    Ok((folder, path))
}

/// Runs a script of the page as it stands.
fn run(folder: &Path, path: &str, script: &str) -> Result<String> {
    let output = Command::new("bash").args(["-ec", script]).current_dir(folder).env("PATH", path).output()?;
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    ensure!(output.status.success(), "{script}: {said}");
    Ok(said)
}

/// Returns the key of the demo's second line that has one.
fn demo_key(lines: impl IntoIterator<Item = String>) -> Option<String> {
    lines.into_iter().find_map(|line| {
        let start = line.find("recoup_sk_")?;
        Some(
            line[start..]
                .chars()
                .take_while(|letter| letter.is_ascii_alphanumeric() || "_-".contains(*letter))
                .collect(),
        )
    })
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn the_page_leads_from_nothing_to_a_served_component_in_rust() -> Result<()> {
    let (folder, path) = folder()?;
    let blocks = blocks("sh")?;
    let said = run(folder.path(), &path, &blocks[0])?;
    assert!(said.contains("fault matrix") && said.contains("\npassed\n"), "{said}");
    let serve = blocks.get(1).context("no second block")?;
    let arguments: Vec<_> = serve.split_whitespace().skip(1).chain(["--listen", "127.0.0.1:0"]).collect();
    let mut command = Command::new(PROGRAM);
    let output = fs::File::create(folder.path().join("log"))?;
    let mut server = Running::start(command.args(arguments).current_dir(folder.path()).stderr(output))?;
    assert_eq!(server.name()?, "Untitled");
    Ok(())
}

/// Makes a project, builds and judges it, and serves it with the limits that it ships. Returns the judge's report.
fn in_language(language: &str) -> Result<(TempDir, String)> {
    let (folder, path) = folder()?;
    let script = format!("workspaces new project --language {language} && sh project/verify.sh --inputs 16");
    let said = run(folder.path(), &path, &script)?;
    ensure!(said.contains("fault matrix") && said.contains("\npassed\n"), "{said}");
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--demo", "--listen", "127.0.0.1:0", "--component", "component.wasm"]);
    command.args(["--limits", "limits.toml"]).current_dir(folder.path().join("project"));
    let log = fs::File::create(folder.path().join("log"))?;
    let mut server = Running::start(command.stderr(log))?;
    ensure!(server.name()? == "Untitled", "another name");
    Ok((folder, said))
}

#[test]
#[ignore = "takes minutes, and packages of npm: run with --include-ignored"]
fn a_project_in_javascript_keeps_the_contract_and_is_served() -> Result<()> {
    if !installed(&["node"], "nodejs")? || !installed(&["npm"], "npm")? {
        return Ok(());
    }
    in_language("javascript").map(drop)
}

#[test]
#[ignore = "takes minutes, and packages of PyPI: run with --include-ignored"]
fn a_project_in_python_keeps_the_contract_and_is_served_and_needs_its_limits() -> Result<()> {
    if !installed(&["python3"], "python3-venv")? {
        return Ok(());
    }
    let (folder, _) = in_language("python")?;
    // Without its limits it is refused at once, before it is compiled.
    let deployment = Deployment::new(PROGRAM)?;
    let component = folder.path().join("project/component.wasm");
    fs::write(deployment.folder().join("pool.toml"), "[pool]\ncomponent-size = \"32MiB\"\n")?;
    let start = Instant::now();
    let arguments = ["serve", "--demo", "--limits", "pool.toml", "--component", component.to_str().context("path")?];
    let output = deployment.output(&arguments)?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("where pool.core-instances is 16"), "{said}");
    assert!(start.elapsed() < Duration::from_secs(10), "it was compiled");
    Ok(())
}

/// A server of a demo, and the lines that it prints.
struct Running {
    child: Child,
    lines: Receiver<String>,
    address: String,
    key: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let (sender, lines) = channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut running = Self { child, lines, address: String::new(), key: String::new() };
        let mut said = Vec::new();
        while running.address.is_empty() || running.key.is_empty() {
            let line = running.lines.recv_timeout(Duration::from_secs(120));
            let line = line.with_context(|| format!("no server: {said:?}"))?;
            if let Some(address) = line.strip_prefix("listening on http://") {
                address.clone_into(&mut running.address);
            }
            if let Some(key) = demo_key([line.clone()]) {
                running.key = key;
            }
            said.push(line);
        }
        Ok(running)
    }

    /// Returns the name of a workspace that is created without one.
    fn name(&mut self) -> Result<String> {
        let mut stream = std::net::TcpStream::connect(&self.address)?;
        let headers = [("Content-Type", "application/json"), ("x-api-key", self.key.as_str())];
        workspaces_tests::write_head(&mut stream, "POST", "/api/workspaces", &headers, Some(2))?;
        std::io::Write::write_all(&mut stream, b"{}")?;
        let answer = Answer::read(stream)?;
        ensure!(answer.status == 201, "{answer:?}");
        let body: serde_json::Value = answer.json()?;
        Ok(body["workspace"]["name"].as_str().context("no name")?.to_owned())
    }
}

/// Makes a project in C.
fn project_in_c(folder: &Path, path: &str) -> Result<PathBuf> {
    run(folder, path, "workspaces new project --language c && sh project/verify.sh")?;
    Ok(folder.join("project"))
}

/// Returns whether what compiles C is there.
fn has_clang() -> Result<bool> {
    Ok(installed(&["clang"], "clang")? && installed(&["wasm-ld"], "lld")?)
}

#[test]
fn a_project_in_c_keeps_the_contract_and_names_the_function_that_it_lacks() -> Result<()> {
    if !has_clang()? {
        return Ok(());
    }
    let (folder, path) = folder()?;
    let project = project_in_c(folder.path(), &path)?;
    let report = Verify::new(fs::read(project.join("component.wasm"))?).inputs(1000).run()?;
    assert!(report.passed(), "{report}");
    // A second time there is something in the folder already.
    let again = Command::new(PROGRAM).args(["new", "project"]).current_dir(folder.path()).output()?;
    assert!(again.status.code() == Some(1) && String::from_utf8_lossy(&again.stderr).contains("is not empty"));
    let source = fs::read_to_string(project.join("component.c"))?;
    for (before, after, part) in
        [("#create-workspace\")", "#create\")", "create-workspace"), ("cabi_realloc\")", "realloc\")", "cabi_realloc")]
    {
        fs::write(project.join("component.c"), source.replace(before, after))?;
        let built = Command::new("sh").arg("build.sh").current_dir(&project).env("PATH", &path).output()?;
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(!built.status.success() && said.contains("module.wasm: no component") && said.contains(part), "{said}");
    }
    Ok(())
}

#[test]
fn dev_serves_each_good_change_and_no_bad_one() -> Result<()> {
    if !has_clang()? {
        return Ok(());
    }
    let (folder, path) = folder()?;
    let project = project_in_c(folder.path(), &path)?;
    let source = fs::read_to_string(project.join("component.c"))?;
    let mut command = Command::new(PROGRAM);
    command.args(["dev", "project", "--listen", "127.0.0.1:0"]).current_dir(folder.path()).env("PATH", &path);
    let child = command.stderr(Stdio::piped());
    let mut server = Running::start(child)?;
    let errors = BufReader::new(server.child.stderr.take().context("no errors")?);
    let (sender, said) = channel();
    thread::spawn(move || errors.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    assert_eq!(server.name()?, "Untitled");

    let wait_for = |part: &str| -> Result<()> {
        let mut lines = Vec::new();
        while let Ok(line) = said.recv_timeout(Duration::from_secs(60)) {
            if line.contains(part) {
                return Ok(());
            }
            lines.push(line);
        }
        anyhow::bail!("{part} was not said: {lines:#?}")
    };
    fs::write(project.join("component.c"), source.replace("Untitled", "Nameless"))?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.name()? != "Nameless" {
        ensure!(Instant::now() < deadline, "the change is not served");
        thread::sleep(Duration::from_millis(50));
    }
    // One that breaks a rule, and one that does not compile.
    fs::write(project.join("component.c"), source.replace("answer.is_workspace = 1", "answer.is_workspace = 0"))?;
    wait_for("FAILED reports-workspace@case/plain")?;
    wait_for("it does not keep the contract: the component before goes on")?;
    assert_eq!(server.name()?, "Nameless");
    fs::write(project.join("component.c"), "no C")?;
    wait_for("the build failed: the component before goes on")?;
    assert_eq!(server.name()?, "Nameless");
    // The log of requests comes through.
    wait_for(" 201 POST /api/workspaces ")?;
    Ok(())
}

#[test]
fn the_case_of_the_page_is_one_and_the_built_in_component_keeps_it() -> Result<()> {
    let folder = TempDir::new()?;
    let blocks = blocks("json")?;
    assert_eq!(blocks.len(), 1);
    fs::write(folder.path().join("case.json"), &blocks[0])?;
    let cases = case::read(folder.path())?;
    let id = cases[0].id.clone();
    let report = Verify::new(workspaces_host::COMPONENT).cases(cases).only(id).run()?;
    assert!(report.passed() && report.cases.len() == 1, "{report}");
    // A field that there is not, and two cases of one id.
    for (text, part) in [
        (blocks[0].replace("\"sentence\"", "\"sentenze\""), "unknown field `sentenze`"),
        (format!("[{0},{0}]", blocks[0]), "two cases have the id no-workspace-for-guests"),
    ] {
        fs::write(folder.path().join("case.json"), text)?;
        let deployment = Deployment::new(PROGRAM)?;
        let output = deployment.output(&["verify", "--cases", &folder.path().display().to_string()])?;
        let mut said = String::new();
        output.stderr.as_slice().read_to_string(&mut said)?;
        assert!(output.status.code() == Some(2) && said.contains(part), "{said}");
    }
    Ok(())
}

#[test]
fn a_file_of_limits_names_its_mistakes_with_their_places() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let verify = |text: &str| -> Result<(Option<i32>, String)> {
        fs::write(deployment.folder().join("limits.toml"), text)?;
        let output = deployment.output(&["verify", "--limits", "limits.toml", "--inputs", "0"])?;
        Ok((output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
    };
    for (text, part) in [
        (
            "[limits]\nmemory = \"64MiB\"\n",
            "limits.toml:2:10: limits.memory: over 16777216, the limit of the pool (pool.memory)",
        ),
        ("[limits]\nmemroy = \"1MiB\"\n", "limits.toml:2:1: limits: unknown key memroy: did you mean memory?"),
        ("[limits]\nmemories = 9\n", "limits.toml:2:12: limits.memories: over 4"),
        ("wasi = \"all\"\n", "limits.toml:1:8: wasi"),
        ("component = \"a.wasm\"\n", "limits.toml:1:1: unknown key component"),
        ("[limits\n", "limits.toml:1:"),
    ] {
        let (code, said) = verify(text)?;
        assert!(code == Some(2) && said.contains(part), "{text}: {said}");
    }
    let good = "wasi = \"deny\"\n[limits]\nmemory = \"64MiB\"\n[pool]\nmemory = \"64MiB\"\n[compile]\ntime = \"1m\"\n";
    let (code, said) = verify(good)?;
    assert!(code == Some(0), "{said}");
    Ok(())
}
