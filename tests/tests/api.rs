//! The operation over TCP: the behaviour table, the access rules and the clients in the field.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{collections::HashSet, io::Write as _, thread};

use anyhow::{Context as _, Result};
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use uuid::Uuid;
use workspaces_tests::{Answer, Deployment, Server, write_head};

const TABLES: [&str; 4] = ["accounts", "account_info", "account_workspace_ids", "artist_organization_ids"];
const UNKNOWN: &str = "123e4567-e89b-42d3-a456-426614174000";

/// A server with people and organizations:
///
/// - `ada` and `grace` are members of `label`; `ada` holds the key.
/// - `mallory` is a member of `rival` alone.
/// - `root` is a member of `admins`, the administrators.
struct World {
    deployment: Deployment,
    server: Server,
    ada: String,
    grace: String,
    mallory: String,
    root: String,
    label: String,
    rival: String,
    key: String,
    root_key: String,
}

impl World {
    fn new() -> Result<Self> {
        let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
        let account = |name| deployment.run(&["account", "create", "--name", name]);
        let organization = |name| deployment.run(&["organization", "create", "--name", name]);
        let (ada, grace, mallory, root) = (account("Ada")?, account("Grace")?, account("Mallory")?, account("Root")?);
        let (label, rival, admins) = (organization("Label")?, organization("Rival")?, organization("Admins")?);
        for (organization, account) in [(&label, &ada), (&label, &grace), (&rival, &mallory), (&admins, &root)] {
            deployment.run(&["organization", "add-member", organization, account])?;
        }
        let key = deployment.run(&["key", "create", &ada])?;
        let root_key = deployment.run(&["key", "create", &root])?;
        let server = deployment.serve(&["--admin-organization", &admins])?;
        Ok(Self { deployment, server, ada, grace, mallory, root, label, rival, key, root_key })
    }

    fn sql(&self) -> Result<Connection> {
        Ok(Connection::open(self.deployment.database())?)
    }

    /// The rows of the tables that a create writes.
    fn rows(&self) -> Result<[i64; 4]> {
        let connection = self.sql()?;
        let mut counts = [0; 4];
        for (count, table) in counts.iter_mut().zip(TABLES) {
            *count = connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
        }
        Ok(counts)
    }

    fn create(&self, body: impl AsRef<[u8]>) -> Result<Answer> {
        self.server.create(&self.key, body)
    }

    /// Sends a body that has to be answered with 201, and returns the workspace.
    fn created(&self, body: &Value) -> Result<Value> {
        let answer = self.create(body.to_string())?;
        assert_eq!(answer.status, 201, "{body}: {answer:?}");
        Ok(answer.json()?["workspace"].clone())
    }

    /// Asserts that an answer is an error of this status in the one form of errors, that says so much.
    fn assert_refused(&self, answer: &Answer, status: u16, part: &str) -> Result<()> {
        let body = answer.json()?;
        assert_eq!((answer.status, &body["error"]), (status, &json!(status)), "{answer:?}");
        let message = body["message"].as_str().context("no message")?;
        assert!(message.contains(part), "{message:?} does not say {part:?}");
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(2), "{body}");
        Ok(())
    }
}

#[test]
fn a_create_answers_exactly_the_contract_and_writes_every_row() -> Result<()> {
    let world = World::new()?;
    let before = world.rows()?;
    let answer = world.create(json!({"name": "Studio", "organization_id": world.label}).to_string())?;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("location"), None);
    let body = answer.json()?;
    let id: Uuid = body["workspace"]["id"].as_str().context("no id")?.parse()?;
    assert_eq!(id.get_version_num(), 7);
    let expected = json!({"workspace": {"id": id, "name": "Studio", "account_id": world.ada, "isWorkspace": true}});
    assert_eq!(body, expected);
    let after = world.rows()?;
    assert_eq!(after, [before[0] + 1, before[1] + 1, before[2] + 1, before[3] + 1]);

    let connection = world.sql()?;
    let (ada, label): (Uuid, Uuid) = (world.ada.parse()?, world.label.parse()?);
    for (query, parameters) in [
        ("SELECT count(*) FROM accounts WHERE id = ?1 AND name = 'Studio' AND ?2 IS NOT NULL", params![id, ada]),
        ("SELECT count(*) FROM account_info WHERE account_id = ?1 AND ?2 IS NOT NULL", params![id, ada]),
        ("SELECT count(*) FROM account_workspace_ids WHERE workspace_id = ?1 AND account_id = ?2", params![id, ada]),
        (
            "SELECT count(*) FROM artist_organization_ids WHERE artist_id = ?1 AND organization_id = ?2",
            params![id, label],
        ),
    ] {
        assert_eq!(connection.query_row(query, parameters, |row| row.get::<_, i64>(0))?, 1, "{query}");
    }

    world.created(&json!({}))?;
    let unlinked = world.rows()?;
    assert_eq!(unlinked, [after[0] + 1, after[1] + 1, after[2] + 1, after[3]], "no link without an organization");

    let listed: Value =
        serde_json::from_str(&world.deployment.run(&["workspace", "list", "--json", "--account", &world.ada])?)?;
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    assert_eq!(listed[0], json!({"id": id, "name": "Studio", "account_id": ada, "organization_id": label}));
    Ok(())
}

