//! Requests whose head is no HTTP: hyper answers them before any route, without the JSON of other errors. docs/api.md
//! names each case.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result};

use super::scene::Scene;

/// Returns the answer of hyper itself: a status without a body.
fn of_hyper(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n")
}

#[test]
fn heads_that_are_no_http_get_an_empty_answer_and_the_connection_is_closed() -> Result<()> {
    let scene = Scene::new()?;
    let head = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\nHost: x\r\n{fields}\r\n").into_bytes();
    let many = |count: usize| (0..count).map(|number| format!("a{number}: b\r\n")).collect::<String>();
    let bad = || of_hyper("400 Bad Request");
    let large = || of_hyper("431 Request Header Fields Too Large");
    for (name, request, expected) in [
        ("no request line", b"NONSENSE\r\n\r\n".to_vec(), bad()),
        ("TLS", b"\x16\x03\x01\x00\x05hello\r\n\r\n".to_vec(), bad()),
        ("another version", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n".to_vec(), bad()),
        ("no version", b"GET /\r\n\r\n".to_vec(), bad()),
        ("a method that is no token", head("G@T /", ""), bad()),
        ("a space in the path", head("GET /a b", ""), bad()),
        ("a control character in the path", head("GET /\u{7f}", ""), bad()),
        ("a field without a colon", head("GET /healthz", "nothing\r\n"), bad()),
        ("a space in a field's name", head("GET /healthz", "a b: c\r\n"), bad()),
        ("a space before the colon", head("GET /healthz", "a : c\r\n"), bad()),
        ("a NUL in a value", head("GET /healthz", "a: b\0c\r\n"), bad()),
        ("a CR in a value", head("GET /healthz", "a: b\rc\r\n"), bad()),
        ("a folded line", head("GET /healthz", "a: b\r\n c\r\n"), bad()),
        ("a length that is no number", head("POST /api/workspaces", "Content-Length: x\r\n"), bad()),
        ("a negative length", head("POST /api/workspaces", "Content-Length: -1\r\n"), bad()),
        ("a length over 64 bits", head("POST /api/workspaces", "Content-Length: 18446744073709551616\r\n"), bad()),
        ("two lengths", head("POST /api/workspaces", "Content-Length: 1\r\nContent-Length: 2\r\n"), bad()),
        ("another transfer coding", head("POST /api/workspaces", "Transfer-Encoding: gzip\r\n"), bad()),
        (
            "chunks in HTTP/1.0",
            b"POST /api/workspaces HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
            bad(),
        ),
        ("over 100 fields", head("GET /healthz", &many(101)), large()),
        ("a field of 70,000 bytes", head("GET /healthz", &format!("a: {}\r\n", "x".repeat(70_000))), large()),
        ("a path of 70,000 bytes", head(&format!("GET /{}", "x".repeat(70_000)), ""), large()),
        ("a length of nearly 2^64", head("POST /api/workspaces", "Content-Length: 18446744073709551615\r\n"), large()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), String::new()),
    ] {
        let mut stream = scene.server.connect()?;
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(&request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).with_context(|| name.to_owned())?;
        assert!(answer.starts_with(&expected), "{name}: {answer:?}");
        assert!(answer.is_empty() == expected.is_empty(), "{name}: {answer:?}");
        assert!(answer.is_empty() || answer.ends_with("\r\n\r\n"), "{name} has a body: {answer:?}");
    }
    // Of 40 KiB, in two packets: the second is sent when the first has been read, which nothing tells.
    let mut stream = scene.server.connect()?;
    stream.set_nodelay(true)?;
    let request = head("GET /healthz", &format!("a: {}\r\n", "x".repeat(40 << 10)));
    for part in request.chunks(34 << 10) {
        let _ = stream.write_all(part);
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with(&large()), "{answer:?}");
    // What is just within: an answer of a route, in JSON.
    for (name, request, expected) in [
        ("100 fields", head("GET /healthz", &(many(98) + "Connection: close\r\n")), "HTTP/1.1 200 OK"),
        (
            "30 KiB",
            head("GET /healthz", &format!("a: {}\r\nConnection: close\r\n", "x".repeat(30 << 10))),
            "HTTP/1.1 200 OK",
        ),
        (
            "a long path",
            head(&format!("GET /{}", "x".repeat(30 << 10)), "Connection: close\r\n"),
            "HTTP/1.1 404 Not Found",
        ),
        (
            "lines that end with LF alone",
            b"GET /healthz HTTP/1.1\nHost: x\nConnection: close\n\n".to_vec(),
            "HTTP/1.1 200 OK",
        ),
    ] {
        let mut stream = scene.server.connect()?;
        stream.write_all(&request)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert!(answer.starts_with(expected) && answer.ends_with('}'), "{name}: {answer:?}");
    }
    Ok(())
}
