//! Accounts of the subjects of identity providers.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::{DatabaseError, Error, Sqlite, create::insert_account};
use crate::{
    auth::{
        LookUpError,
        subject::{Subject, Subjects},
    },
    now,
};

#[async_trait]
impl Subjects for Sqlite {
    async fn find_subject(&self, subject: &Subject, account: Option<Uuid>) -> Result<Option<Uuid>, LookUpError> {
        let subject = subject.clone();
        let found: Result<_, Error> = self
            .reader()
            .await?
            .run(move |session| match linked(&session.connection, &subject)? {
                None => {
                    let mut known = session.connection.prepare_cached("SELECT id FROM accounts WHERE id = ?1")?;
                    Ok(known.query_row([account], |row| row.get(0)).optional()?)
                }
                linked => Ok(linked),
            })
            .await;
        Ok(found?)
    }

    async fn account_of_subject(&self, subject: &Subject) -> Result<Uuid, LookUpError> {
        let subject = subject.clone();
        let found = self
            .writer
            .run(move |session| {
                session.write(|transaction| {
                    if let Some(account) = linked(transaction, &subject)? {
                        return Ok(account);
                    }
                    let account = Uuid::now_v7();
                    insert_account(transaction, account, None, now())?;
                    insert_link(transaction, account, &subject)?;
                    Ok::<_, Error>(account)
                })
            })
            .await;
        Ok(found?)
    }
}

/// Links a subject to an account that exists; no change where it is linked to that one.
pub(super) fn link(connection: &Connection, account: Uuid, subject: &Subject) -> Result<(), DatabaseError> {
    match linked(connection, subject)? {
        None => Ok(insert_link(connection, account, subject)?),
        Some(linked) if linked == account => Ok(()),
        Some(linked) => Err(DatabaseError::Exists(format!("a link of this subject to the account {linked}"))),
    }
}

/// Removes the link of a subject, to `account` where one is given.
pub(super) fn unlink(connection: &Connection, account: Option<Uuid>, subject: &Subject) -> Result<(), DatabaseError> {
    let removed = connection.execute(
        "DELETE FROM token_subjects WHERE issuer = ?1 AND subject = ?2 AND (?3 IS NULL OR account_id = ?3)",
        params![subject.issuer, subject.name, account],
    )?;
    match removed {
        0 => Err(DatabaseError::NotFound("such link".into())),
        _ => Ok(()),
    }
}

fn linked(connection: &Connection, subject: &Subject) -> Result<Option<Uuid>, rusqlite::Error> {
    let sql = "SELECT account_id FROM token_subjects WHERE issuer = ?1 AND subject = ?2";
    connection.prepare_cached(sql)?.query_row([&subject.issuer, &subject.name], |row| row.get(0)).optional()
}

fn insert_link(connection: &Connection, account: Uuid, subject: &Subject) -> Result<(), rusqlite::Error> {
    let sql = "INSERT INTO token_subjects (issuer, subject, account_id, created_at) VALUES (?1, ?2, ?3, ?4)";
    connection.prepare_cached(sql)?.execute(params![subject.issuer, subject.name, account, now()])?;
    Ok(())
}