#[test]
fn names_are_trimmed_and_default_to_untitled() -> Result<()> {
    let world = World::new()?;
    let long = "é".repeat(255);
    for (body, name) in [
        (json!({}), "Untitled"),
        (json!({"name": "  "}), "Untitled"),
        (json!({"name": "\n\t\u{a0}"}), "Untitled"),
        (json!({"name": null, "account_id": null, "organization_id": null}), "Untitled"),
        (json!({"name": "\r\n\tStudio A \n"}), "Studio A"),
        (json!({"name": "Ünï 🎸"}), "Ünï 🎸"),
        (json!({"name": long}), &*long),
        (json!({"name": "x", "unknown": {"deeply": [1, 2.5, null, true]}, "id": "ignored"}), "x"),
    ] {
        assert_eq!(world.created(&body)?["name"], name, "{body}");
    }
    Ok(())
}

#[test]
fn invalid_bodies_are_400_and_write_nothing() -> Result<()> {
    let world = World::new()?;
    let before = world.rows()?;
    let nested = format!(r#"{{"x":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    let name = |name: &str| json!({"name": name}).to_string();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "empty"),
        (b"nonsense".to_vec(), "not valid"),
        (b"[]".to_vec(), "a JSON object"),
        (br#"["A",null,null]"#.to_vec(), "a JSON object"),
        (b"null".to_vec(), "a JSON object"),
        (br#"{"name":1}"#.to_vec(), "for name"),
        (br#"{"account_id":{}}"#.to_vec(), "for account_id"),
        (br#"{"organization_id":false}"#.to_vec(), "for organization_id"),
        (br#"{"name":"A","name":"A"}"#.to_vec(), "twice"),
        (br#"{"x":1,"x":1}"#.to_vec(), "twice"),
        (b"{\"name\":\"\xff\"}".to_vec(), "UTF-8"),
        (b"{\"x\":\"\xff\"}".to_vec(), "UTF-8"),
        (br#"{"name":"\ud800"}"#.to_vec(), "not valid"),
        (br#"{"x":"\udc00"}"#.to_vec(), "not valid"),
        (nested.into_bytes(), "nested deeper than 64"),
        (name(&"é".repeat(256)).into_bytes(), "255"),
        (name(&format!("{}x", " ".repeat(255))).into_bytes(), "255"),
        (name("a\0b").into_bytes(), "control character"),
        (name("a\nb").into_bytes(), "control character"),
        (name("a\u{202e}b").into_bytes(), "text-direction"),
        (br#"{"account_id":"x"}"#.to_vec(), "account_id is not a UUID"),
        (br#"{"organization_id":""}"#.to_vec(), "organization_id is not a UUID"),
        (UNKNOWN.replace('-', "").into_bytes(), "not valid"),
        (json!({"account_id": UNKNOWN.replace('-', "")}).to_string().into_bytes(), "account_id is not a UUID"),
    ];
    for (body, part) in cases {
        world
            .assert_refused(&world.create(&body)?, 400, part)
            .with_context(|| String::from_utf8_lossy(&body).into_owned())?;
    }
    assert_eq!(world.rows()?, before);
    Ok(())
}

#[test]
fn credentials_that_are_not_exactly_one_valid_key_are_401_before_the_body_is_read() -> Result<()> {
    let world = World::new()?;
    let before = world.rows()?;
    let key = world.key.as_str();
    let bearer = format!("Bearer {key}");
    let unknown = format!("recoup_sk_{}", "A".repeat(43));

    let revoked = world.deployment.run(&["key", "create", "--json", &world.ada])?;
    let revoked: Value = serde_json::from_str(&revoked)?;
    let revoked_key = revoked["key"].as_str().context("no key")?;
    assert_eq!(world.server.create(revoked_key, "{}")?.status, 201, "before it is revoked");
    world.deployment.run(&["key", "revoke", revoked["id"].as_str().context("no id")?])?;

    let expired = world.deployment.run(&["key", "create", "--json", "--expires-in", "1h", &world.ada])?;
    let expired: Value = serde_json::from_str(&expired)?;
    let (expired_key, expired_id) =
        (expired["key"].as_str().context("no key")?, expired["id"].as_str().context("no id")?);
    assert_eq!(world.server.create(expired_key, "{}")?.status, 201, "before it expires");
    let expired_id: Uuid = expired_id.parse()?;
    let changed =
        world.sql()?.execute("UPDATE account_api_keys SET expires_at = created_at WHERE id = ?1", [expired_id])?;
    assert_eq!(changed, 1);

    let before = [before[0] + 2, before[1] + 2, before[2] + 2, before[3]];
    for headers in [
        &[][..],
        &[("x-api-key", key), ("Authorization", &bearer)],
        &[("x-api-key", key), ("x-api-key", key)],
        &[("Authorization", &bearer), ("Authorization", &bearer)],
        &[("x-api-key", &unknown)],
        &[("x-api-key", "short")],
        &[("x-api-key", "")],
        &[("x-api-key", revoked_key)],
        &[("x-api-key", expired_key)],
        &[("Authorization", key)],
        &[("Authorization", "Bearer")],
        &[("Authorization", "Bearer not.a.jwt")],
        &[("Authorization", "Basic dTpw")],
    ] {
        // The length is announced and no body follows: only a server that does not wait for it answers.
        let mut stream = world.server.connect()?;
        let mut sent = headers.to_vec();
        sent.push(("Content-Type", "application/json"));
        write_head(&mut stream, "POST", "/api/workspaces", &sent, Some(100))?;
        let answer = Answer::read(stream)?;
        world.assert_refused(&answer, 401, "credential").with_context(|| format!("{headers:?}"))?;
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(world.rows()?, before);
    Ok(())
}

#[test]
fn accounts_within_reach_are_allowed() -> Result<()> {
    let world = World::new()?;
    let allowed = [
        (&world.key, &world.ada),
        (&world.key, &world.grace),
        (&world.root_key, &world.root),
        (&world.root_key, &world.ada),
        (&world.root_key, &world.mallory),
    ];
    for (key, account) in allowed {
        let answer = world.server.create(key, json!({"account_id": account}).to_string())?;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.json()?["workspace"]["account_id"], **account, "the account it was created for");
    }
    Ok(())
}

#[test]
fn organizations_of_the_resulting_account_are_allowed() -> Result<()> {
    let world = World::new()?;
    for (key, body) in [
        (&world.key, json!({"organization_id": world.label})),
        (&world.key, json!({"organization_id": world.ada})),
        (&world.key, json!({"account_id": world.grace, "organization_id": world.label})),
        (&world.root_key, json!({"account_id": world.mallory, "organization_id": world.rival})),
        (&world.root_key, json!({"account_id": world.label, "organization_id": world.label})),
    ] {
        assert_eq!(world.server.create(key, body.to_string())?.status, 201, "{body}");
    }
    Ok(())
}

#[test]
fn what_is_out_of_reach_or_does_not_exist_is_403_with_the_same_bytes() -> Result<()> {
    let world = World::new()?;
    let before = world.rows()?;
    let refused = |key: &str, body: Value, part: &str| -> Result<Vec<u8>> {
        let answer = world.server.create(key, body.to_string())?;
        world.assert_refused(&answer, 403, part).with_context(|| body.to_string())?;
        Ok(answer.body)
    };
    let accounts: HashSet<_> = [
        refused(&world.key, json!({"account_id": world.mallory}), "account_id")?,
        refused(&world.key, json!({"account_id": world.root}), "account_id")?,
        refused(&world.key, json!({"account_id": world.label}), "account_id")?,
        refused(&world.key, json!({"account_id": UNKNOWN}), "account_id")?,
        refused(&world.root_key, json!({"account_id": UNKNOWN}), "account_id")?,
    ]
    .into();
    assert_eq!(accounts.len(), 1);
    let organizations: HashSet<_> = [
        refused(&world.key, json!({"organization_id": world.rival}), "organization_id")?,
        refused(&world.key, json!({"organization_id": UNKNOWN}), "organization_id")?,
        // The administrator reaches the account; the account does not reach the organization.
        refused(
            &world.root_key,
            json!({"account_id": world.mallory, "organization_id": world.label}),
            "organization_id",
        )?,
        refused(&world.root_key, json!({"organization_id": world.label}), "organization_id")?,
    ]
    .into();
    assert_eq!(organizations.len(), 1);
    assert_eq!(world.rows()?, before);
    Ok(())
}

#[test]
fn without_an_administrators_organization_nobody_is_one() -> Result<()> {
    let world = World::new()?;
    let plain = world.deployment.serve(&[])?;
    let body = json!({"account_id": world.ada}).to_string();
    world.assert_refused(&plain.create(&world.root_key, &body)?, 403, "account_id")?;
    assert_eq!(world.server.create(&world.root_key, &body)?.status, 201);
    Ok(())
}

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
fn the_browser_page_gets_its_preflight_and_its_workspace() -> Result<()> {
    let world = World::new()?;
    let preflight = world.server.send(
        "OPTIONS",
        "/api/workspaces",
        &[
            ("Origin", "https://chat.example"),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "authorization,content-type"),
        ],
        b"",
    )?;
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    let list = |name| -> HashSet<String> {
        preflight.header(name).unwrap_or_default().split(',').map(|item| item.trim().to_lowercase()).collect()
    };
    let expect = |items: &[&str]| -> HashSet<String> { items.iter().map(|&item| item.to_owned()).collect() };
    assert_eq!(list("access-control-allow-methods"), expect(&["get", "post", "put", "delete", "options", "patch"]));
    assert_eq!(
        list("access-control-allow-headers"),
        expect(&["content-type", "authorization", "x-requested-with", "x-api-key", "idempotency-key"])
    );

    let bearer = format!("Bearer {}", world.key);
    for organization in [json!(world.label), Value::Null] {
        let headers = [
            ("Origin", "https://chat.example"),
            ("Content-Type", "application/json"),
            ("Authorization", bearer.as_str()),
        ];
        let body = json!({"organization_id": organization}).to_string();
        let answer = world.server.send("POST", "/api/workspaces", &headers, body.as_bytes())?;
        assert_eq!(answer.status, 201);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.json()?["workspace"]["isWorkspace"], true);
    }
    let refused = world.server.send("POST", "/api/workspaces", &[("Origin", "https://chat.example")], b"{}")?;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some("*")));
    Ok(())
}

#[test]
fn the_proxy_may_forward_body_and_credential_alone() -> Result<()> {
    let world = World::new()?;
    let bearer = format!("Bearer {}", world.key);
    for credential in [("x-api-key", world.key.as_str()), ("Authorization", &bearer)] {
        let answer = world.server.send("POST", "/api/workspaces", &[credential], br#"{ "name": "Proxied" }"#)?;
        assert_eq!((answer.status, &answer.json()?["workspace"]["name"]), (201, &json!("Proxied")));
    }
    Ok(())
}

#[test]
fn the_command_line_client_gets_2xx() -> Result<()> {
    let world = World::new()?;
    let answer = world.create(json!({"name": "CLI", "organization_id": world.label}).to_string())?;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    Ok(())
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

#[test]
fn a_hundred_concurrent_creates_give_a_hundred_workspaces() -> Result<()> {
    let world = World::new()?;
    let before = world.rows()?;
    let answers: Vec<Result<Answer>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..100).map(|_| scope.spawn(|| world.create("{}"))).collect();
        clients.into_iter().filter_map(|client| client.join().ok()).collect()
    });
    let mut ids = HashSet::new();
    for answer in answers {
        let answer = answer?;
        assert_eq!(answer.status, 201, "{answer:?}");
        ids.insert(answer.json()?["workspace"]["id"].as_str().map(str::to_owned));
    }
    assert_eq!(ids.len(), 100);
    assert_eq!(world.rows()?, [before[0] + 100, before[1] + 100, before[2] + 100, before[3]]);
    Ok(())
}

#[test]
fn a_restart_keeps_the_data() -> Result<()> {
    let world = World::new()?;
    let id = world.created(&json!({"name": "Kept"}))?["id"].clone();
    let World { deployment, server, key, .. } = world;
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
        let world = World::new()?;
        let mut stream = world.server.connect()?;
        let headers =
            [("x-api-key", world.key.as_str()), ("Content-Type", "application/json"), ("Expect", "100-continue")];
        write_head(&mut stream, "POST", "/api/workspaces", &headers, Some(2))?;
        // "100 Continue" is the sign that the server is at the body.
        let mut line = [0; 25];
        std::io::Read::read_exact(&mut stream, &mut line)?;
        assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
        world.server.signal(signal)?;
        while world.server.connect().is_ok() {
            thread::yield_now();
        }
        stream.write_all(b"{}")?;
        assert_eq!(Answer::read(stream)?.status, 201);
        assert_eq!(world.server.wait()?, 0);
    }
    Ok(())
}
