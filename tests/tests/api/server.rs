//! The server's life: many requests at once, a restart, the end.

use std::{collections::HashSet, io::Write as _, thread};

use anyhow::Result;
use serde_json::{Value, json};
use workspaces_tests::{Answer, write_head};

use crate::Scene;

#[test]
fn a_hundred_concurrent_creates_give_a_hundred_workspaces() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.rows()?;
    let answers: Vec<Result<Answer>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..100).map(|_| scope.spawn(|| scene.create("{}"))).collect();
        clients.into_iter().filter_map(|client| client.join().ok()).collect()
    });
    let mut ids = HashSet::new();
    for answer in answers {
        let answer = answer?;
        assert_eq!(answer.status, 201, "{answer:?}");
        ids.insert(answer.json()?["workspace"]["id"].as_str().map(str::to_owned));
    }
    assert_eq!(ids.len(), 100);
    assert_eq!(scene.rows()?, [before[0] + 100, before[1] + 100, before[2] + 100, before[3]]);
    Ok(())
}

#[test]
fn a_restart_keeps_the_data() -> Result<()> {
    let scene = Scene::new()?;
    let id = scene.created(&json!({"name": "Kept"}))?["id"].clone();
    let Scene { deployment, server, key, .. } = scene;
    server.signal("KILL")?;
    drop(server);
    let server = deployment.serve(&[])?;
    let listed: Value = serde_json::from_str(&deployment.run(&["workspace", "list", "--json"])?)?;
    assert_eq!(listed[0]["id"], id);
    assert_eq!(server.create(&key, "{}")?.status, 201, "the key is kept too");
    Ok(())
}

#[test]
fn sigterm_and_sigint_let_a_request_in_progress_finish() -> Result<()> {
    for signal in ["TERM", "INT"] {
        let scene = Scene::new()?;
        let mut stream = scene.server.connect()?;
        let headers =
            [("x-api-key", scene.key.as_str()), ("Content-Type", "application/json"), ("Expect", "100-continue")];
        write_head(&mut stream, "POST", "/api/workspaces", &headers, Some(2))?;
        // "100 Continue" is the sign that the server is at the body.
        let mut line = [0; 25];
        std::io::Read::read_exact(&mut stream, &mut line)?;
        assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
        scene.server.signal(signal)?;
        while scene.server.connect().is_ok() {
            thread::yield_now();
        }
        stream.write_all(b"{}")?;
        assert_eq!(Answer::read(stream)?.status, 201);
        assert_eq!(scene.server.wait()?, 0);
    }
    Ok(())
}
