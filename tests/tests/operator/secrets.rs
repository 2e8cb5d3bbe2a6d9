//! Secrets in the wrong place, or in the right place of a file with a mistake: never repeated.

use std::fs::{self, File};

use anyhow::Result;
use workspaces_tests::{Deployment, Server, Tenants};

use super::{PROGRAM, run};

/// Text as long as a random secret is.
const CANARY: &str = "5ec2e7c4na9y0123456789abcdef0123456789abcdef0123456789";

const TENANT: &str = "[tenants.acme]\npath = \"/acme\"\n";

/// Configurations with the canary, each wrong in its way.
fn configurations() -> Vec<String> {
    let database = "database = \"sqlite:acme.db\"\n";
    let mut texts = Vec::new();
    // Values of the wrong type or form, for every key there is.
    for key in ["listen", "admin", "max-connections", "watch", "pool", "pool.concurrency", "pool.queue"] {
        texts.push(format!("{key} = \"{CANARY}\"\n{TENANT}{database}"));
    }
    for key in ["pool.admission-wait", "pool.memory", "pool.component-size", "compile.memory", "compile.time", "tls"] {
        texts.push(format!("{key} = \"{CANARY}\"\n{TENANT}{database}"));
    }
    for key in ["hosts", "group-commit", "connections", "admin-organization", "jwt", "jwt.flies", "limits"] {
        texts.push(format!("{TENANT}{database}{key} = \"{CANARY}\""));
    }
    for key in ["memory", "cpu", "wall-clock", "host-calls", "handles", "concurrency", "rate", "burst", "workspaces"] {
        texts.push(format!("{TENANT}{database}limits.{key} = \"{CANARY}\""));
    }
    for key in ["component", "key-pepper-file", "key-pepper-env"] {
        texts.push(format!("{TENANT}{database}{key} = \"{CANARY}\""));
    }
    texts.push(format!("[tenants.acme]\npath = \"{CANARY}\"\n{database}"));
    texts.push(format!("{TENANT}{database}hosts = [\"{CANARY}:80\"]"));
    // Keys that are none, and lines that are no TOML.
    for line in [
        "KEY = 1",
        "\"postgres://ada:KEY@127.0.0.1:1/x\" = \"database\"",
        "database = [\"postgres://ada:KEY@127.0.0.1:1/x\"]",
        "database = {url = \"postgres://ada:KEY@127.0.0.1:1/x\"}",
        "database = \"postgre://ada:KEY@127.0.0.1:1/x\"",
        "database = \"postgres://ada:KEY@127.0.0.1:1/x",
        "database = postgres://ada:KEY@127.0.0.1:1/x",
        "database \"postgres://ada:KEY@127.0.0.1:1/x\"",
        "database = \"postgres://ada:KEY@127.0.0.1:1/x\"\ndatabase = \"postgres://ada:KEY@127.0.0.1:1/x\"",
        "database = \"KEY\"",
        // Addresses that are read later.
        "database = \"postgres://ada:KEY@127.0.0.1:1/x\"",
        "database = \"postgres://ada:KEY@127.0.0.1:port/x\"",
        "database = \"postgres://ada:KEY@127.0.0.1:1/x?sslmode=KEY\"",
        "database = \"postgres://ada:pa?KEY@127.0.0.1:1/x\"",
        "database = \"postgres://ada:KEY%00@127.0.0.1:1/x\"",
        "database = \"postgres://ada@127.0.0.1:1/x?password=KEY&flies=1\"",
    ] {
        texts.push(format!("{TENANT}{}", line.replace("KEY", CANARY)));
    }
    for keys in
        ["KEY", "http://ada:KEY@id.example/", "https://ada:KEY@id.example:port/", "http://ada:KEY@127.0.0.1:1/?a=KEY"]
    {
        let keys = keys.replace("KEY", CANARY);
        texts.push(format!("{TENANT}{database}jwt = {{ keys = \"{keys}\", issuer = \"i\", audience = \"a\" }}"));
    }
    texts
}

/// Asserts that the canary is not in what was written.
fn assert_hidden(text: &str, given: &str) {
    assert!(!text.contains(&CANARY[..12]), "{given}\n{text}");
}

