//! Creating a workspace: one statement under one id, tried again until its outcome is known.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    Postgres, column,
    failure::Failure,
    pool::Lease,
    session::{Statement, Values},
};
use crate::{
    Workspace,
    auth::{Grant, access::Question},
    storage::{Claim, Created, Error},
};

/// Maximum time for which retrying a create, through a failover for example. Below the timeout of a
/// request, so that it is answered.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Pause before another try.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

pub(super) const CREATE: Statement = Statement {
    sql: include_str!("create.sql"),
    types: &[
        Type::UUID,
        Type::TEXT,
        Type::UUID,
        Type::UUID,
        Type::UUID,
        Type::UUID,
        Type::UUID,
        Type::BOOL,
        Type::TEXT,
        Type::TEXT,
        Type::BYTEA,
    ],
};

pub(super) const CREATE_OWN: Statement = Statement {
    sql: include_str!("create_own.sql"),
    types: &[Type::UUID, Type::TEXT, Type::UUID, Type::UUID, Type::UUID, Type::UUID],
};

/// Finds a workspace, and has the answer wait for the standby as the workspace's own commit does: the message
/// is a record of the log, without a row.
pub(super) const FIND_CREATED: Statement = Statement {
    sql: "SELECT id, pg_logical_emit_message(true, 'workspaces', '')::text FROM public.accounts WHERE id = $1",
    types: &[Type::UUID],
};

/// Finds a claim, in the same way.
pub(super) const FIND_CLAIMED: Statement = Statement {
    sql: "SELECT fingerprint, workspace_id, name, account_id, pg_logical_emit_message(true, 'workspaces', '')::text
        FROM workspaces.idempotency_keys WHERE caller_id = $1 AND route = $2 AND key = $3",
    types: &[Type::UUID, Type::TEXT, Type::TEXT],
};

/// Says which of the accounts that a workspace refers to exist.
pub(super) const FIND_REFERRED: Statement = Statement {
    sql: "SELECT EXISTS (SELECT FROM public.accounts WHERE id = $1) AS account,
        $2 IS NULL OR EXISTS (SELECT FROM public.accounts WHERE id = $2) AS organization",
    types: &[Type::UUID, Type::UUID],
};

/// A workspace to create.
struct Create<'a> {
    workspace: &'a Workspace,
    grant: &'a Grant,
    claim: Option<&'a Claim>,
}

/// Outcome of one try that the server answered.
enum Answered {
    Created,
    /// An earlier request holds the claim; this try did not read its row, or may not rely on it.
    Earlier,
    /// A request at the same time holds the claim, or an earlier one for something else.
    Claimed(Result<Workspace, Error>),
    Refused(Error),
}

impl Postgres {
    /// Creates a workspace. The id is the same in each try: a try after one that was committed, and whose answer was
    /// lost, finds its own id and makes no second workspace.
    pub(super) async fn create(
        &self,
        id: Uuid,
        grant: &Grant,
        name: &str,
        claim: Option<&Claim>,
    ) -> Result<Created, Error> {
        let workspace = Workspace { id, name: name.to_owned(), account_id: grant.account_id };
        let create = Create { workspace: &workspace, grant, claim };
        let deadline = Instant::now() + TIMEOUT;
        let mut may_be_committed = false;
        loop {
            let attempt = match may_be_committed {
                true => self.is_committed(workspace.id).await,
                false => Ok(false),
            };
            let attempt = match attempt {
                Ok(true) => return Ok(Created { workspace, replayed: false }),
                Ok(false) => self.try_create(&create).await,
                Err(failure) => Err(failure),
            };
            let cause = match attempt {
                Ok(answered) => match self.conclude(answered, &create).await {
                    Err(error) if may_be_committed => return Err(Error::Unknown(error.to_string())),
                    outcome => return outcome,
                },
                // An earlier try may hold the id by now, or any key that is unique.
                Err(Failure::Refused(_, cause)) if may_be_committed => match self.is_committed(workspace.id).await {
                    Ok(true) => return Ok(Created { workspace, replayed: false }),
                    _ => return Err(Error::Unknown(cause)),
                },
                Err(Failure::Misconfigured(_, cause) | Failure::Failed(cause)) if may_be_committed => {
                    return Err(Error::Unknown(cause));
                }
                Err(Failure::Refused(code, cause)) => {
                    return Err(match code.code() {
                        "23503" if self.has_lost_accounts(grant).await => Error::AccessLost,
                        _ => Error::Refused(cause),
                    });
                }
                Err(Failure::Misconfigured(_, cause)) => return Err(Error::Misconfigured(cause)),
                Err(Failure::Failed(cause)) => return Err(Error::Unavailable(cause)),
                Err(failure @ (Failure::Lost(_) | Failure::NotReplicated)) => {
                    may_be_committed = true;
                    failure.to_string()
                }
                Err(Failure::Unreached(cause) | Failure::RolledBack(cause)) => cause,
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(match may_be_committed {
                    true => Error::Unknown(cause),
                    false => Error::Unavailable(cause),
                });
            }
            tracing::warn!(%cause, "retrying a create");
            sleep(PAUSE).await;
        }
    }

    /// Returns whether a workspace of this id was committed, on the standby too.
    async fn is_committed(&self, id: Uuid) -> Result<bool, Failure> {
        Ok(!self.connections.query(&FIND_CREATED, &[&id]).await?.is_empty())
    }

