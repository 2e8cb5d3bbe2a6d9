//! HTTP around the operation.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde_json::json;
use uuid::Uuid;
use workspaces_tests::{Answer, write_head};

use crate::World;

#[test]
fn http_around_the_operation_is_always_json() -> Result<()> {
    let world = World::new()?;
    let before = world.rows()?;
    let key = ("x-api-key", world.key.as_str());
    let post = |headers: &[(&str, &str)]| world.server.send("POST", "/api/workspaces", headers, b"{}");

    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        world.assert_refused(&post(&[key, ("Content-Type", content_type)])?, 415, "application/json")?;
    }
    let json = ("Content-Type", "application/json");
    world.assert_refused(&post(&[key, json, ("Content-Encoding", "gzip")])?, 415, "Content-Encoding")?;

    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let answer = world.server.send(method, "/api/workspaces", &[key], b"")?;
        world.assert_refused(&answer, 405, method)?;
        assert_eq!(answer.header("allow"), Some("POST"), "{answer:?}");
    }
    world.assert_refused(&world.server.send("GET", "/nowhere", &[], b"")?, 404, "/nowhere")?;
    world.assert_refused(&world.server.send("POST", "/api/workspaces/", &[key, json], b"{}")?, 404, "nothing")?;
    assert_eq!(world.rows()?, before);

    assert_eq!(post(&[key, ("Content-Type", "Application/JSON; charset=utf-8")])?.status, 201);
    Ok(())
}

#[test]
fn bodies_over_64_kib_are_413_announced_or_chunked() -> Result<()> {
    let world = World::new()?;
    let before = world.rows()?;
    let headers = [("x-api-key", world.key.as_str()), ("Content-Type", "application/json")];

    let mut stream = world.server.connect()?;
    write_head(&mut stream, "POST", "/api/workspaces", &headers, Some((64 << 10) + 1))?;
    world.assert_refused(&Answer::read(stream)?, 413, "65536")?;

    let mut stream = world.server.connect()?;
    let chunked = [headers[0], headers[1], ("Transfer-Encoding", "chunked")];
    write_head(&mut stream, "POST", "/api/workspaces", &chunked, None)?;
    let chunk = " ".repeat(1 << 10);
    for _ in 0..65 {
        write!(stream, "400\r\n{chunk}\r\n")?;
    }
    world.assert_refused(&Answer::read(stream)?, 413, "65536")?;
    assert_eq!(world.rows()?, before);

    let largest = format!("{{}}{}", " ".repeat((64 << 10) - 2));
    assert_eq!(world.create(largest)?.status, 201);
    Ok(())
}

#[test]
fn a_body_that_does_not_come_is_408() -> Result<()> {
    let world = World::new()?;
    let mut stream = world.server.connect()?;
    let headers = [("x-api-key", world.key.as_str()), ("Content-Type", "application/json")];
    write_head(&mut stream, "POST", "/api/workspaces", &headers, Some(2))?;
    stream.write_all(b"{")?;
    world.assert_refused(&Answer::read(stream)?, 408, "slowly")
}

#[test]
fn request_ids_are_taken_or_made() -> Result<()> {
    let world = World::new()?;
    let id = |sent: &[(&str, &str)]| -> Result<String> {
        let answer = world.server.send("GET", "/healthz", sent, b"")?;
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
fn the_description_of_the_operation_is_served() -> Result<()> {
    let world = World::new()?;
    let description = world.server.send("GET", "/openapi.json", &[], b"")?.json()?;
    let responses = &description["paths"]["/api/workspaces"]["post"]["responses"];
    for status in ["201", "400", "401", "403", "408", "409", "413", "415", "422", "500", "503"] {
        assert!(responses[status].is_object(), "{status}");
    }
    Ok(())
}
