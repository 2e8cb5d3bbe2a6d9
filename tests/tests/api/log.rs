//! The log, for people and for machines.

use std::{
    fs::{self, File},
    io::{PipeReader, Read as _, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use workspaces_tests::{Answer, Client, Deployment, Server};

/// A server that logs each request, and the file that it logs to before it answers.
struct Logging {
    server: Server,
    file: PathBuf,
    deployment: Deployment,
}

impl Logging {
    fn new(format: &str) -> Result<Self> {
        Self::with(format, &[])
    }

    fn with(format: &str, further: &[&str]) -> Result<Self> {
        let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
        let file = deployment.folder().join("log");
        let mut command = deployment.server(&["--log", "info", "--log-format", format]);
        let server = Server::start(command.args(further).stderr(File::create(&file)?))?;
        Ok(Self { server, file, deployment })
    }

    /// Waits until so many requests are logged, and returns their lines: the log is written beside the answers.
    fn lines(&self, requests: usize) -> Result<Vec<String>> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let text = fs::read_to_string(&self.file)?;
            let lines: Vec<_> = text.split_terminator('\n').map(str::to_owned).collect();
            let (start, requests_logged): (Vec<_>, Vec<_>) =
                lines.into_iter().partition(|line| line.contains("started"));
            if requests_logged.len() >= requests && text.ends_with('\n') || Instant::now() > end {
                ensure!(start.len() == 1, "not one line at the start: {start:?}");
                return Ok(requests_logged);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn one_in_so_many_requests_that_succeed_is_logged_and_every_other_one() -> Result<()> {
    let logging = Logging::with("json", &["--log-sample", "10"])?;
    for _ in 0..30 {
        assert_eq!(logging.server.send("GET", "/healthz", &[], b"")?.status, 200);
        assert_eq!(logging.server.send("GET", "/nowhere", &[], b"")?.status, 404);
    }
    let lines = logging.lines(33)?;
    let count = |status: &str| lines.iter().filter(|line| line.contains(&format!("\"status\":{status},"))).count();
    assert_eq!((count("200"), count("404"), lines.len()), (3, 30, 33), "{lines:#?}");
    Ok(())
}

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn a_request_is_a_line_of_json_with_its_id_and_its_trace() -> Result<()> {
    let logging = Logging::new("json")?;
    let headers = [("x-request-id", "mine-1"), ("traceparent", TRACEPARENT)];
    let answer = logging.server.send("GET", "/healthz", &headers, b"")?;
    assert_eq!((answer.status, answer.header("traceparent")), (200, None));
    logging.server.send("GET", "/nowhere", &[], b"")?;

    let lines = logging.lines(2)?.iter().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<Vec<Value>>>()?;
    let [sent, made] = &lines[..] else { anyhow::bail!("not two lines: {lines:?}") };
    for (field, value) in [("level", "INFO"), ("message", "answered"), ("method", "GET"), ("path", "/healthz")] {
        assert_eq!(sent[field], value, "{sent}");
    }
    assert_eq!(sent["status"], 200);
    assert!(sent["latency_ms"].as_f64().is_some_and(|latency| latency > 0.0), "{sent}");
    assert_eq!(sent["span"]["id"], "mine-1");
    assert_eq!(sent["span"]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(made["span"]["id"].is_string() && made["span"]["trace_id"].is_null() && made["status"] == 404, "{made}");
    Ok(())
}

#[test]
fn a_request_is_a_line_for_people() -> Result<()> {
    let logging = Logging::new("human")?;
    logging.server.send("GET", "/healthz", &[("x-request-id", "mine-1"), ("traceparent", TRACEPARENT)], b"")?;
    logging.server.send("GET", "/nowhere", &[("x-request-id", "mine-2")], b"")?;
    let [traced, plain] = &logging.lines(2)?[..] else { anyhow::bail!("not two lines: {:?}", logging.lines(2)) };
    let (time, line) = traced.split_once("Z  INFO ").context("no time and level")?;
    assert!(time.starts_with("20") && line.starts_with("200 GET /healthz "), "{traced}");
    assert!(line.ends_with(r#"ms id="mine-1" trace_id="4bf92f3577b34da6a3ce929d0e0e4736""#), "{traced}");
    assert!(
        plain.contains(" INFO 404 GET /nowhere ") && plain.ends_with(r#"ms id="mine-2" tenant="default""#),
        "{plain}"
    );
    Ok(())
}

#[test]
fn the_start_is_one_line_that_says_what_is_served_and_no_password() -> Result<()> {
    for format in ["human", "json"] {
        let logging = Logging::new(format)?;
        logging.server.send("GET", "/healthz", &[], b"")?;
        logging.lines(1)?;
        let text = fs::read_to_string(&logging.file)?;
        let line = text.lines().next().context("no line")?;
        let digest = workspaces_host::runtime::Digest::of(workspaces_host::COMPONENT);
        for part in [
            "started",
            env!("CARGO_PKG_VERSION"),
            &format!("http://{}", logging.server.address()),
            &logging.deployment.database().display().to_string(),
            digest.as_str(),
            "1 of 1",
        ] {
            assert!(line.contains(part), "{line} does not say {part}");
        }
    }
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

        let lines = logging.lines(6)?;
        assert_eq!(lines.len(), 6, "{lines:?}");
        for line in lines {
            let plain = |character: char| !character.is_control() && !matches!(character, '\u{2028}'..='\u{202e}');
            assert!(line.chars().all(plain) && line.len() < 2048, "{line:?}");
            match format {
                "json" => assert_eq!(serde_json::from_str::<Value>(&line)?["level"], "INFO", "{line}"),
                _ => assert!(line.contains(" INFO 40") && line.contains("ms id=\""), "{line}"),
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

/// Sends so many requests, all of which have to be answered.
fn flood(server: &Server, requests: usize) -> Result<()> {
    let mut client = Client::new(server.address(), "no key");
    for _ in 0..requests {
        assert_eq!(client.post(&[("x-request-id", &"x".repeat(128))], "{}")?.status, 401);
    }
    Ok(())
}

fn dropped(server: &Server) -> Result<u64> {
    let text = server.metrics()?;
    let line = text.lines().find_map(|line| line.strip_prefix("workspaces_log_lines_dropped_total "));
    Ok(line.context("no such metric")?.parse()?)
}

/// Reads a pipe until a line says that lines were dropped, and returns all that came.
fn read_to_report(reader: &mut PipeReader) -> Result<String> {
    let (mut text, mut buffer) = (Vec::new(), [0; 1 << 16]);
    while !text.windows(17).any(|part| part == b"log lines dropped") || !text.ends_with(b"\n") {
        let length = reader.read(&mut buffer)?;
        ensure!(length > 0, "the log ends: {}", String::from_utf8_lossy(&text));
        text.extend(&buffer[..length]);
    }
    Ok(String::from_utf8(text)?)
}

#[test]
fn requests_are_answered_while_nobody_reads_the_log_and_it_says_later_what_it_dropped() -> Result<()> {
    for format in ["human", "json"] {
        let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
        let (mut reader, writer) = std::io::pipe()?;
        let mut command = deployment.server(&["--log", "info", "--log-format", format, "--admin", "127.0.0.1:0"]);
        let server = Server::start(command.stderr(Stdio::from(writer)))?;
        drop(command);
        // A line takes 200 bytes at least: these fill the pipe and the queue many times over.
        flood(&server, 20_000)?;
        let lost = dropped(&server)?;
        assert!(lost > 1_000, "{lost} lines dropped");

        let text = read_to_report(&mut reader)?;
        let report = text.lines().find(|line| line.contains("log lines dropped")).context("no report")?;
        let whole = |line: &str| match format {
            "json" => serde_json::from_str::<Value>(line).is_ok(),
            _ => line.starts_with("20") && (line.contains(" INFO ") || line.contains(" WARN ")),
        };
        let broken = text.lines().find(|line| !whole(line));
        assert_eq!(broken, None, "a line is cut off");
        let counted = match format {
            "json" => serde_json::from_str::<Value>(report)?["count"].as_u64(),
            _ => report.split_once(" count=").and_then(|(_, count)| count.split(' ').next()?.parse().ok()),
        };
        assert_eq!(counted, Some(lost), "{report}");

        server.signal("TERM")?;
        let rest = thread::spawn(move || {
            let mut rest = String::new();
            reader.read_to_string(&mut rest).map(|_| rest)
        });
        assert_eq!(server.wait()?, 0);
        let rest = rest.join().ok().context("the reader panicked")??;
        assert!(rest.lines().last().is_some_and(|line| line.contains("stopped")), "{rest}");
    }
    Ok(())
}

#[test]
fn a_server_whose_log_nobody_reads_stops_in_time() -> Result<()> {
    let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
    let (reader, writer) = std::io::pipe()?;
    let mut command = deployment.server(&["--log", "info"]);
    let server = Server::start(command.stderr(Stdio::from(writer)))?;
    flood(&server, 5_000)?;
    let start = Instant::now();
    server.signal("TERM")?;
    assert_eq!(server.wait()?, 0);
    // It takes one second; the rest is for a busy machine.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    drop(reader);
    Ok(())
}

#[test]
fn an_output_that_nobody_reads_keeps_no_server_from_its_clients() -> Result<()> {
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    // A full pipe, and one whose reader is gone.
    let (reader, mut full) = std::io::pipe()?;
    full.write_all(&[b'x'; 1 << 16])?;
    let (gone, closed) = std::io::pipe()?;
    drop(gone);
    for output in [full, closed] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_workspaces-under-test"));
        command.args(["serve", "--demo", "--listen", &free.to_string()]);
        let mut server = command.stdout(output).spawn()?;
        drop(command);
        let end = Instant::now() + Duration::from_secs(60);
        let answered = loop {
            let answer = std::net::TcpStream::connect(free).map_err(anyhow::Error::from).and_then(|mut stream| {
                stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
                Ok(Answer::read(stream)?.status)
            });
            if answer.is_ok() || Instant::now() > end {
                break answer;
            }
            thread::sleep(Duration::from_millis(10));
        };
        server.kill()?;
        server.wait()?;
        assert_eq!(answered?, 200);
    }
    drop(reader);
    Ok(())
}

#[test]
fn words_that_are_no_levels_are_refused() -> Result<()> {
    let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
    for levels in ["verbose", "workspaces_host", "info,verbose"] {
        let output = deployment.output(&["serve", "--log", levels])?;
        let message = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(2) && message.contains("give off, error, warn, info"), "{message}");
    }
    Ok(())
}