#[test]
fn a_secret_in_a_configuration_is_repeated_by_no_command_no_log_and_no_answer() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let deployment = tenants.deployment();
    tenants.configure("[tenants.plain]\npath = \"/plain\"\ndatabase = \"sqlite:acme.db\"")?;
    let log = deployment.folder().join("log");
    let mut command = deployment.server(&["--config", "gateway.toml", "--admin", "127.0.0.1:0", "--log", "debug"]);
    let server = Server::start(command.stderr(File::create(&log)?))?;
    let good = "[tenants.plain]\npath = \"/plain\"\ndatabase = \"sqlite:acme.db\"";
    let mut refused = 0;
    for text in configurations() {
        tenants.configure(&text)?;
        let (code, said) = run(&mut deployment.command(&["config", "check", "gateway.toml"]))?;
        assert_hidden(&said, &text);
        refused += usize::from(code == Some(1));
        // One that goes on, so that the server lists the other with its reason.
        if code == Some(0) {
            tenants.configure(&format!("{text}\n{good}"))?;
        }
        let output = tenants.reload(&server)?;
        assert_hidden(&String::from_utf8([output.stdout, output.stderr].concat())?, &text);
        assert_hidden(&String::from_utf8(server.ask_admin("GET", "/tenants", &[])?.body)?, &text);
        assert_hidden(&fs::read_to_string(&log)?, &text);
    }
    assert!(refused > 40, "{refused} were refused");
    Ok(())
}

#[test]
fn a_secret_in_an_argument_is_repeated_by_no_error() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    for arguments in [
        "serve KEY",
        "KEY",
        "serve --fly=KEY",
        "serve --key-pepper two KEY",
        "serve --listen KEY",
        "serve --listen ada:KEY@x",
        "serve --admin ada:KEY@127.0.0.1:1",
        "serve --jwt-keys http://ada:KEY@id.example/ --jwt-issuer i --jwt-audience a",
        "serve --jwt-keys KEY --jwt-issuer i --jwt-audience a",
        "serve --listen 127.0.0.1:0 --component KEY",
        "serve --listen 127.0.0.1:0 --database postgres://ada:KEY@127.0.0.1:1/x",
        "serve --listen 127.0.0.1:0 --database postgres://ada:pa?KEY@127.0.0.1:1/x",
        "database migrate --database postgres://ada:pa?KEY@127.0.0.1:1/x",
        "account create --database postgres://ada:KEY@127.0.0.1:port/x",
        "key list --database postgre://ada:KEY@127.0.0.1:1/x",
        "key list postgres://ada:KEY@127.0.0.1:1/x",
    ] {
        let words: Vec<_> = arguments.split(' ').map(|word| word.replace("KEY", CANARY)).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let (code, said) = run(&mut deployment.command(&words))?;
        assert!(code == Some(1) || code == Some(2), "{arguments}: {code:?} {said}");
        assert_hidden(&said, arguments);
    }
    Ok(())
}

#[test]
fn a_line_of_a_broken_key_file_is_not_repeated() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    for text in [
        format!("-----BEGIN PRIVATE KEY-----{CANARY}-----END PRIVATE KEY-----\n"),
        format!("-----BEGIN PRIVATE KEY\n{CANARY}\n-----END PRIVATE KEY-----\n"),
        format!("-----BEGIN PRIVATE KEY-----\n{CANARY}\n"),
        format!("-----BEGIN PRIVATE KEY-----\n{CANARY}*\n-----END PRIVATE KEY-----\n"),
        format!("{CANARY}\n"),
    ] {
        fs::write(deployment.folder().join("key"), &text)?;
        let bytes: Vec<_> = CANARY.bytes().take(8).map(|byte| byte.to_string()).collect();
        for arguments in [
            &["serve", "--tls-certificate", "key", "--tls-key", "key"][..],
            &["serve", "--jwt-keys", "key", "--jwt-issuer", "i", "--jwt-audience", "a"],
            &["serve", "--component", "key"],
            &["compile", "key", "--output", "compiled"],
            &["serve", "--database", "postgres://ada@127.0.0.1:1/x?sslrootcert=key"],
        ] {
            let (code, said) = run(&mut deployment.command(arguments))?;
            assert_eq!(code, Some(1), "{arguments:?}: {said}");
            assert_hidden(&said, &text);
            assert!(!said.contains(&bytes.join(", ")), "{arguments:?}: {said}");
        }
    }
    Ok(())
}
