//! Accounts of the subjects of identity providers.

use async_trait::async_trait;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{Postgres, column, only, session::Statement};
use crate::{
    auth::{
        LookUpError,
        subject::{Subject, Subjects},
    },
    storage::DatabaseError,
};

/// A link to an account that was deleted counts for nothing.
pub(super) const FIND: Statement = Statement {
    sql: "SELECT coalesce(
            (SELECT id FROM workspaces.token_subjects JOIN public.accounts ON id = account_id
             WHERE issuer = $1 AND subject = $2),
            (SELECT id FROM public.accounts WHERE id = $3)) AS account",
    types: &[Type::TEXT, Type::TEXT, Type::UUID],
};

/// Deletes a link to an account that was deleted. A statement before [`CREATE`], which can't tell such a link from one
/// that another transaction has just committed.
pub(super) const FORGET: Statement = Statement {
    sql: "DELETE FROM workspaces.token_subjects WHERE issuer = $1 AND subject = $2
            AND NOT EXISTS (SELECT FROM public.accounts WHERE id = account_id)",
    types: &[Type::TEXT, Type::TEXT],
};

/// Waits for a transaction that links the same subject now, and returns its account. The account is written only where
/// this statement made the link; run again with the same id, it writes nothing new.
pub(super) const CREATE: Statement = Statement {
    sql: "WITH linked AS (
            INSERT INTO workspaces.token_subjects AS known (issuer, subject, account_id) VALUES ($1, $2, $3)
            ON CONFLICT (issuer, subject) DO UPDATE SET issuer = known.issuer
            RETURNING account_id
        ), account AS (
            INSERT INTO public.accounts (id) SELECT account_id FROM linked
            WHERE account_id = $3 AND NOT EXISTS (SELECT FROM public.accounts WHERE id = $3)
            RETURNING id
        ), info AS (
            INSERT INTO public.account_info (account_id) SELECT id FROM account
        )
        SELECT account_id FROM linked",
    types: &[Type::TEXT, Type::TEXT, Type::UUID],
};

#[async_trait]
impl Subjects for Postgres {
    async fn find_subject(&self, subject: &Subject, account: Option<Uuid>) -> Result<Option<Uuid>, LookUpError> {
        let Subject { issuer, name } = subject;
        Ok(self.read(&FIND, &[issuer, name, &account], |rows| column(only(rows)?, "account")).await?)
    }

    async fn account_of_subject(&self, subject: &Subject) -> Result<Uuid, LookUpError> {
        let Subject { issuer, name } = subject;
        self.rows(&FORGET, &[issuer, name]).await?;
        let of = |rows: &[Row]| column(only(rows)?, "account_id");
        Ok(self.read(&CREATE, &[issuer, name, &Uuid::now_v7()], of).await?)
    }
}

impl Postgres {
    /// Links a subject to an account that exists; no change where it is linked to that one.
    pub(super) async fn link(&self, account: Uuid, subject: &Subject) -> Result<(), DatabaseError> {
        const LINK: Statement = Statement {
            sql: "INSERT INTO workspaces.token_subjects AS known (issuer, subject, account_id) VALUES ($1, $2, $3)
                ON CONFLICT (issuer, subject) DO UPDATE SET issuer = known.issuer RETURNING account_id",
            types: &[Type::TEXT, Type::TEXT, Type::UUID],
        };
        let Subject { issuer, name } = subject;
        self.connections.query(&FORGET, &[issuer, name]).await?;
        let rows = self.connections.query(&LINK, &[issuer, name, &account]).await?;
        match rows.first().map(|row| column::<Uuid>(row, "account_id")).transpose()? {
            Some(linked) if linked != account => {
                Err(DatabaseError::Exists(format!("a link of this subject to the account {linked}")))
            }
            _ => Ok(()),
        }
    }

    /// Removes the link of a subject, to `account` where one is given.
    pub(super) async fn unlink(&self, account: Option<Uuid>, subject: &Subject) -> Result<(), DatabaseError> {
        const UNLINK: Statement = Statement {
            sql: "DELETE FROM workspaces.token_subjects
                WHERE issuer = $1 AND subject = $2 AND ($3 IS NULL OR account_id = $3) RETURNING account_id",
            types: &[Type::TEXT, Type::TEXT, Type::UUID],
        };
        match self.connections.query(&UNLINK, &[&subject.issuer, &subject.name, &account]).await?.is_empty() {
            true => Err(DatabaseError::NotFound("such link".into())),
            false => Ok(()),
        }
    }
}
