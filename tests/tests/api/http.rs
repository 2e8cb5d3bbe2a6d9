//! HTTP around the operation.

use std::{io::Write as _, net::Shutdown};

use anyhow::{Context as _, Result};
use serde_json::json;
use uuid::Uuid;
use workspaces_tests::{Answer, write_head};

use crate::Scene;

#[test]
fn http_around_the_operation_is_always_json() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.rows()?;
    let key = ("x-api-key", scene.key.as_str());
    let post = |headers: &[(&str, &str)]| scene.server.send("POST", "/api/workspaces", headers, b"{}");

    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        scene.assert_refused(&post(&[key, ("Content-Type", content_type)])?, 415, "application/json")?;
    }
    let json = ("Content-Type", "application/json");
    scene.assert_refused(&post(&[key, json, ("Content-Encoding", "gzip")])?, 415, "Content-Encoding")?;

    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let answer = scene.server.send(method, "/api/workspaces", &[key], b"")?;
        scene.assert_refused(&answer, 405, &format!("The method {method} is not possible"))?;
        assert_eq!(answer.header("allow"), Some("POST"), "{answer:?}");
    }
    scene.assert_refused(&scene.server.send("GET", "/nowhere", &[], b"")?, 404, "/nowhere")?;
    scene.assert_refused(&scene.server.send("POST", "/api/workspaces/", &[key, json], b"{}")?, 404, "nothing")?;
    assert_eq!(scene.rows()?, before);

    assert_eq!(post(&[key, ("Content-Type", "Application/JSON; charset=utf-8")])?.status, 201);
    Ok(())
}

#[test]
fn bodies_over_64_kib_are_413_announced_or_chunked() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.rows()?;
    let headers = [("x-api-key", scene.key.as_str()), ("Content-Type", "application/json")];

    let mut stream = scene.server.connect()?;
    write_head(&mut stream, "POST", "/api/workspaces", &headers, Some((64 << 10) + 1))?;
    scene.assert_refused(&Answer::read(stream)?, 413, "65536")?;

    let mut stream = scene.server.connect()?;
    let chunked = [headers[0], headers[1], ("Transfer-Encoding", "chunked")];
    write_head(&mut stream, "POST", "/api/workspaces", &chunked, None)?;
    let chunk = " ".repeat(1 << 10);
    for _ in 0..65 {
        write!(stream, "400\r\n{chunk}\r\n")?;
    }
    scene.assert_refused(&Answer::read(stream)?, 413, "65536")?;
    assert_eq!(scene.rows()?, before);

    let largest = format!("{{}}{}", " ".repeat((64 << 10) - 2));
    assert_eq!(scene.create(largest)?.status, 201);
    Ok(())
}

#[test]
fn a_body_that_does_not_come_is_408() -> Result<()> {
    let scene = Scene::new()?;
    let mut stream = scene.server.connect()?;
    let headers = [("x-api-key", scene.key.as_str()), ("Content-Type", "application/json")];
    write_head(&mut stream, "POST", "/api/workspaces", &headers, Some(2))?;
    stream.write_all(b"{")?;
    scene.assert_refused(&Answer::read(stream)?, 408, "slowly")
}

#[test]
fn request_ids_are_taken_or_made() -> Result<()> {
    let scene = Scene::new()?;
    let id = |sent: &[(&str, &str)]| -> Result<String> {
        let answer = scene.server.send("GET", "/healthz", sent, b"")?;
        assert_eq!((answer.status, answer.json()?), (200, json!({"status": "ok"})));
        Ok(answer.header("x-request-id").context("no id")?.to_owned())
    };
    assert_eq!(id(&[("x-request-id", "mine-1")])?, "mine-1");
    assert!(id(&[])?.parse::<Uuid>().is_ok());
    assert_ne!(id(&[])?, id(&[])?);
    assert!(id(&[("x-request-id", &"x".repeat(129))])?.parse::<Uuid>().is_ok());
    assert!(id(&[("x-request-id", "a b")])?.parse::<Uuid>().is_ok());
    Ok(())
}

