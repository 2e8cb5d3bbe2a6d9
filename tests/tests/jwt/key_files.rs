//! Keys in files, and the options beside them.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use workspaces_tests::Deployment;

use super::{AUDIENCE, ISSUER, PROGRAM, Pair, claims, logged, serve, serve_and_log, status};

#[test]
fn a_reload_reads_the_key_file_again() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let (old, new) = (Pair::new(deployment.folder(), "old", "P-256")?, Pair::new(deployment.folder(), "new", "P-256")?);
    let file = deployment.folder().join("keys.pem");
    fs::copy(&old.public, &file)?;
    let server = serve(&deployment, file.to_str().context("path")?, &["--admin", "127.0.0.1:0"])?;
    let statuses = || -> Result<[u16; 2]> {
        Ok([status(&server, &old.sign(&claims(&account))?)?, status(&server, &new.sign(&claims(&account))?)?])
    };
    assert_eq!(statuses()?, [201, 401]);
    fs::copy(&new.public, &file)?;
    deployment.run(&["reload", "--admin", &server.admin()?.to_string()])?;
    assert_eq!(statuses()?, [401, 201]);
    Ok(())
}

#[test]
fn options_that_would_take_anybody_are_refused() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    fs::write(deployment.folder().join("empty.json"), r#"{"keys": []}"#)?;
    let empty = deployment.folder().join("empty.json");
    let empty = empty.to_str().context("path")?;
    for (arguments, code, part) in [
        (&["--jwt-keys", empty][..], 2, "--jwt-issuer"),
        (&["--jwt-keys", empty, "--jwt-issuer", ISSUER], 2, "--jwt-audience"),
        (&["--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE], 2, "--jwt-keys"),
        (&["--jwt-keys", "http://keys.example/", "--jwt-issuer", "i", "--jwt-audience", "a"], 2, "https"),
        (&["--jwt-keys", empty, "--jwt-issuer", "i", "--jwt-audience", "a"], 1, "holds no public key"),
        (
            &["--jwt-keys", empty, "--jwt-issuer", "i", "--jwt-audience", "a", "--jwt-keys-max-age", "0s"],
            2,
            "give 1s at least",
        ),
        (&["--jwt-keys", "missing.pem", "--jwt-issuer", "i", "--jwt-audience", "a"], 1, "missing.pem"),
    ] {
        let output = deployment.output(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat())?;
        let message = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(code) && message.contains(part), "{arguments:?}: {message}");
    }
    Ok(())
}

#[test]
fn each_key_that_fits_is_tried_and_one_that_is_odd_spoils_no_other() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let [first, second, third] = ["first", "second", "third"].map(|name| Pair::new(deployment.folder(), name, "P-256"));
    let (first, second, third) = (first?, second?, third?);
    let changed = |pair: &Pair, member: &str, value: Value| -> Result<Value> {
        let mut jwk = pair.jwk("shared")?;
        jwk[member] = value;
        Ok(jwk)
    };
    let set = json!({"keys": [
        changed(&third, "kid", json!(7))?,
        changed(&third, "use", json!("enc"))?,
        changed(&third, "key_ops", json!(["sign"]))?,
        {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"},
        null,
        first.jwk("shared")?,
        changed(&second, "key_ops", json!(["verify"]))?,
    ]});
    let file = deployment.folder().join("keys.json");
    let path = file.to_str().context("path")?;
    fs::write(&file, format!("\u{feff}{set}"))?;
    let (server, log) = serve_and_log(&deployment, path, &[])?;
    let claims = claims(&account);
    for (name, token, expected) in [
        ("the first of a kid", first.sign_as("shared", &claims)?, 201),
        ("the second of a kid", second.sign_as("shared", &claims)?, 201),
        ("no kid", second.sign(&claims)?, 201),
        ("another kid", second.sign_as("other", &claims)?, 401),
        ("a key that was skipped", third.sign_as("shared", &claims)?, 401),
    ] {
        assert_eq!(status(&server, &token)?, expected, "{name}");
    }
    let lines = logged(&log, &["key 5: "])?;
    for part in ["key 1: ", "key 2: its use is not sig", "key 3: its key_ops have no verify", "key 4: ", "key 5: "] {
        assert_eq!(lines.matches(part).count(), 1, "{part}: {lines}");
    }
    drop(server);

    fs::write(&file, first.jwk("bare")?.to_string())?;
    assert_eq!(status(&serve(&deployment, path, &[])?, &first.sign_as("bare", &claims)?)?, 201, "a bare JWK");
    fs::write(&file, [fs::read(&first.public)?, fs::read(&second.public)?].concat())?;
    let server = serve(&deployment, path, &[])?;
    for pair in [&first, &second] {
        assert_eq!(status(&server, &pair.sign_as("any", &claims)?)?, 201, "each key of a PEM file");
    }
    Ok(())
}

#[test]
fn key_files_that_can_verify_nothing_are_refused_with_the_reason() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let folder = deployment.folder();
    let good = Pair::new(folder, "good", "P-256")?;
    let large = Pair::new(folder, "large", "P-521")?;
    let private = fs::read_to_string(folder.join("good.key"))?;
    let public = fs::read_to_string(&good.public)?;
    let mut jwk = good.jwk("private")?;
    jwk["d"] = json!("870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE");
    for (name, text, part) in [
        ("private.pem", private.clone(), "a private key"),
        ("both.pem", format!("{public}{private}"), "key 2: a private key"),
        ("large.pem", fs::read_to_string(&large.public)?, "P-521 is not"),
        ("half.pem", public[..public.len() / 2].to_owned(), "ends early"),
        ("request.pem", public.replace("PUBLIC KEY", "CERTIFICATE REQUEST"), "neither a public key"),
        ("private.json", jwk.to_string(), "a private key"),
        ("secret.json", json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}).to_string(), "a shared secret"),
        ("page.html", "<html>".into(), "neither JSON nor PEM"),
    ] {
        fs::write(folder.join(name), text)?;
        let path = folder.join(name);
        let path = path.to_str().context("path")?;
        let tokens = ["--jwt-keys", path, "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE];
        let output = deployment.output(&[&["serve", "--listen", "127.0.0.1:0"], &tokens[..]].concat())?;
        let message = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(1) && message.contains(part), "{name}: {message}");
        assert!(!message.contains("870MB6") && !message.contains("c2VjcmV0"), "{name}: {message}");
    }
    Ok(())
}
