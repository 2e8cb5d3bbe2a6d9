//! The commands of the program, as a shell runs them.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::process::{Command, Stdio};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rusqlite::Connection;
use serde_json::Value;
use workspaces_tests::{Deployment, Server};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");
const UNKNOWN: &str = "123e4567-e89b-42d3-a456-426614174000";

/// Asserts that a command fails with this exit code and says so much on standard error.
fn assert_fails(deployment: &Deployment, arguments: &[&str], code: i32, part: &str) -> Result<()> {
    let output = deployment.output(arguments)?;
    let message = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(message.contains(part), "{arguments:?}: {message:?} does not say {part:?}");
    Ok(())
}

#[test]
fn the_demo_prints_commands_that_work_as_pasted_and_fit_a_terminal() -> Result<()> {
    let mut demo =
        Command::new(PROGRAM).args(["serve", "--demo", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn()?;
    let stdout = BufReader::new(demo.stdout.take().context("no standard output")?);
    let text: Vec<_> = stdout.lines().map_while(Result::ok).take_while(|line| !line.ends_with("/docs/")).collect();
    let lines = text.join("\n");
    assert!(text.iter().all(|line| line.len() <= 80), "wider than a terminal: {lines}");
    for part in ["Ada", "Grace", "organization", "Ctrl-C"] {
        assert!(lines.contains(part), "{lines}");
    }
    let commands: Vec<_> = lines.split("\n\n").filter(|block| block.starts_with("curl ")).collect();
    let answers: Vec<_> = commands
        .iter()
        .map(|command| Command::new("sh").args(["-c", command]).stderr(Stdio::null()).output())
        .collect::<Result<_, _>>()?;
    demo.kill()?;
    demo.wait()?;
    let [created, denied] = &answers[..] else { anyhow::bail!("not two commands: {lines}") };
    let (created, denied) = (String::from_utf8_lossy(&created.stdout), String::from_utf8_lossy(&denied.stdout));
    assert!(created.starts_with("HTTP/1.1 201 Created\r\n"), "{created:?} (this test needs curl)");
    let (_, body) = created.split_once("\r\n\r\n").context("no body")?;
    assert_eq!(serde_json::from_str::<Value>(body)?["workspace"]["name"], "First");
    assert!(denied.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{denied:?}");
    Ok(())
}

#[test]
fn mistyped_addresses_are_not_repeated_with_their_passwords() -> Result<()> {
    for (option, address, part) in [
        ("--database", "postgre://ada:secret@localhost/x", "postgres://"),
        ("--jwt-keys", "https://ada:secret@id.example:port/keys", "--jwt-keys"),
        ("--jwt-keys", "http://ada:secret@id.example/keys", "https"),
    ] {
        let output = Command::new(PROGRAM).args(["serve", option, address]).output()?;
        let message = String::from_utf8(output.stderr)?;
        assert!(
            output.status.code() == Some(2) && message.contains(part) && !message.contains("secret"),
            "{option}: {message}"
        );
    }
    Ok(())
}

/// Returns every command of the program, from its own help.
fn commands(path: &[String]) -> Result<Vec<Vec<String>>> {
    let output = Command::new(PROGRAM).args(path).arg("--help").output()?;
    let help = String::from_utf8(output.stdout)?;
    let names = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut all = vec![path.to_vec()];
    for name in names.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty())) {
        if name != "help" {
            all.extend(commands(&[path, &[name.to_owned()]].concat())?);
        }
    }
    Ok(all)
}

#[test]
fn help_shows_no_value_of_the_environment() -> Result<()> {
    let commands = commands(&[])?;
    assert!(commands.len() > 12, "{commands:?}");
    let mut variables = std::collections::BTreeSet::new();
    for command in &commands {
        let help = String::from_utf8(Command::new(PROGRAM).args(command).arg("--help").output()?.stdout)?;
        // The help is wrapped.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let names = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
        variables.extend(names.map(str::to_owned));
    }
    for known in ["WORKSPACES_DATABASE", "WORKSPACES_KEY_PEPPER", "WORKSPACES_JWT_KEYS", "WORKSPACES_ADMIN"] {
        assert!(variables.contains(known), "{variables:?}");
    }
    for command in &commands {
        for flag in ["--help", "-h"] {
            let canaries = variables.iter().map(|name| (name, "canary"));
            let output = Command::new(PROGRAM).args(command).arg(flag).envs(canaries).output()?;
            let help = String::from_utf8([output.stdout, output.stderr].concat())?;
            assert!(help.contains("Usage:") && !help.contains("canary"), "{command:?}: {help}");
        }
    }
    Ok(())
}

#[test]
fn help_is_as_wide_on_every_terminal_and_its_examples_stay_whole() -> Result<()> {
    let mut examples = Vec::new();
    for command in commands(&[])? {
        let help = |columns: &str| -> Result<String> {
            let output = Command::new(PROGRAM).args(&command).arg("--help").env("COLUMNS", columns).output()?;
            Ok(String::from_utf8(output.stdout)?)
        };
        let (narrow, wide) = (help("40")?, help("200")?);
        assert_eq!(narrow, wide, "{command:?}");
        for line in narrow.lines().filter(|line| !line.starts_with("Usage:")) {
            assert!(line.chars().count() <= 80, "{command:?}: {line}");
        }
        // Lines for a shell are set off, and no prose before the options begins so.
        let is_example =
            |line: &&str| ["  workspaces ", "  export ", "  account="].iter().any(|start| line.starts_with(start));
        examples.extend(narrow.lines().filter(is_example).map(str::to_owned));
        for line in narrow.lines().filter(|line| line.contains("workspaces ") && line.contains(['>', '|'])) {
            assert!(is_example(&line), "{command:?} has an example within a paragraph: {line}");
        }
    }
    assert!(examples.len() >= 9, "{examples:#?}");
    for example in examples {
        let parsed = Command::new("bash").args(["-n", "-c", &example]).output()?;
        assert!(parsed.status.success(), "{example}: {}", String::from_utf8_lossy(&parsed.stderr));
    }
    Ok(())
}

#[test]
fn completions_and_the_manual_name_every_command() -> Result<()> {
    let commands = commands(&[])?;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = Command::new(PROGRAM).args(["completions", shell]).output()?;
        let script = String::from_utf8(output.stdout)?;
        assert!(output.status.success() && script.contains("add-member") && script.contains("log-format"), "{shell}");
    }
    let manual = String::from_utf8(Command::new(PROGRAM).arg("manual").output()?.stdout)?.replace("\\-", "-");
    for command in commands.iter().flatten() {
        assert!(manual.to_lowercase().contains(command.as_str()), "the manual lacks {command}");
    }
    for part in [".TH workspaces", "--key-pepper-file", "--log-format", "--expires-in"] {
        assert!(manual.contains(part), "the manual lacks {part}");
    }
    Ok(())
}