#[test]
fn http_1_1_needs_exactly_one_valid_host() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.rows()?;
    let send = |version: &str, hosts: &str| -> Result<Answer> {
        let mut stream = scene.server.connect()?;
        let key = &scene.key;
        let fields = format!("{hosts}Connection: close\r\nx-api-key: {key}\r\nContent-Length: 2");
        write!(stream, "POST /api/workspaces HTTP/{version}\r\n{fields}\r\n\r\n{{}}")?;
        Answer::read(stream)
    };
    for (version, hosts) in [
        ("1.1", ""),
        ("1.1", "Host: a.example\r\nHost: a.example\r\n"),
        ("1.0", "Host: a.example\r\nHost: b.example\r\n"),
        ("1.1", "Host:\r\n"),
        ("1.1", "Host: a.example/x\r\n"),
        ("1.1", "Host: user@a.example\r\n"),
        ("1.1", "Host: a.example:x\r\n"),
    ] {
        scene.assert_refused(&send(version, hosts)?, 400, "Host").with_context(|| format!("{version} {hosts}"))?;
    }
    assert_eq!(scene.rows()?, before);
    for (version, hosts) in [("1.0", ""), ("1.1", "Host: a.example:8080\r\n"), ("1.1", "Host: [::1]\r\n")] {
        assert_eq!(send(version, hosts)?.status, 201, "{version} {hosts}");
    }
    Ok(())
}

#[test]
fn a_client_that_half_closes_gets_its_answer() -> Result<()> {
    let scene = Scene::new()?;
    let headers = [("x-api-key", scene.key.as_str()), ("Content-Type", "application/json")];
    for length in [Some(2), None] {
        let mut stream = scene.server.connect()?;
        let chunked = [headers[0], headers[1], ("Transfer-Encoding", "chunked")];
        let sent = if length.is_some() { &headers[..] } else { &chunked[..] };
        write_head(&mut stream, "POST", "/api/workspaces", sent, length)?;
        stream.write_all(if length.is_some() { "{}" } else { "2\r\n{}\r\n0\r\n\r\n" }.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        assert_eq!(Answer::read(stream)?.status, 201);
    }
    // A body that ends early is refused, and nobody waits for the rest.
    let mut stream = scene.server.connect()?;
    write_head(&mut stream, "POST", "/api/workspaces", &headers, Some(10))?;
    stream.write_all(b"{}")?;
    stream.shutdown(Shutdown::Write)?;
    scene.assert_refused(&Answer::read(stream)?, 400, "ended early")
}

#[test]
fn none_several_and_other_schemes_of_credentials_are_told_apart() -> Result<()> {
    let scene = Scene::new()?;
    let key = scene.key.as_str();
    for (headers, part) in [
        (&[][..], "No credential"),
        (&[("x-api-key", key), ("Authorization", "Bearer x")], "More than one credential"),
        (&[("x-api-key", key), ("x-api-key", key)], "More than one credential"),
        (&[("Authorization", "Basic dTpw")], "not of the scheme Bearer"),
        (&[("Authorization", key)], "not of the scheme Bearer"),
        (&[("x-api-key", "")], "The credential is empty"),
        (&[("x-api-key", "short")], "The credential is not valid"),
    ] {
        scene.assert_refused(&scene.server.send("POST", "/api/workspaces", headers, b"{}")?, 401, part)?;
    }
    Ok(())
}

#[test]
fn the_description_of_the_operation_is_served() -> Result<()> {
    let scene = Scene::new()?;
    let description = scene.server.send("GET", "/openapi.json", &[], b"")?.json()?;
    let responses = &description["paths"]["/api/workspaces"]["post"]["responses"];
    for status in ["201", "400", "401", "403", "408", "409", "413", "415", "422", "500", "503"] {
        assert!(responses[status].is_object(), "{status}");
        let media = &responses[status]["content"]["application/json"];
        assert!(media["example"].is_object() || media["examples"].is_object(), "{status} has no example");
    }
    assert_eq!(description["servers"][0]["url"], "/");
    assert!(description["components"]["schemas"]["Workspace"]["properties"]["id"].is_object());
    for scheme in ["apiKey", "bearer"] {
        assert!(description["components"]["securitySchemes"][scheme]["description"].is_string(), "{scheme}");
    }
    // What a page that shows the description sends by default.
    let post = &description["paths"]["/api/workspaces"]["post"];
    assert_eq!(post["tags"][0], description["tags"][0]["name"]);
    let examples = post["requestBody"]["content"]["application/json"]["examples"].as_object().context("no example")?;
    for (name, example) in examples {
        assert_eq!(scene.create(example["value"].to_string())?.status, 201, "{name}");
    }
    Ok(())
}
