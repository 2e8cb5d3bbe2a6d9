//! Access: credentials, accounts, organizations.

use std::{collections::HashSet, thread, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use uuid::Uuid;
use workspaces_tests::{Answer, write_head};

use crate::{Scene, UNKNOWN};

#[test]
fn credentials_that_are_not_exactly_one_valid_key_are_401_before_the_body_is_read() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.rows()?;
    let key = scene.key.as_str();
    let bearer = format!("Bearer {key}");
    let unknown = format!("recoup_sk_{}", "A".repeat(43));

    let revoked = scene.deployment.run(&["key", "create", "--json", &scene.ada])?;
    let revoked: Value = serde_json::from_str(&revoked)?;
    let revoked_key = revoked["key"].as_str().context("no key")?;
    assert_eq!(scene.server.create(revoked_key, "{}")?.status, 201, "before it is revoked");
    scene.deployment.run(&["key", "revoke", revoked["id"].as_str().context("no id")?])?;
    scene.assert_refused(&scene.server.create(revoked_key, "{}")?, 401, "credential")?;

    let expired = scene.deployment.run(&["key", "create", "--json", "--expires-in", "1h", &scene.ada])?;
    let expired: Value = serde_json::from_str(&expired)?;
    let (expired_key, expired_id) =
        (expired["key"].as_str().context("no key")?, expired["id"].as_str().context("no id")?);
    assert_eq!(scene.server.create(expired_key, "{}")?.status, 201, "before it expires");
    let expired_id: Uuid = expired_id.parse()?;
    let changed =
        scene.sql()?.execute("UPDATE account_api_keys SET expires_at = created_at WHERE id = ?1", [expired_id])?;
    assert_eq!(changed, 1);

    scene.assert_refused(&scene.server.create(expired_key, "{}")?, 401, "credential")?;
    // Another process made these changes: for a second at most the server knows the keys as they were.
    thread::sleep(Duration::from_secs(1));

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
        let mut stream = scene.server.connect()?;
        let mut sent = headers.to_vec();
        sent.push(("Content-Type", "application/json"));
        write_head(&mut stream, "POST", "/api/workspaces", &sent, Some(100))?;
        let answer = Answer::read(stream)?;
        scene.assert_refused(&answer, 401, "credential").with_context(|| format!("{headers:?}"))?;
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(scene.rows()?, before);
    Ok(())
}

#[test]
fn accounts_within_reach_are_allowed() -> Result<()> {
    let scene = Scene::new()?;
    let allowed = [
        (&scene.key, &scene.ada),
        (&scene.key, &scene.grace),
        (&scene.root_key, &scene.root),
        (&scene.root_key, &scene.ada),
        (&scene.root_key, &scene.mallory),
    ];
    for (key, account) in allowed {
        let answer = scene.server.create(key, json!({"account_id": account}).to_string())?;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.json()?["workspace"]["account_id"], **account, "the account it was created for");
    }
    Ok(())
}

#[test]
fn organizations_of_the_resulting_account_are_allowed() -> Result<()> {
    let scene = Scene::new()?;
    for (key, body) in [
        (&scene.key, json!({"organization_id": scene.label})),
        (&scene.key, json!({"organization_id": scene.ada})),
        (&scene.key, json!({"account_id": scene.grace, "organization_id": scene.label})),
        (&scene.root_key, json!({"account_id": scene.mallory, "organization_id": scene.rival})),
        (&scene.root_key, json!({"account_id": scene.label, "organization_id": scene.label})),
    ] {
        assert_eq!(scene.server.create(key, body.to_string())?.status, 201, "{body}");
    }
    Ok(())
}

#[test]
fn what_is_out_of_reach_or_does_not_exist_is_403_with_the_same_bytes() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.rows()?;
    let refused = |key: &str, body: Value, part: &str| -> Result<Vec<u8>> {
        let answer = scene.server.create(key, body.to_string())?;
        scene.assert_refused(&answer, 403, part).with_context(|| body.to_string())?;
        Ok(answer.body)
    };
    let accounts: HashSet<_> = [
        refused(&scene.key, json!({"account_id": scene.mallory}), "account_id")?,
        refused(&scene.key, json!({"account_id": scene.root}), "account_id")?,
        refused(&scene.key, json!({"account_id": scene.label}), "account_id")?,
        refused(&scene.key, json!({"account_id": UNKNOWN}), "account_id")?,
        refused(&scene.root_key, json!({"account_id": UNKNOWN}), "account_id")?,
    ]
    .into();
    assert_eq!(accounts.len(), 1);
    let organizations: HashSet<_> = [
        refused(&scene.key, json!({"organization_id": scene.rival}), "organization_id")?,
        refused(&scene.key, json!({"organization_id": UNKNOWN}), "organization_id")?,
        // The administrator reaches the account; the account does not reach the organization.
        refused(
            &scene.root_key,
            json!({"account_id": scene.mallory, "organization_id": scene.label}),
            "organization_id",
        )?,
        refused(&scene.root_key, json!({"organization_id": scene.label}), "organization_id")?,
    ]
    .into();
    assert_eq!(organizations.len(), 1);
    assert_eq!(scene.rows()?, before);
    Ok(())
}

#[test]
fn without_an_administrators_organization_nobody_is_one() -> Result<()> {
    let scene = Scene::new()?;
    let plain = scene.deployment.serve(&[])?;
    let body = json!({"account_id": scene.ada}).to_string();
    scene.assert_refused(&plain.create(&scene.root_key, &body)?, 403, "account_id")?;
    assert_eq!(scene.server.create(&scene.root_key, &body)?.status, 201);
    Ok(())
}