#[test]
fn a_line_break_behind_a_secret_is_no_part_of_it_wherever_it_comes_from() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    let (pepper, folder) = (workspaces_tests::PEPPER, deployment.folder());
    fs::write(folder.join("pepper"), format!("{pepper}\n"))?;
    fs::write(folder.join("pepper-crlf"), format!("{pepper}\r\n"))?;
    let database = format!("sqlite:{}\n", deployment.database().display());
    let command = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).env("WORKSPACES_DATABASE", &database).current_dir(folder);
        command
    };
    let with_newline = format!("{pepper}\n");
    for (arguments, variable) in [
        (&["--key-pepper", &with_newline][..], None),
        (&["--key-pepper-file", "pepper"], None),
        (&["--key-pepper-file", "pepper-crlf"], None),
        (&[], Some(("WORKSPACES_KEY_PEPPER", with_newline.as_str()))),
        (&[], Some(("WORKSPACES_KEY_PEPPER_FILE", "pepper"))),
    ] {
        let another = command(&[&["key", "create", &account][..], arguments].concat()).envs(variable).output()?;
        assert!(another.status.success(), "{arguments:?} {variable:?}: {another:?}");
        let another = String::from_utf8(another.stdout)?;
        let mut serve = command(&[&["serve", "--listen", "127.0.0.1:0"][..], arguments].concat());
        let server = Server::start(serve.envs(variable))?;
        for key in [&key, another.trim()] {
            assert_eq!(server.create(key, "{}")?.status, 201, "{arguments:?} {variable:?}");
        }
    }
    let both = command(&["serve", "--key-pepper", pepper, "--key-pepper-file", "pepper"]).output()?;
    let message = String::from_utf8(both.stderr)?;
    assert!(both.status.code() == Some(1) && message.contains("one of the two"), "{message}");
    Ok(())
}

