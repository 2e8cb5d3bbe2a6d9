//! The log, for people and for machines.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use workspaces_tests::{Answer, Deployment, Server};

/// A server that logs each request, and the file that it logs to before it answers.
struct Logging {
    server: Server,
    file: PathBuf,
    deployment: Deployment,
}

impl Logging {
    fn new(format: &str) -> Result<Self> {
        let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
        let file = deployment.folder().join("log");
        let mut command = deployment.server(&["--log", "info", "--log-format", format]);
        let server = Server::start(command.stderr(File::create(&file)?))?;
        Ok(Self { server, file, deployment })
    }

    fn lines(&self) -> Result<Vec<String>> {
        Ok(fs::read_to_string(&self.file)?.split_terminator('\n').map(str::to_owned).collect())
    }
}

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn a_request_is_a_line_of_json_with_its_id_and_its_trace() -> Result<()> {
    let logging = Logging::new("json")?;
    let headers = [("x-request-id", "mine-1"), ("traceparent", TRACEPARENT)];
    let answer = logging.server.send("GET", "/healthz", &headers, b"")?;
    assert_eq!((answer.status, answer.header("traceparent")), (200, None));
    logging.server.send("GET", "/nowhere", &[], b"")?;

    let lines = logging.lines()?.iter().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<Vec<Value>>>()?;
    let [sent, made] = &lines[..] else { anyhow::bail!("not two lines: {lines:?}") };
    for (field, value) in [("level", "INFO"), ("message", "answered"), ("method", "GET"), ("path", "/healthz")] {
        assert_eq!(sent[field], value, "{sent}");
    }
    assert_eq!(sent["status"], 200);
    assert!(sent["latency_ms"].as_f64().is_some_and(|latency| latency > 0.0), "{sent}");
    assert_eq!(sent["span"]["id"], "mine-1");
    assert_eq!(sent["span"]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    let trace = made["span"]["trace_id"].as_str().context("no trace")?;
    assert!(trace.len() == 32 && made["span"]["id"].is_string() && made["status"] == 404, "{made}");
    Ok(())
}

#[test]
fn a_request_is_a_line_for_people() -> Result<()> {
    let logging = Logging::new("human")?;
    logging.server.send("GET", "/healthz", &[("x-request-id", "mine-1"), ("traceparent", TRACEPARENT)], b"")?;
    let [line] = &logging.lines()?[..] else { anyhow::bail!("not one line: {:?}", logging.lines()) };
    let part = r#" INFO request{id="mine-1" trace_id="4bf92f3577b34da6a3ce929d0e0e4736"}: workspaces_host::http::request_id: answered method=GET path="/healthz" status=200 latency_ms="#;
    assert!(line.contains(part), "{line}");
    Ok(())
}

#[test]
fn nothing_that_a_client_sends_breaks_a_line() -> Result<()> {
    for format in ["human", "json"] {
        let logging = Logging::new(format)?;
        for (path, id) in [
            ("/\u{9b}31mred".as_bytes(), r#"a"}:"#.as_bytes()),
            ("/\u{202e}\u{2028}\u{85}".as_bytes(), b"\xc2\x9b2J"),
            (b"/%0a%1b[31m", b"a\\nb\\u001b"),
            (br#"/"}{"level":"ERROR"}"#, br#""}{"level":"ERROR"}"#),
        ] {
            let mut stream = logging.server.connect()?;
            let head = [b"GET ", path, b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\nx-request-id: ", id, b"\r\n\r\n"];
            stream.write_all(&head.concat())?;
            assert_eq!(Answer::read(stream)?.status, 404, "{}", String::from_utf8_lossy(path));
        }
        let long = "x".repeat(20_000);
        assert_eq!(logging.server.send("GET", &format!("/{long}"), &[], b"")?.status, 404);
        assert_eq!(logging.server.send(&long, "/healthz", &[], b"")?.status, 405);

        let lines = logging.lines()?;
        assert_eq!(lines.len(), 6, "{lines:?}");
        for line in lines {
            let plain = |character: char| !character.is_control() && !matches!(character, '\u{2028}'..='\u{202e}');
            assert!(line.chars().all(plain) && line.len() < 2048, "{line:?}");
            match format {
                "json" => assert_eq!(serde_json::from_str::<Value>(&line)?["level"], "INFO", "{line}"),
                _ => assert!(line.contains(" INFO request{id=\""), "{line}"),
            }
        }
    }
    Ok(())
}

#[test]
fn a_log_that_nobody_reads_any_more_keeps_no_request_from_its_answer() -> Result<()> {
    let Logging { deployment, .. } = Logging::new("human")?;
    let key = deployment.run(&["key", "create", &deployment.run(&["account", "create"])?])?;
    for format in ["human", "json"] {
        let (reader, writer) = std::io::pipe()?;
        let mut command = deployment.server(&["--log", "info", "--log-format", format]);
        let server = Server::start(command.stderr(Stdio::from(writer)))?;
        drop(command);
        drop(reader);
        assert_eq!(server.create(&key, "{}")?.status, 201, "{format}");
    }
    Ok(())
}
