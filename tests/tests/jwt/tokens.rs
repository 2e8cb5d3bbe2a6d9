//! Tokens: which are taken, and what the log says of the others.

use std::{fs, sync::atomic::Ordering::Relaxed};

use anyhow::{Context as _, Result};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use workspaces_tests::Deployment;

use super::{
    AUDIENCE, ISSUER, PROGRAM, Pair, claims, logged, now,
    provider::{Provider, keys},
    serve, serve_and_log, status, with,
};

#[test]
fn only_a_token_that_says_all_and_is_signed_by_the_key_is_taken() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let pair = Pair::new(deployment.folder(), "own", "P-256")?;
    let server = serve(&deployment, pair.public.to_str().context("path")?, &[])?;

    for (name, claims) in [
        ("all that is asked", claims(&account)),
        ("one audience of several", with(&account, "aud", json!(["other", AUDIENCE]))),
        ("expired within the leeway", with(&account, "exp", json!(now() - 15))),
        ("not yet valid within the leeway", with(&account, "nbf", json!(now() + 15))),
        ("without a start, as most providers", with(&account, "nbf", Value::Null)),
        ("issued at a time", with(&account, "iat", json!(now() - 5))),
    ] {
        assert_eq!(status(&server, &pair.sign(&claims)?)?, 201, "{name}");
    }
    assert_eq!(deployment.run(&["workspace", "list", "--account", &account])?.lines().count(), 6);

    for (name, claims) in [
        ("another issuer", with(&account, "iss", json!("https://identity.example/"))),
        ("a list of issuers", with(&account, "iss", json!([ISSUER]))),
        ("another audience", with(&account, "aud", json!("other"))),
        ("expired", with(&account, "exp", json!(now() - 40))),
        ("an expiry that is no number", with(&account, "exp", json!("4102444800"))),
        ("not yet valid", with(&account, "nbf", json!(now() + 40))),
        ("a start that is no number", with(&account, "nbf", json!("0"))),
        ("issued in the future", with(&account, "iat", json!(now() + 40))),
        ("an issue time that is no number", with(&account, "iat", json!("0"))),
        ("no issuer", with(&account, "iss", Value::Null)),
        ("no audience", with(&account, "aud", Value::Null)),
        ("no expiry", with(&account, "exp", Value::Null)),
        ("no subject", with(&account, "sub", Value::Null)),
    ] {
        assert_eq!(status(&server, &pair.sign(&claims)?)?, 401, "{name}");
    }

    for (name, claims) in [
        ("a subject without an account", with(&account, "sub", json!("ada"))),
        ("another form of the account", with(&account, "sub", json!(account.to_uppercase()))),
    ] {
        assert_eq!(status(&server, &pair.sign(&claims)?)?, 403, "{name}");
    }

    let claims = claims(&account);
    let good = pair.sign(&claims)?;
    let public = EncodingKey::from_secret(&fs::read(&pair.public)?);
    let mut critical = Header::new(Algorithm::ES256);
    critical.crit = Some(vec!["b64".into()]);
    let (signed, signature) = good.rsplit_once('.').context("no signature")?;
    let (_, payload) = signed.split_once('.').context("no payload")?;
    // {"alg":"none"}
    let unsigned = format!("eyJhbGciOiJub25lIn0.{payload}.");
    let other = Pair::new(deployment.folder(), "other", "P-256")?;
    for (name, token) in [
        ("signed by another key", other.sign(&claims)?),
        ("signed with the public key as a secret", encode(&Header::new(Algorithm::HS256), &claims, &public)?),
        ("with an extension", encode(&critical, &claims, &pair.private)?),
        ("unsigned", unsigned),
        ("without its signature", format!("{signed}.")),
        (
            "with the signature of another",
            format!(
                "{}.{signature}",
                other.sign(&claims)?.rsplit_once('.').context("no signature")?.0.replace("eyJ0", "eyJ1")
            ),
        ),
        ("no token", "a.b.c".into()),
        ("too long", format!("{good}{}", "A".repeat(17_000))),
    ] {
        assert_eq!(status(&server, &token)?, 401, "{name}");
    }
    assert_eq!(
        deployment.run(&["workspace", "list", "--account", &account])?.lines().count(),
        6,
        "a refused one wrote"
    );
    Ok(())
}