#[test]
fn a_short_pepper_is_refused_wherever_it_comes_from() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    fs::write(deployment.folder().join("short"), "fifteen bytes..\n\n")?;
    let config = "defaults.key-pepper-file = \"short\"\n[tenants.acme]\ndatabase = \"sqlite:workspaces.db\"";
    fs::write(deployment.folder().join("gateway.toml"), config)?;
    let short = ["--key-pepper", "fifteen bytes..\n"];
    for arguments in [
        &[&["serve"][..], &short].concat()[..],
        &[&["key", "create", &account][..], &short].concat(),
        &[&["database", "check"][..], &short].concat(),
        &["serve", "--config", "gateway.toml"],
        &["config", "check", "gateway.toml"],
    ] {
        assert_fails(&deployment, arguments, 1, "has 15 bytes, 16 at least are needed")?;
    }
    Ok(())
}

#[test]
fn the_compiler_keeps_no_right_to_open_anything_before_it_reads_the_component() -> Result<()> {
    let (input, output) = (Stdio::piped(), Stdio::null());
    let mut compiler =
        Command::new(PROGRAM).args(["compile", "-", "--output", "-"]).stdin(input).stdout(output).spawn()?;
    let (process, start) = (compiler.id(), Instant::now());
    let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}"));
    // It waits for the component then.
    while !read("limits")?.lines().any(|line| line.starts_with("Max open files            0  ")) {
        assert!(start.elapsed() < Duration::from_secs(30), "{}", read("limits")?);
        thread::sleep(Duration::from_millis(5));
    }
    let status = read("status")?;
    let has = |line: &str| status.lines().any(|found| found.replace('\t', " ") == line);
    assert!(has("NoNewPrivs: 1") && has("Threads: 1"), "{status}");
    compiler.stdin.take().context("no standard input")?.write_all(workspaces_host::COMPONENT)?;
    assert!(compiler.wait()?.success());
    Ok(())
}

#[test]
fn wrong_usage_is_2_and_failure_is_1() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    deployment.run(&["database", "migrate"])?;
    for (arguments, code, part) in [
        (&[][..], 2, "Usage"),
        (&["fly"], 2, "unrecognized subcommand"),
        (&["serve", "--listen", "nowhere"], 2, "--listen"),
        (&["serve", "--database", "mysql:x"], 2, "sqlite:PATH"),
        (&["key", "list", "x"], 2, "ACCOUNT"),
        (&["key", "list", UNKNOWN], 1, "there is no account"),
        (&["key", "create", UNKNOWN], 1, "there is no account"),
        (&["key", "revoke", UNKNOWN], 1, "there is no key"),
        (&["organization", "add-member", UNKNOWN, UNKNOWN], 1, "there is no organization"),
        (&["serve", "--key-pepper", ""], 1, "openssl rand"),
        (&["serve", "--component", "missing.wasm"], 1, "missing.wasm"),
        (&["account", "create", "--database", "sqlite:no/such/folder.db"], 1, "no/such/folder.db"),
    ] {
        assert_fails(&deployment, arguments, code, part)?;
    }
    Ok(())
}

#[test]
fn where_the_address_space_is_limited_the_error_says_what_to_lower_and_a_smaller_pool_serves() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    // The default pool of one processor reserves over 1 TiB.
    let within_100_gib = |arguments: &[&str]| {
        let mut command = Command::new("prlimit");
        command.args(["--as=107374182400", PROGRAM, "serve", "--demo", "--listen", "127.0.0.1:0"]);
        command.args(arguments).current_dir(deployment.folder());
        command
    };
    let output = within_100_gib(&[]).output()?;
    let message = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{message}");
    for part in ["GiB of address space", "ulimit -v", "pool.concurrency", "pool.slow", "pool.memories"] {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    fs::write(
        deployment.folder().join("small.toml"),
        "[limits]\nmemories = 1\n[pool]\nconcurrency = 1\nslow = 1\nmemories = 1\n",
    )?;
    Server::start(&mut within_100_gib(&["--limits", "small.toml"]))?;
    Ok(())
}

