//! The owner of a connection, and the group commit.

use std::{
    fmt,
    future::poll_fn,
    iter, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    task::{Context, Poll, Wake, Waker},
    thread::{self, JoinHandle, Thread},
    time::Instant,
};

use rusqlite::Transaction;
use tokio::sync::{mpsc, oneshot};

use super::{
    Created, DatabaseError, Error, Session,
    create::{self, Creation},
    sweep::Sweep,
};

/// Maximum number of calls that wait for the thread; further ones wait for a place before they are queued.
const QUEUE: usize = 1024;

/// Runs calls on a connection, one after the other. Clones share it.
#[derive(Debug, Clone)]
pub(super) enum Worker {
    /// Thread that owns the connection and runs calls in the order of their arrival. Dropping the last clone ends the
    /// thread and waits until the connection is closed.
    Thread(Arc<Running>),
    /// Connection that callers use on their own threads. Only for a database in memory, whose calls never wait for a disk.
    InPlace(Arc<InPlace>),
}

/// A connection that callers use themselves. One that finds it in use leaves its job to the caller who uses it, and
/// does not block its thread.
pub(super) struct InPlace {
    desk: Mutex<Desk>,
    jobs: Mutex<Vec<Job>>,
}

impl fmt::Debug for InPlace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("InPlace").field("desk", &self.desk).finish_non_exhaustive()
    }
}

impl InPlace {
    /// Leaves a job for [`run`](Self::run).
    fn push(&self, job: Job) {
        self.jobs().push(job);
    }