#[test]
fn a_token_reaches_what_its_account_reaches() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let [ada, grace] = [deployment.run(&["account", "create"])?, deployment.run(&["account", "create"])?];
    let organization = deployment.run(&["organization", "create"])?;
    deployment.run(&["organization", "add-member", &organization, &ada])?;
    let pair = Pair::new(deployment.folder(), "own", "P-384")?;
    let server = serve(&deployment, pair.public.to_str().context("path")?, &["--jwt-account-claim", "account"])?;
    let create = |account: &str, body: &Value| -> Result<u16> {
        let claims = with("ada@example", "account", json!(account));
        let bearer = format!("Bearer {}", encode(&Header::new(Algorithm::ES384), &claims, &pair.private)?);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        Ok(server.send("POST", "/api/workspaces", &headers, body.to_string().as_bytes())?.status)
    };
    assert_eq!(create(&ada, &json!({"organization_id": organization}))?, 201);
    assert_eq!(create(&grace, &json!({"organization_id": organization}))?, 403);
    assert_eq!(create(&ada, &json!({"account_id": grace}))?, 403);
    let stranger = uuid::Uuid::new_v4().to_string();
    assert_eq!(create(&stranger, &json!({}))?, 403, "an account that is not there");
    Ok(())
}

#[test]
fn headers_of_tokens_choose_nothing_and_what_they_ask_for_is_refused() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let [pair, thief] = ["own", "thief"].map(|name| Pair::new(deployment.folder(), name, "P-256"));
    let (pair, thief) = (pair?, thief?);
    let provider = Provider::start(keys(&[thief.jwk("thief")?]))?;
    let server = serve(&deployment, pair.public.to_str().context("path")?, &[])?;
    let claims = claims(&account);
    let (jwk, address) = (thief.jwk("thief")?, &provider.address);
    let embedded = json!({"alg": "ES256", "kid": "thief", "jwk": jwk, "jku": address, "x5u": address, "x5c": ["AA"]});
    assert_eq!(status(&server, &pair.sign_raw(&embedded.to_string(), &claims)?)?, 201, "ignored");
    assert_eq!(status(&server, &thief.sign_raw(&embedded.to_string(), &claims)?)?, 401, "its own key");
    assert_eq!(provider.fetches.load(Relaxed), 0, "a token had keys fetched");
    for (header, expected) in [
        (r#"{"alg":"ES256"}"#, 201),
        (r#"{"alg":"ES256","typ":"jwt"}"#, 201),
        (r#"{"alg":"ES256","typ":"application/at+jwt"}"#, 201),
        (r#"{"alg":"ES256","crit":null}"#, 401),
        (r#"{"alg":"ES256","crit":[]}"#, 401),
        (r#"{"alg":"ES256","b64":false}"#, 401),
        (r#"{"alg":"ES256","typ":"dpop+jwt"}"#, 401),
        (r#"{"alg":"ES256","typ":null}"#, 401),
    ] {
        assert_eq!(status(&server, &pair.sign_raw(header, &claims)?)?, expected, "{header}");
    }
    Ok(())
}

#[test]
fn a_token_with_more_than_two_hundred_groups_is_taken() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let pair = Pair::new(deployment.folder(), "own", "P-256")?;
    let server = serve(&deployment, pair.public.to_str().context("path")?, &[])?;
    let groups = |count| with(&account, "groups", json!(vec![account.clone(); count]));
    let token = pair.sign(&groups(210))?;
    assert!(token.len() > 10_734, "{}", token.len());
    assert_eq!(status(&server, &token)?, 201);
    assert_eq!(status(&server, &pair.sign(&groups(400))?)?, 401);
    Ok(())
}

#[test]
fn the_log_says_why_each_token_was_refused_and_holds_no_credential() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let pair = Pair::new(deployment.folder(), "own", "P-256")?;
    let (server, log) = serve_and_log(&deployment, pair.public.to_str().context("path")?, &[])?;
    let other = Pair::new(deployment.folder(), "other", "P-256")?;
    let mut sent = Vec::new();
    for (token, reason) in [
        ("not.a.token".to_owned(), "token header is no JSON object"),
        (pair.sign(&with(&account, "exp", json!(now() - 60)))?, "token expired"),
        (pair.sign(&with(&account, "aud", json!("other")))?, "token aud does not hold the configured audience"),
        (pair.sign(&with(&account, "iss", json!("other")))?, "token iss is not the configured issuer"),
        (other.sign(&claims(&account))?, "token signature not verified"),
        (format!("recoup_sk_{}", "A".repeat(43)), "API key unknown or revoked"),
    ] {
        assert_eq!(status(&server, &token)?, 401);
        let lines = logged(&log, &[reason])?;
        let line = lines.lines().find(|line| line.contains(reason)).context("no line")?;
        assert!(line.contains(" INFO ") && line.contains(" 401 "), "{reason}: {line}");
        sent.push(token);
    }
    let lines = fs::read_to_string(&log)?;
    for token in sent {
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!lines.contains(part), "{part}");
        }
    }
    Ok(())
}