#[test]
fn an_address_in_use_is_said() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    assert_fails(&deployment, &["serve", "--listen", &address], 1, "choose another with --listen")
}

#[test]
fn help_teaches() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let help = deployment.run(&["--help"])?;
    for part in ["serve --demo", "WORKSPACES_KEY_PEPPER", "Exit codes"] {
        assert!(help.contains(part), "{help}");
    }
    // Examples are pasted into shells: each stands on a line of its own that no terminal wraps.
    for line in help.lines().skip_while(|line| !line.starts_with("Try it")) {
        assert!(line.len() < 78, "{line}");
    }
    for command in [&["serve"][..], &["account", "create"], &["key", "create"], &["workspace", "list"]] {
        let help = deployment.run(&[command, &["--help"]].concat())?;
        assert!(help.contains("--database") && !help.contains(workspaces_tests::PEPPER), "{help}");
    }
    Ok(())
}

#[test]
fn accounts_and_keys_are_printed_for_people_and_for_scripts() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let json = |arguments: &[&str]| -> Result<Value> { Ok(serde_json::from_str(&deployment.run(arguments)?)?) };
    assert_eq!(deployment.run(&["account", "create", "--id", UNKNOWN])?, UNKNOWN);
    assert_fails(&deployment, &["account", "create", "--id", UNKNOWN], 1, "exists already")?;
    assert_eq!(json(&["organization", "create", "--name", "Label", "--json"])?["name"], "Label");

    let key = json(&["key", "create", UNKNOWN, "--name", "laptop", "--expires-in", "30d", "--json"])?;
    let secret = key["key"].as_str().context("no key")?;
    assert!(secret.starts_with("recoup_sk_") && secret.len() == 53, "{secret}");
    let day = |field: &str| -> Result<String> {
        // As in 2026-11-26T01:25:17.123Z.
        let time = key[field].as_str().context("no time")?;
        assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
        let day = format!("SELECT date('{}', '-30 days')", &time[..10]);
        Ok(match field {
            "expires_at" => Connection::open_in_memory()?.query_row(&day, [], |row| row.get(0))?,
            _ => time[..10].to_owned(),
        })
    };
    assert_eq!(day("created_at")?, day("expires_at")?, "{key}");
    let list = deployment.run(&["key", "list", UNKNOWN])?;
    assert!(list.contains("laptop") && !list.contains(secret), "{list}");
    let listed = &json(&["key", "list", UNKNOWN, "--json"])?[0];
    for field in ["id", "created_at", "expires_at"] {
        assert_eq!(listed[field], key[field]);
    }

    let connection = Connection::open(deployment.database())?;
    let stored: String = connection.query_row("SELECT key_hash FROM account_api_keys", [], |row| row.get(0))?;
    assert!(stored.len() == 64 && stored.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{stored}");
    Ok(())
}

#[test]
fn a_database_of_a_newer_version_or_of_none_is_refused_and_left_alone() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    deployment.run(&["account", "create"])?;
    Connection::open(deployment.database())?.pragma_update(None, "user_version", 99)?;
    assert_fails(&deployment, &["serve"], 1, "has schema 99")?;

    fs::write(deployment.database(), "this is a text")?;
    assert_fails(&deployment, &["serve"], 1, "can't be used as a database")?;
    assert_eq!(fs::read(deployment.database())?, b"this is a text");
    Ok(())
}

#[test]
fn the_database_is_written_ahead_and_commands_work_beside_a_server() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let server = deployment.serve(&[])?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    let mode: String =
        Connection::open(deployment.database())?.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    assert_eq!(mode, "wal");
    let statuses: Vec<_> = thread::scope(|scope| {
        let creates: Vec<_> =
            (0..8).map(|_| scope.spawn(|| server.create(&key, "{}").map(|answer| answer.status))).collect();
        let commands: Vec<_> = (0..4).map(|_| scope.spawn(|| deployment.run(&["account", "create"]))).collect();
        assert!(commands.into_iter().all(|command| matches!(command.join(), Ok(Ok(_)))));
        creates.into_iter().filter_map(|create| create.join().ok()?.ok()).collect()
    });
    assert_eq!(statuses, [201; 8]);
    Ok(())
}
