//! Bodies, and what comes of each.

use anyhow::{Context as _, Result};
use rusqlite::params;
use serde_json::{Value, json};
use uuid::Uuid;
use workspaces_host::MAX_NAME_CHARACTERS;

use crate::{Scene, UNKNOWN};

#[test]
fn a_create_answers_exactly_the_contract_and_writes_every_row() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.rows()?;
    let answer = scene.create(json!({"name": "Studio", "organization_id": scene.label}).to_string())?;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("location"), None);
    let body = answer.json()?;
    let id: Uuid = body["workspace"]["id"].as_str().context("no id")?.parse()?;
    assert_eq!(id.get_version_num(), 7);
    let expected = json!({"workspace": {"id": id, "name": "Studio", "account_id": scene.ada, "isWorkspace": true}});
    assert_eq!(body, expected);
    let after = scene.rows()?;
    assert_eq!(after, [before[0] + 1, before[1] + 1, before[2] + 1, before[3] + 1]);

    let connection = scene.sql()?;
    let (ada, label): (Uuid, Uuid) = (scene.ada.parse()?, scene.label.parse()?);
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

    scene.created(&json!({}))?;
    let unlinked = scene.rows()?;
    assert_eq!(unlinked, [after[0] + 1, after[1] + 1, after[2] + 1, after[3]], "no link without an organization");

    let listed: Value =
        serde_json::from_str(&scene.deployment.run(&["workspace", "list", "--json", "--account", &scene.ada])?)?;
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    assert_eq!(listed[0], json!({"id": id, "name": "Studio", "account_id": ada, "organization_id": label}));
    Ok(())
}

#[test]
fn the_description_has_the_maximum_of_a_name() -> Result<()> {
    let description = Scene::new()?.server.send("GET", "/openapi.json", &[], b"")?.json()?;
    let name = &description["components"]["schemas"]["CreateWorkspaceRequest"]["properties"]["name"];
    assert_eq!(name["maxLength"], MAX_NAME_CHARACTERS, "{name}");
    Ok(())
}

#[test]
fn names_are_trimmed_and_default_to_untitled() -> Result<()> {
    let scene = Scene::new()?;
    let long = "é".repeat(MAX_NAME_CHARACTERS);
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
        assert_eq!(scene.created(&body)?["name"], name, "{body}");
    }
    Ok(())
}

#[test]
fn invalid_bodies_are_400_and_write_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.rows()?;
    let nested = format!(r#"{{"x":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    let name = |name: &str| json!({"name": name}).to_string();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "empty"),
        (b"nonsense".to_vec(), "not valid JSON at line 1, column 2: send one JSON object"),
        (b"{\n \"name\" 1}".to_vec(), "not valid JSON at line 2, column 9"),
        (br#"{"name": "A"#.to_vec(), "ends early, at line 1, column 11"),
        (b"{}{}".to_vec(), "not valid JSON"),
        (b"[]".to_vec(), "a JSON object"),
        (br#"["A",null,null]"#.to_vec(), "a JSON object"),
        (b"null".to_vec(), "a JSON object"),
        (br#"{"name":1}"#.to_vec(), "name must be a string or null (line 1, column 9)"),
        (br#"{"account_id":{}}"#.to_vec(), "account_id must be a string or null"),
        (br#"{"organization_id":false}"#.to_vec(), "organization_id must be a string or null"),
        (br#"{"name":"A","name":"A"}"#.to_vec(), "twice"),
        (br#"{"x":1,"x":1}"#.to_vec(), "twice"),
        (b"{\"name\":\"\xff\"}".to_vec(), "UTF-8"),
        (b"{\"x\":\"\xff\"}".to_vec(), "UTF-8"),
        (br#"{"name":"\ud800"}"#.to_vec(), "not valid"),
        (br#"{"x":"\udc00"}"#.to_vec(), "not valid"),
        (nested.into_bytes(), "nested deeper than 64"),
        (name(&"é".repeat(MAX_NAME_CHARACTERS + 1)).into_bytes(), "255"),
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
        scene
            .assert_refused(&scene.create(&body)?, 400, part)
            .with_context(|| String::from_utf8_lossy(&body).into_owned())?;
    }
    assert_eq!(scene.rows()?, before);
    Ok(())
}
