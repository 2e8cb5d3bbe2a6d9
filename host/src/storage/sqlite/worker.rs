//! The thread that owns a connection, and the group commit.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use rusqlite::Transaction;
use tokio::sync::{mpsc, oneshot};

use super::{
    Created, DatabaseError, Error, Session,
    create::{self, Creation},
};

/// How many calls may wait for the thread; further ones wait for a place before they are queued.
const QUEUE: usize = 1024;

/// A thread that owns a connection and runs calls on it in the order they come. It ends, and closes
/// the connection, when the last clone is gone.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
}

enum Job {
    /// A workspace to create, in a transaction it may share.
    Create(Waiting),
    /// Anything else, by itself.
    Call(Box<dyn FnOnce(&mut Session) + Send>),
}

/// A workspace to create, and who waits for it.
struct Waiting {
    creation: Creation,
    answer: oneshot::Sender<Result<Created, Error>>,
}

impl Worker {
    /// Starts the thread, which takes up to `batch` creates into one transaction.
    pub(super) fn start(name: &str, mut session: Session, batch: usize) -> Result<Self, DatabaseError> {
        let (jobs, mut queue) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                while let Some(first) = queue.blocking_recv() {
                    let mut next = Some(first);
                    let (mut creates, mut calls) = (Vec::new(), Vec::new());
                    while let Some(job) = next {
                        match job {
                            Job::Create(waiting) => creates.push(waiting),
                            Job::Call(call) => calls.push(call),
                        }
                        // No artificial delay: what comes while the disk syncs is the next batch. Calls,
                        // which strangers can have made, take no batch apart, and come after it.
                        next = (creates.len().max(calls.len()) < batch).then(|| queue.try_recv().ok()).flatten();
                    }
                    // A panic is that work's own: its transaction is rolled back, and its callers,
                    // whose channels it drops, are told that the outcome is not known.
                    let _ = catch_unwind(AssertUnwindSafe(|| create_all(&mut session, creates)));
                    for call in calls {
                        let _ = catch_unwind(AssertUnwindSafe(|| call(&mut session)));
                    }
                    session.tidy();
                }
            })
            .map_err(|error| DatabaseError::Unusable(format!("no thread for the database: {error}")))?;
        Ok(Self { jobs })
    }

    /// Creates a workspace.
    pub(super) async fn create(&self, creation: Creation) -> Result<Created, Error> {
        let (answer, result) = oneshot::channel();
        self.queue(Job::Create(Waiting { creation, answer }), result).await
    }

    /// Runs a call on the connection.
    pub(super) async fn run<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        call: impl FnOnce(&mut Session) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (answer, result) = oneshot::channel();
        let call = Box::new(move |session: &mut Session| {
            if !answer.is_closed() {
                // Nobody may wait by the end: the call was made all the same, as the contract says.
                let _ = answer.send(call(session));
            }
        });
        self.queue(Job::Call(call), result).await
    }

    async fn queue<T, E: From<Error>>(&self, job: Job, result: oneshot::Receiver<Result<T, E>>) -> Result<T, E> {
        self.jobs.send(job).await.map_err(|_| Error::Unavailable("the database thread has ended".into()))?;
        result.await.unwrap_or_else(|_| {
            Err(Error::Unknown("the call on the database thread did not come to its end".into()).into())
        })
    }
}

/// Creates workspaces in one transaction, and answers when it is committed: each by its own outcome
/// where that concerns it alone, all by the one error where that concerns the transaction.
fn create_all(session: &mut Session, mut creates: Vec<Waiting>) {
    // Nobody waits for these any more, and nothing was done.
    creates.retain(|waiting| !waiting.answer.is_closed());
    if creates.is_empty() {
        return;
    }
    let outcomes = session.write(|transaction| {
        creates.iter().map(|waiting| create_one(transaction, &waiting.creation)).collect::<Result<Vec<_>, Error>>()
    });
    match outcomes {
        Ok(outcomes) => {
            for (waiting, outcome) in creates.into_iter().zip(outcomes) {
                let _ = waiting.answer.send(outcome);
            }
        }
        Err(error) => {
            for waiting in creates {
                let _ = waiting.answer.send(Err(error.clone()));
            }
        }
    }
}

/// Creates one workspace within a savepoint; the outer error is the whole transaction's.
fn create_one(transaction: &Transaction<'_>, creation: &Creation) -> Result<Result<Created, Error>, Error> {
    // Prepared once: rusqlite's own savepoints are parsed each time.
    let run = |statement| transaction.prepare_cached(statement)?.execute([]);
    run("SAVEPOINT creation")?;
    let outcome = match create::create(transaction, creation) {
        Err(error @ (Error::AccessLost | Error::CredentialLost | Error::KeyReused)) => {
            run("ROLLBACK TO creation")?;
            Err(error)
        }
        created => Ok(created?),
    };
    run("RELEASE creation")?;
    Ok(outcome)
}
