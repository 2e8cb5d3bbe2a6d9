//! Accounts of the subjects of tokens.

use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};
use jsonwebtoken::EncodingKey;
use serde_json::json;
use workspaces_tests::{
    Answer, Deployment,
    postgres::{self, Postgres},
};

use super::{ISSUER, PROGRAM, Pair, claims, create, logged, serve, serve_and_log};

/// Subjects of every form, on one backend.
fn subjects_get_accounts(deployment: &Deployment) -> Result<()> {
    let [ada, grace] = [deployment.run(&["account", "create"])?, deployment.run(&["account", "create"])?];
    let pair = Pair::new(deployment.folder(), "own", "P-256")?;
    let keys = pair.public.to_str().context("path")?.to_owned();
    let (server, log) = serve_and_log(deployment, &keys, &[])?;
    let subject = "auth0|507f1f77bcf86cd799439011";
    let token = |subject: &str| pair.sign(&claims(subject));
    let link = |command: &str, account: &str, issuer: &str| {
        deployment.output(&["account", command, account, "--issuer", issuer, "--subject", subject])
    };

    // Neither a name without an account nor the id of none is an error that any token holder can write.
    for unknown in [subject, "did:privy:clabc", "12345", &uuid::Uuid::new_v4().to_string()] {
        let answer = create(&server, &token(unknown)?)?;
        let message = answer.json()?["message"].as_str().map(str::to_owned).context("no message")?;
        assert!(answer.status == 403 && message.contains("no account is linked"), "{unknown}: {answer:?}");
        let lines = logged(&log, &[unknown, "reason="])?;
        assert!(!lines.contains("ERROR"), "{lines}");
    }

    ensure!(link("link", &ada, "https://other.example")?.status.success(), "link");
    assert_eq!(create(&server, &token(subject)?)?.status, 403, "linked for another issuer");
    for _ in 0..2 {
        ensure!(link("link", &ada, ISSUER)?.status.success(), "link");
        let answer = create(&server, &token(subject)?)?;
        assert_eq!((answer.status, &answer.json()?["workspace"]["account_id"]), (201, &json!(ada)));
    }
    assert_eq!(create(&server, &token(&ada)?)?.status, 201, "an account's own id goes on as a subject");
    for (command, account, part) in [
        ("link", grace.as_str(), "exists already"),
        ("link", &uuid::Uuid::new_v4().to_string(), "there is no account"),
        ("unlink", &grace, "there is no such link"),
    ] {
        let output = link(command, account, ISSUER)?;
        let message = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(1) && message.contains(part), "{command} {account}: {message}");
    }
    ensure!(link("unlink", &ada, ISSUER)?.status.success(), "unlink");
    assert_eq!(create(&server, &token(subject)?)?.status, 403, "not linked any more");
    ensure!(link("link", &grace, ISSUER)?.status.success(), "link");
    assert_eq!(create(&server, &token(subject)?)?.json()?["workspace"]["account_id"], json!(grace));
    drop(server);

    // The first requests of a new subject, all at once.
    let server = serve(deployment, &keys, &["--jwt-create-accounts"])?;
    let token = token("new|1")?;
    let answers: Vec<Result<Answer>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..64).map(|_| scope.spawn(|| create(&server, &token))).collect();
        clients.into_iter().filter_map(|client| client.join().ok()).collect()
    });
    let mut accounts = std::collections::HashSet::new();
    let mut created = 0;
    for answer in answers {
        let answer = answer?;
        // A full host refuses some; none of them may have made an account of its own.
        ensure!(matches!(answer.status, 201 | 429 | 503), "{answer:?}");
        if answer.status == 201 {
            created += 1;
            accounts.insert(answer.json()?["workspace"]["account_id"].to_string());
        }
    }
    assert!(created > 0 && accounts.len() == 1, "{created} created, for {accounts:?}");
    let again = create(&server, &token)?;
    assert!(accounts.contains(&again.json()?["workspace"]["account_id"].to_string()), "{again:?}");
    Ok(())
}

#[test]
fn a_subject_gets_the_account_that_is_linked_to_it_on_sqlite() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    subjects_get_accounts(&deployment)?;
    let database = rusqlite::Connection::open(deployment.database())?;
    let count = |sql| database.query_row(sql, [], |row| row.get::<_, i64>(0));
    let people = "SELECT count(*) FROM accounts WHERE id NOT IN (SELECT workspace_id FROM account_workspace_ids)";
    assert_eq!(count(people)?, 3, "two that were made by hand and one for a subject");
    assert_eq!(count("SELECT count(*) FROM token_subjects WHERE subject = 'new|1'")?, 1);
    Ok(())
}

#[test]
fn a_subject_gets_the_account_that_is_linked_to_it_on_postgres() -> Result<()> {
    if !postgres::available()? {
        return Ok(());
    }
    let server = Postgres::start()?;
    let deployment = Deployment::on_postgres(PROGRAM, &server.url())?;
    subjects_get_accounts(&deployment)?;
    let people = "SELECT count(*) FROM accounts WHERE id NOT IN (SELECT workspace_id FROM account_workspace_ids)";
    assert_eq!(server.psql(people)?.trim(), "3", "two that were made by hand and one for a subject");
    assert_eq!(server.psql("SELECT count(*) FROM account_info WHERE account_id IS NULL")?.trim(), "0");
    // A link to an account that is gone counts for nothing.
    let pair = Pair {
        private: EncodingKey::from_ec_pem(&fs::read(deployment.folder().join("own.key"))?)?,
        public: deployment.folder().join("own.pem"),
    };
    server.psql(
        "DELETE FROM accounts WHERE id = (SELECT account_id FROM workspaces.token_subjects WHERE subject = 'new|1')",
    )?;
    let keys = pair.public.to_str().context("path")?.to_owned();
    let token = pair.sign(&claims("new|1"))?;
    assert_eq!(create(&serve(&deployment, &keys, &[])?, &token)?.status, 403);
    assert_eq!(create(&serve(&deployment, &keys, &["--jwt-create-accounts"])?, &token)?.status, 201);
    Ok(())
}
