//! Text that others chose, on an operator's terminal.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::{Command, Output},
    thread,
};

use anyhow::{Context as _, Result};
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use uuid::Uuid;
use workspaces_tests::{Deployment, Tenants};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Texts that end lines, or have a terminal do or show something else.
const HOSTILE: [&str; 7] = [
    "\u{1b}]0;title\u{7}",
    "a\nerror: forged",
    "a\r\nerror: forged",
    "\u{9b}2J\u{85}",
    "\u{202e}reversed\u{2066}",
    "a\u{2028}error: forged\u{2029}",
    "\u{8}\u{7f}\t\u{0b}",
];

/// Asserts that an output is so many lines of plain text, of which none is forged.
fn assert_plain(output: &[u8], lines: usize) -> Result<()> {
    let text = std::str::from_utf8(output).context("not UTF-8")?;
    let is_plain = |character: char| {
        character == '\n'
            || !(character.is_control()
                || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}'))
    };
    assert!(text.chars().all(is_plain), "{text:?}");
    assert_eq!(text.lines().count(), lines, "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("error: forged")), "{text:?}");
    Ok(())
}

#[test]
fn names_in_lists_stay_on_their_line_and_json_keeps_their_value() -> Result<()> {
    for name in HOSTILE {
        let deployment = Deployment::new(PROGRAM)?;
        let account = deployment.run(&["account", "create", "--name", name])?;
        deployment.run(&["key", "create", &account, "--name", name])?;
        // The operation refuses such names; others that write to the database may not.
        let (workspace, connection) = (Uuid::now_v7(), Connection::open(deployment.database())?);
        connection.execute("INSERT INTO accounts (id, name) VALUES (?1, ?2)", params![workspace, name])?;
        connection.execute(
            "INSERT INTO account_workspace_ids (id, account_id, workspace_id, updated_at) VALUES (?1, ?2, ?1, 1)",
            params![workspace, account.parse::<Uuid>()?],
        )?;
        for (list, json) in [
            (&["key", "list", &account][..], &["key", "list", &account, "--json"][..]),
            (&["workspace", "list"], &["workspace", "list", "--json"]),
        ] {
            assert_plain(&deployment.output(list)?.stdout, 1)?;
            let output = deployment.output(json)?.stdout;
            assert_plain(&output, 1)?;
            assert_eq!(serde_json::from_slice::<Value>(&output)?[0]["name"], name);
        }
        let output = deployment.output(&["account", "create", "--name", name, "--json"])?.stdout;
        assert_plain(&output, 1)?;
        assert_eq!(serde_json::from_slice::<Value>(&output)?["name"], name);
    }
    Ok(())
}

#[test]
fn findings_of_a_check_are_a_line_each_whatever_a_table_is_called() -> Result<()> {
    for name in HOSTILE {
        let deployment = Deployment::new(PROGRAM)?;
        deployment.run(&["database", "migrate"])?;
        let connection = Connection::open(deployment.database())?;
        connection.execute_batch(&format!(
            "CREATE TABLE \"{name}\" (x); INSERT INTO \"{name}\" VALUES (NULL);
             PRAGMA writable_schema = on;
             UPDATE sqlite_schema SET sql = replace(sql, '(x)', '(x NOT NULL)') WHERE sql LIKE '%(x)';"
        ))?;
        drop(connection);
        let output = deployment.output(&["database", "check"])?;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("error: NULL value"), "{output:?}");
        assert_plain(&output.stdout, 2)?;
        assert_plain(&output.stderr, 1)?;
    }
    Ok(())
}

#[test]
fn errors_stay_on_their_line() -> Result<()> {
    for name in HOSTILE {
        let deployment = Deployment::new(PROGRAM)?;
        deployment.run(&["database", "migrate"])?;
        let database = format!("sqlite:no/such/{name}");
        for arguments in [
            &["workspace", "list", "--database", &database][..],
            &["serve", "--listen", "127.0.0.1:0", "--component", name],
            &["serve", "--listen", "127.0.0.1:0", "--config", name],
            &["config", "check", name],
            &["database", "backup", &format!("no/such/{name}")],
        ] {
            let output = deployment.output(arguments)?;
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
            assert_plain(&output.stderr, 1)?;
        }
        // The command line's own errors repeat an argument.
        for arguments in [&[name][..], &["key", "list", name], &["serve", "--listen", name], &[&format!("--{name}")]] {
            let output = deployment.output(arguments)?;
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
            let lines = String::from_utf8(output.stderr.clone())?.lines().count();
            assert_plain(&output.stderr, lines)?;
        }
    }
    Ok(())
}

/// Runs `workspaces reload` against a server that answers so.
fn reload(answer: &Value, arguments: &[&str]) -> Result<Output> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, body) = (listener.local_addr()?.to_string(), answer.to_string());
    let server = thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        Ok(write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())?)
    });
    let output = Command::new(PROGRAM).args(["reload", "--admin", &address]).args(arguments).output()?;
    server.join().ok().context("the server panicked")??;
    Ok(output)
}