    /// Runs the jobs that were left, or has the caller run them who runs others.
    fn run(&self) {
        // Who leaves a job finds the desk in use, and its user looks for jobs once more after that.
        while !self.jobs().is_empty() {
            // No job panics while it is run: the desk catches it.
            let mut desk = match self.desk.try_lock() {
                Ok(desk) => desk,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let jobs = mem::take(&mut *self.jobs());
            desk.run(jobs);
        }
    }

    fn jobs(&self) -> MutexGuard<'_, Vec<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that owns a connection.
#[derive(Debug)]
pub(super) struct Running {
    /// `None` from when the thread is to end.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

enum Job {
    /// A workspace to create, in a transaction it may share.
    Create(Waiting),
    /// Anything else, by itself.
    Call(Call),
}

type Call = Box<dyn FnOnce(&mut Session) + Send>;

/// A workspace to create, and who waits for it.
struct Waiting {
    creation: Box<Creation>,
    answer: oneshot::Sender<Result<Created, Error>>,
}

impl Worker {
    /// Starts the thread, which takes up to `batch` creates into one transaction. Where the session writes, the thread
    /// forgets old claims too.
    pub(super) fn start(name: &str, session: Session, batch: usize) -> Result<Self, DatabaseError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(move || run(session, queue, batch))
            .map_err(|error| DatabaseError::Unusable(format!("no thread for the database: {error}")))?;
        Ok(Self::Thread(Arc::new(Running { jobs: Some(jobs), thread: Some(thread) })))
    }

    /// Has callers run their calls themselves. Old claims are forgotten beside other calls.
    pub(super) fn in_place(session: Session) -> Self {
        Self::InPlace(Arc::new(InPlace { desk: Mutex::new(Desk::new(session)), jobs: Mutex::default() }))
    }

    /// Creates a workspace.
    pub(super) async fn create(&self, creation: Creation) -> Result<Created, Error> {
        let (answer, result) = oneshot::channel();
        let job = Job::Create(Waiting { creation: Box::new(creation), answer });
        if let Self::InPlace(shared) = self {
            shared.push(job);
            // The component ends in the first pause, and in the second one the thread's other requests come so far:
            // their creates share a transaction.
            pause().await;
            pause().await;
            shared.run();
            return answer_of(result).await;
        }
        self.queue(job, result).await
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
        let ended = || Error::Unavailable("the database thread has ended".into());
        match self {
            Self::Thread(running) => running.jobs.as_ref().ok_or_else(ended)?.send(job).await.map_err(|_| ended())?,
            Self::InPlace(shared) => {
                shared.push(job);
                shared.run();
            }
        }
        answer_of(result).await
    }
}

/// Lets the thread's tasks that are ready go on. Does not look for what has arrived meanwhile, which takes a system call, as
/// tokio's `yield_now` does.
async fn pause() {
    let mut has_paused = false;
    poll_fn(|context| {
        if mem::replace(&mut has_paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn answer_of<T, E: From<Error>>(result: oneshot::Receiver<Result<T, E>>) -> Result<T, E> {
    let lost = || Error::Unknown("the call of the database did not come to its end".into());
    result.await.unwrap_or_else(|_| Err(lost().into()))
}

/// Runs jobs until all senders are gone.
fn run(session: Session, mut queue: mpsc::Receiver<Job>, batch: usize) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut desk = Desk::new(session);
    loop {
        let first = match wait(&mut queue, &waker, desk.sweep.as_ref().map(Sweep::due)) {
            Waited::Job(job) => Some(job),
            Waited::Due => None,
            Waited::Ended => break,
        };
        let (mut creates, mut calls) = (0, 0);
        // No artificial delay: what comes while the disk syncs is the next batch.
        desk.run(iter::successors(first, |job| {
            match job {
                Job::Create(_) => creates += 1,
                Job::Call(_) => calls += 1,
            }
            (creates.max(calls) < batch).then(|| queue.try_recv().ok()).flatten()
        }));
    }
    desk.session.close();
}

/// A connection with the upkeep of its database.
#[derive(Debug)]
pub(super) struct Desk {
    session: Session,
    /// `None` where the session only reads.
    sweep: Option<Sweep>,
}

impl Desk {
    fn new(session: Session) -> Self {
        let sweep = (!session.reads()).then(Sweep::new);
        Self { session, sweep }
    }

    /// Runs a batch of jobs: the creates in one transaction, and each call by itself.
    fn run(&mut self, jobs: impl IntoIterator<Item = Job>) {
        let Self { session, sweep } = self;
        let (mut creates, mut calls) = (Vec::new(), Vec::new());
        // Calls, which strangers can have made, take no batch apart, and come after it.
        for job in jobs {
            match job {
                Job::Create(waiting) => creates.push(waiting),
                Job::Call(call) => calls.push(call),
            }
        }
        // A panic is that work's own: its transaction is rolled back, and its callers,
        // whose channels it drops, are told that the outcome is not known.
        let _ = catch_unwind(AssertUnwindSafe(|| create_all(session, creates)));
        for call in calls {
            let _ = catch_unwind(AssertUnwindSafe(|| call(session)));
        }
        if let Some(sweep) = sweep {
            let _ = catch_unwind(AssertUnwindSafe(|| sweep.step(session)));
        }
        session.tidy();
    }
}

/// End of a wait.
enum Waited {
    Job(Job),
    /// The time has come.
    Due,
    /// The last sender is gone.
    Ended,
}

/// Waits for a job, until a time at most: a channel of tokio's has no blocking wait with a limit.
fn wait(queue: &mut mpsc::Receiver<Job>, waker: &Waker, until: Option<Instant>) -> Waited {
    loop {
        match queue.poll_recv(&mut Context::from_waker(waker)) {
            Poll::Ready(Some(job)) => return Waited::Job(job),
            Poll::Ready(None) => return Waited::Ended,
            Poll::Pending => match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(left) if left.is_zero() => return Waited::Due,
                Some(left) => thread::park_timeout(left),
            },
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
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
    let outcomes = session.write_at(|transaction, time| {
        // Another process may have held the lock for long: who has given up meanwhile gets no workspace.
        creates.retain(|waiting| !waiting.answer.is_closed());
        creates
            .iter()
            .map(|waiting| create_one(transaction, &waiting.creation, time))
            .collect::<Result<Vec<_>, Error>>()
    });
    match outcomes {
        Ok(outcomes) => {
            for (waiting, outcome) in creates.into_iter().zip(outcomes) {
                match &outcome {
                    Ok(created) if !created.replayed => session.succeeded(),
                    Ok(_) => {}
                    Err(error) => session.failed(error),
                }
                let _ = waiting.answer.send(outcome);
            }
        }
        // A trigger has rolled the transaction back, or a constraint is checked at the commit: one of them is
        // refused, and the others must not be.
        Err(error) if is_its_own(&error) && creates.len() > 1 => {
            for waiting in creates {
                create_all(session, vec![waiting]);
            }
        }
        Err(error) => {
            session.failed(&error);
            for waiting in creates {
                let _ = waiting.answer.send(Err(error.clone()));
            }
        }
    }
}

/// Returns whether an error is about one workspace, and not about the database.
fn is_its_own(error: &Error) -> bool {
    !matches!(error, Error::Unavailable(_) | Error::Unknown(_))
}

/// Creates one workspace within a savepoint; the outer error is the whole transaction's.
fn create_one(transaction: &Transaction<'_>, creation: &Creation, time: i64) -> Result<Result<Created, Error>, Error> {
    // Prepared once: rusqlite's own savepoints are parsed each time.
    let run = |statement| transaction.prepare_cached(statement)?.execute([]);
    run("SAVEPOINT creation")?;
    let outcome = match create::create(transaction, creation, time) {
        // A trigger may have rolled back the whole transaction.
        Err(error) if is_its_own(&error) && !transaction.is_autocommit() => {
            run("ROLLBACK TO creation")?;
            Err(error)
        }
        created => Ok(created?),
    };
    run("RELEASE creation")?;
    Ok(outcome)
}