    /// Returns whether an account that the grant names is gone, as far as that can be found out now.
    async fn has_lost_accounts(&self, grant: &Grant) -> bool {
        let Ok(rows) = self.connections.query(&FIND_REFERRED, &[&grant.account_id, &grant.organization_id]).await
        else {
            return false;
        };
        let is_there = |name| rows.first().is_some_and(|row| row.try_get(name).unwrap_or(true));
        !(is_there("account") && is_there("organization"))
    }

    /// Tries once to create the workspace: in one statement, or, for a tenant with a quota, in one transaction.
    async fn try_create(&self, create: &Create<'_>) -> Result<Answered, Failure> {
        let mut lease = self.connections.lease().await?;
        let Some(tenant) = &self.tenant else { return create.send(&mut lease).await };
        lease.begin().await?;
        let outcome = match create.send(&mut lease).await {
            Ok(Answered::Created) => tenant.count(&mut lease).await.map(|over| match over {
                Some(period) => Answered::Refused(Error::QuotaReached(period)),
                None => Answered::Created,
            }),
            other => other,
        };
        match &outcome {
            // A claim's row was written too, so that this commit waits for the standby.
            Ok(Answered::Created | Answered::Claimed(_)) => lease.commit().await?,
            // What fails here ends the session, and so the transaction.
            _ => drop(lease.roll_back().await),
        }
        outcome
    }

    /// Turns the server's answer into that of the call.
    async fn conclude(&self, answered: Answered, create: &Create<'_>) -> Result<Created, Error> {
        // The own id is there where an earlier try of this call was committed and its answer lost.
        let found = |found: Workspace| Created { replayed: found.id != create.workspace.id, workspace: found };
        match (answered, create.claim) {
            (Answered::Created, _) => Ok(Created { workspace: create.workspace.clone(), replayed: false }),
            (Answered::Claimed(claimed), _) => claimed.map(found),
            (Answered::Earlier, Some(claim)) => match self.find_claim(claim).await? {
                Some(workspace) => Ok(found(workspace)),
                None => Err(Error::Unavailable("the claim was forgotten at this moment".into())),
            },
            (Answered::Refused(error), _) => Err(error),
            (Answered::Earlier, None) => Err(Error::Unavailable("a claim that was not asked for".into())),
        }
    }

    /// Finds the workspace of an earlier request with this claim.
    pub(super) async fn find_claim(&self, claim: &Claim) -> Result<Option<Workspace>, Error> {
        let values: Values<'_> = &[&claim.caller_id, &Claim::ROUTE, &claim.key.as_str()];
        let of = |rows: &[Row]| rows.first().map(|row| claimed(row, claim)).transpose();
        self.read(&FIND_CLAIMED, values, of).await?.transpose()
    }
}

impl Create<'_> {
    /// Sends the statement and reads its row.
    async fn send(&self, lease: &mut Lease) -> Result<Answered, Failure> {
        let Self { workspace: Workspace { id, name, account_id }, grant, claim } = self;
        let question = Question::behind(grant);
        // What is the caller's own rests on its account alone, to which the rows refer.
        let again = question.is_some_and(|question| !question.is_own());
        let rows = if again || claim.is_some() {
            let administrators = question.and_then(|question| question.administrators);
            let key = claim.map(|claim| claim.key.as_str());
            let fingerprint = claim.map(|claim| claim.fingerprint.as_slice());
            let values: Values<'_> = &[
                id,
                name,
                account_id,
                &grant.organization_id,
                &grant.caller_id,
                &grant.key_id,
                &administrators,
                &again,
                &Claim::ROUTE,
                &key,
                &fingerprint,
            ];
            lease.query(&CREATE, values).await?
        } else {
            let values: Values<'_> = &[id, name, account_id, &grant.organization_id, &grant.caller_id, &grant.key_id];
            lease.query(&CREATE_OWN, values).await?
        };
        match rows.first() {
            Some(row) => self.read(row),
            None => Err(Failure::Failed("the statement returned no row".into())),
        }
    }

    fn read(&self, row: &Row) -> Result<Answered, Failure> {
        if !column::<bool>(row, "durable")? {
            let reason = "synchronous_commit is off: ALTER ROLE … SET synchronous_commit = on";
            return Err(Failure::Misconfigured(None, reason.into()));
        }
        if let Some(claim) = self.claim {
            if column(row, "earlier")? {
                return Ok(Answered::Earlier);
            }
            if column::<Option<Uuid>>(row, "workspace_id")?.is_some_and(|id| id != self.workspace.id) {
                return Ok(Answered::Claimed(claimed(row, claim)?));
            }
        }
        Ok(if !column::<bool>(row, "credential")? {
            Answered::Refused(Error::CredentialLost)
        } else if !column::<bool>(row, "allowed")? {
            Answered::Refused(Error::AccessLost)
        } else if column(row, "created")? {
            Answered::Created
        } else {
            return Err(Failure::Failed("the statement created nothing".into()));
        })
    }
}

/// Returns the workspace of a claim's row, or the refusal of another request under its key.
fn claimed(row: &Row, claim: &Claim) -> Result<Result<Workspace, Error>, Failure> {
    if column::<&[u8]>(row, "fingerprint")? != claim.fingerprint {
        return Ok(Err(Error::KeyReused));
    }
    let (id, name, account_id) = (column(row, "workspace_id")?, column(row, "name")?, column(row, "account_id")?);
    Ok(Ok(Workspace { id, name, account_id }))
}