#[test]
fn reasons_of_a_server_s_administration_stay_on_their_line() -> Result<()> {
    for text in HOSTILE {
        let answer = json!({"tenants": [{"tenant": text, "outcome": text}, {"tenant": text, "outcome": "failed", "reason": text}]});
        let output = reload(&answer, &[])?;
        assert_eq!(output.status.code(), Some(1));
        assert_plain(&output.stdout, 2)?;
        let output = reload(&answer, &["--json"])?;
        assert_plain(&output.stdout, 1)?;
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout)?, answer);
        let output = reload(&json!({"message": text}), &[])?;
        assert_plain(&output.stderr, 1)?;
    }
    Ok(())
}

#[test]
fn names_of_tenants_stay_on_their_line() -> Result<()> {
    for name in HOSTILE {
        let tenants = Tenants::new(PROGRAM)?;
        let key = serde_json::to_string(name)?.replace('\u{7f}', "\\u007f");
        // One of two tenants fails: the server serves and logs it; a reload prints it.
        tenants.configure(&format!(
            "tenants.fine = {{ path = \"/fine\", database = \"sqlite:fine.db\" }}\n\
             tenants.{key} = {{ path = \"/bad\", database = \"sqlite:no/such/bad.db\" }}"
        ))?;
        let server = tenants.serve()?;
        let admin = server.admin()?.to_string();
        let output = tenants.deployment().output(&["reload", "--admin", &admin])?;
        assert_plain(&output.stdout, 2)?;
        assert_plain(&output.stderr, 1)?;
        // All of them fail: a line each.
        let path = "\npath = \"/x\"\ncomponent = \"missing\"\n";
        tenants.configure(&format!(
            "defaults.database = \"sqlite:a.db\"\n[tenants.{key}]{path}[tenants.other]\ncomponent = \"missing\""
        ))?;
        let output = tenants.deployment().output(&["serve", "--listen", "127.0.0.1:0", "--config", "gateway.toml"])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let errors = text.lines().skip_while(|line| !line.starts_with("error: "));
        assert_eq!(errors.count(), 3, "{text:?}");
        assert_plain(&output.stderr, text.lines().count())?;
    }
    Ok(())
}

/// Runs a command on a terminal of its own, and returns what it shows.
fn on_a_terminal(deployment: &Deployment, arguments: &[&str], variables: &[(&str, &str)]) -> Result<String> {
    let words = arguments.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &format!("'{PROGRAM}' {words}"), "/dev/null"]);
    terminal
        .current_dir(deployment.folder())
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR")
        // With it, the argument parser assumes a log viewer that shows colours.
        .env_remove("CI")
        .env("TERM", "xterm-256color");
    let output = terminal.envs(variables.iter().copied()).output().context("these tests need script (bsdutils)")?;
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn colours_are_shown_on_a_terminal_alone_and_not_where_they_are_unwanted() -> Result<()> {
    const ESCAPE: char = '\u{1b}';
    let tenants = Tenants::new(PROGRAM)?;
    // Both fail, each with a line of the log, and the program ends.
    tenants.configure(
        "[tenants.one]\npath = \"/one\"\ndatabase = \"sqlite:no/such.db\"
         [tenants.two]\npath = \"/two\"\ndatabase = \"sqlite:no/such.db\"",
    )?;
    let deployment = tenants.deployment();
    for (arguments, part) in [
        (&["serve", "--listen", "127.0.0.1:0", "--config", "gateway.toml"][..], "not loaded"),
        (&["--help"], "Usage:"),
        (&["key", "fly"], "fly"),
    ] {
        for (variables, coloured) in
            [(&[][..], true), (&[("NO_COLOR", "")], true), (&[("NO_COLOR", "1")], false), (&[("TERM", "dumb")], false)]
        {
            let shown = on_a_terminal(deployment, arguments, variables)?;
            assert!(shown.contains(part), "{arguments:?}: {shown:?}");
            assert_eq!(shown.contains(ESCAPE), coloured, "{arguments:?} {variables:?}: {shown:?}");
        }
        // Off a terminal.
        let output = deployment.output(arguments)?;
        let text = String::from_utf8([output.stdout, output.stderr].concat())?;
        assert!(text.contains(part) && !text.contains(ESCAPE), "{arguments:?}: {text:?}");
    }
    Ok(())
}

#[test]
fn a_word_that_is_no_level_of_the_log_is_refused() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let output = deployment.output(&["serve", "--demo", "--log", "verbose"])?;
    let text = String::from_utf8(output.stderr)?;
    assert!(output.status.code() == Some(2) && text.contains("is no level: give off, error, warn"), "{text}");
    Ok(())
}
