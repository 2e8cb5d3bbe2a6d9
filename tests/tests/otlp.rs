//! Traces of requests, as a collector gets them.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use workspaces_tests::{Deployment, Server};

/// A request's head, in lower case, and its body.
type Request = (String, Vec<u8>);

/// Returns a collector that answers 200, and what it is sent.
fn collector() -> Result<(SocketAddr, Receiver<Request>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, (sender, receiver)) = (listener.local_addr()?, channel());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                while let Ok(request) = receive(&mut stream) {
                    let _ = sender.send(request);
                }
            });
        }
    });
    Ok((address, receiver))
}

fn receive(stream: &mut BufReader<TcpStream>) -> Result<Request> {
    let (mut head, mut body) = (String::new(), Vec::new());
    while !head.ends_with("\r\n\r\n") {
        ensure!(stream.read_line(&mut head)? > 0, "the connection ends");
    }
    head.make_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
    body.resize(length.parse()?, 0);
    stream.read_exact(&mut body)?;
    stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    Ok((head, body))
}

fn serve(collector: &str) -> Result<(Deployment, Server)> {
    let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
    let mut command = deployment.server(&[
        "--log",
        "info",
        "--log-format",
        "json",
        "--otlp-endpoint",
        &format!("http://{collector}"),
    ]);
    let server = Server::start(command.stderr(File::create(deployment.folder().join("log"))?))?;
    Ok((deployment, server))
}

/// Returns the lines of the log.
fn logged(deployment: &Deployment) -> Result<Vec<Value>> {
    let text = fs::read_to_string(deployment.folder().join("log"))?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    (0..hex.len()).step_by(2).map(|at| Ok(u8::from_str_radix(hex.get(at..at + 2).context("odd")?, 16)?)).collect()
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[test]
fn what_was_traced_is_sent_before_the_end_in_the_callers_trace_or_the_one_logged() -> Result<()> {
    let (address, collected) = collector()?;
    let (deployment, server) = serve(&address.to_string())?;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let unsampled = "00-11111111111111111111111111111111-2222222222222222-00";
    for headers in [&[("traceparent", traceparent)][..], &[("traceparent", unsampled)], &[]] {
        assert_eq!(server.send("GET", "/healthz", headers, b"")?.status, 200);
    }
    server.signal("TERM")?;
    assert_eq!(server.wait()?, 0);
    let (head, body) = collected.recv_timeout(Duration::from_secs(1)).context("nothing was sent")?;
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    assert!(contains(&body, b"service.name") && contains(&body, b"workspaces"), "the service");

    let lines = logged(&deployment)?;
    let traces: Vec<_> = lines.iter().filter_map(|line| line["span"]["trace_id"].as_str()).collect();
    let [sent, dropped, made] = traces[..] else { anyhow::bail!("{lines:?}") };
    assert_eq!((sent, dropped), ("4bf92f3577b34da6a3ce929d0e0e4736", "11111111111111111111111111111111"));
    assert!(contains(&body, &bytes(sent)?) && contains(&body, &bytes("00f067aa0ba902b7")?), "the caller's trace");
    assert!(made.len() == 32 && contains(&body, &bytes(made)?), "the trace that the log names");
    assert!(!contains(&body, &bytes(dropped)?), "a trace that the caller does not keep");
    Ok(())
}

#[test]
fn without_a_collector_requests_are_answered_and_the_log_says_what_is_lost() -> Result<()> {
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let (deployment, server) = serve(&nobody.to_string())?;
    for _ in 0..3 {
        assert_eq!(server.send("GET", "/healthz", &[], b"")?.status, 200);
    }
    server.signal("TERM")?;
    assert_eq!(server.wait()?, 0);
    let lines = logged(&deployment)?;
    let lost = lines
        .iter()
        .filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with("sending traces failed")));
    assert_eq!(lost.count(), 1, "{lines:?}");
    Ok(())
}
