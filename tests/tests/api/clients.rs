//! The clients in the field, as they send.

use std::collections::HashSet;

use anyhow::Result;
use serde_json::{Value, json};

use crate::Scene;

#[test]
fn the_browser_page_gets_its_preflight_and_its_workspace() -> Result<()> {
    let scene = Scene::new()?;
    let preflight = scene.server.send(
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
        expect(&[
            "content-type",
            "authorization",
            "x-requested-with",
            "x-api-key",
            "idempotency-key",
            "x-request-id",
            "traceparent",
            "tracestate",
            "baggage",
        ])
    );
    assert_eq!(preflight.header("access-control-max-age"), Some("7200"));

    let bearer = format!("Bearer {}", scene.key);
    for organization in [json!(scene.label), Value::Null] {
        let headers = [
            ("Origin", "https://chat.example"),
            ("Content-Type", "application/json"),
            ("Authorization", bearer.as_str()),
        ];
        let body = json!({"organization_id": organization}).to_string();
        let answer = scene.server.send("POST", "/api/workspaces", &headers, body.as_bytes())?;
        assert_eq!(answer.status, 201);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.json()?["workspace"]["isWorkspace"], true);
    }
    let refused = scene.server.send("POST", "/api/workspaces", &[("Origin", "https://chat.example")], b"{}")?;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some("*")));
    Ok(())
}

#[test]
fn the_proxy_may_forward_body_and_credential_alone() -> Result<()> {
    let scene = Scene::new()?;
    let bearer = format!("Bearer {}", scene.key);
    for credential in [("x-api-key", scene.key.as_str()), ("Authorization", &bearer)] {
        let answer = scene.server.send("POST", "/api/workspaces", &[credential], br#"{ "name": "Proxied" }"#)?;
        assert_eq!((answer.status, &answer.json()?["workspace"]["name"]), (201, &json!("Proxied")));
    }
    Ok(())
}

#[test]
fn the_command_line_client_gets_2xx() -> Result<()> {
    let scene = Scene::new()?;
    let answer = scene.create(json!({"name": "CLI", "organization_id": scene.label}).to_string())?;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    Ok(())
}
