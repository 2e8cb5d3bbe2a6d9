//! SQLite's own: its files, its lock, its thread.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rusqlite::Connection;
use uuid::Uuid;
use workspaces_host::{
    CreateWorkspaceRequest,
    auth::{Basis, Caller, Grant},
    storage::{
        Claim, Created, Database, Error, IdempotencyKey, Period, Quota, Storage,
        sqlite::{Access, Sqlite, SqliteOptions},
    },
};
use workspaces_tests::{
    Deployment, Server,
    disk::{Disk, Fault},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// A database of its own, with an account in it.
struct Scene {
    folder: tempfile::TempDir,
    database: Sqlite,
    account: Uuid,
}

impl Scene {
    async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let database = Sqlite::open(&folder.path().join("workspaces.db"))?;
        let account = database.create_account(None, None).await?.id;
        Ok(Self { folder, database, account })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("workspaces.db")
    }

    fn grant(&self) -> Grant {
        let account = self.account;
        Grant { caller_id: account, account_id: account, organization_id: None, key_id: None, basis: Basis::Auth }
    }

    async fn create(&self, name: &str) -> Result<Created, Error> {
        self.database.create_workspace(Uuid::now_v7(), &self.grant(), name, None).await
    }

    /// Returns a connection of another process, as far as SQLite can tell.
    fn other(&self) -> Result<Connection> {
        connect(&self.path())
    }

    async fn workspaces(&self) -> Result<usize> {
        Ok(self.database.workspaces(None).await?.len())
    }

    fn claim(&self, key: &str) -> Result<Claim> {
        claim(self.account, key)
    }
}

fn claim(account: Uuid, key: &str) -> Result<Claim> {
    Ok(Claim::new(&Caller::new(account), IdempotencyKey::new(key)?, &CreateWorkspaceRequest::default()))
}

fn connect(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    // As tools have it by default.
    connection.pragma_update(None, "foreign_keys", false)?;
    Ok(connection)
}

fn count(connection: &Connection, what: &str) -> Result<i64> {
    Ok(connection.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0))?)
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await? {
        ensure!(Instant::now() < deadline, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn mode(path: &Path) -> Result<u32> {
    Ok(fs::metadata(path).with_context(|| path.display().to_string())?.permissions().mode() & 0o777)
}

/// Starts a server whose log goes to a file.
fn serve(deployment: &Deployment) -> Result<(Server, PathBuf)> {
    let log = deployment.folder().join("log");
    let server = Server::start(deployment.server(&[]).stderr(fs::File::create(&log)?))?;
    Ok((server, log))
}

/// Waits until the server says so of itself: it asks its databases once in a while.
fn wait_until_ready(server: &Server, ready: bool) -> Result<()> {
    let (expected, deadline) = (if ready { 200 } else { 503 }, Instant::now() + Duration::from_secs(60));
    while server.send("GET", "/readyz", &[], b"")?.status != expected {
        ensure!(Instant::now() < deadline, "/readyz is not {expected} within a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn with_key() -> Result<(Deployment, String)> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    Ok((deployment, key))
}

#[test]
fn a_database_and_its_copies_are_their_owners_alone() -> Result<()> {
    let (deployment, key) = with_key()?;
    let (server, log) = serve(&deployment)?;
    assert_eq!(server.create(&key, "{}")?.status, 201);
    deployment.run(&["database", "backup", "copy.db"])?;
    for name in ["workspaces.db", "workspaces.db-wal", "workspaces.db-shm", "copy.db"] {
        assert_eq!(mode(&deployment.folder().join(name))?, 0o600, "{name}");
    }
    drop(server);
    assert_eq!(fs::read_to_string(&log)?, "", "nothing to warn of");
    // One that is there keeps what its owner gave it.
    fs::set_permissions(deployment.database(), fs::Permissions::from_mode(0o644))?;
    let (server, log) = serve(&deployment)?;
    assert_eq!(server.create(&key, "{}")?.status, 201);
    assert_eq!(mode(&deployment.database())?, 0o644);
    let log = fs::read_to_string(log)?;
    assert_eq!(log.matches("every user of the system can read the database").count(), 1, "{log}");
    Ok(())
}

#[tokio::test]
async fn a_copy_is_its_owners_alone_from_its_first_byte() -> Result<()> {
    let scene = Scene::new().await?;
    let to = scene.folder.path().join("copy.db");
    let partial = scene.folder.path().join("copy.db.partial");
    let (modes, seen) = std::sync::mpsc::channel();
    scene.database.backup(&to, Box::new(move |_, _| drop(modes.send(mode(&partial))))).await?;
    let seen: Vec<_> = seen.iter().collect::<Result<_>>()?;
    assert!(!seen.is_empty() && seen.iter().all(|mode| *mode == 0o600), "{seen:?}");
    // Also through a link to a file that is missing.
    let link = scene.folder.path().join("link.db");
    std::os::unix::fs::symlink(scene.folder.path().join("target.db"), &link)?;
    drop(Sqlite::open(&link)?);
    assert_eq!(mode(&link)?, 0o600);
    Ok(())
}

#[test]
fn after_a_clean_stop_the_file_alone_holds_everything() -> Result<()> {
    let (deployment, key) = with_key()?;
    let server = deployment.serve(&[])?;
    for _ in 0..50 {
        assert_eq!(server.create(&key, "{}")?.status, 201);
    }
    server.signal("TERM")?;
    assert_eq!(server.wait()?, 0);
    let copy = deployment.folder().join("copied.db");
    fs::copy(deployment.database(), &copy)?;
    assert_eq!(count(&connect(&copy)?, "account_workspace_ids")?, 50);
    assert!(!deployment.folder().join("workspaces.db-wal").exists());
    Ok(())
}

#[tokio::test]
async fn dropping_the_last_clone_leaves_everything_in_the_file() -> Result<()> {
    for another_process in [false, true] {
        let scene = Scene::new().await?;
        for _ in 0..50 {
            scene.create("x").await?;
        }
        // The reader is open too, and perhaps another process, which keeps the log from being deleted.
        assert_eq!(scene.workspaces().await?, 50);
        let other = another_process.then(|| scene.other()).transpose()?;
        if let Some(other) = &other {
            count(other, "accounts")?;
        }
        let path = scene.path();
        let Scene { folder, database, .. } = scene;
        let clone = database.clone();
        drop(database);
        drop(clone);
        let copy = folder.path().join("copied.db");
        fs::copy(&path, &copy)?;
        assert_eq!(count(&connect(&copy)?, "account_workspace_ids")?, 50, "another process: {another_process}");
    }
    Ok(())
}

#[tokio::test]
async fn the_log_is_copied_as_it_grows_and_cut_after_a_long_reader() -> Result<()> {
    let scene = Scene::new().await?;
    let log = || Ok::<_, anyhow::Error>(fs::metadata(scene.folder.path().join("workspaces.db-wal"))?.len());
    let create = async |times: usize| -> Result<()> {
        let (database, grant) = (&scene.database, scene.grant());
        for _ in 0..times.div_ceil(64) {
            let tasks: Vec<_> = (0..64)
                .map(|_| {
                    let (database, grant) = (database.clone(), grant.clone());
                    tokio::spawn(async move {
                        database.create_workspace(Uuid::now_v7(), &grant, &"x".repeat(200), None).await
                    })
                })
                .collect();
            for task in tasks {
                task.await??;
            }
        }
        Ok(())
    };
    create(8000).await?;
    assert!(log()? < 8 << 20, "{} bytes", log()?);

    let reader = scene.other()?;
    reader.execute_batch("BEGIN; SELECT * FROM accounts")?;
    while log()? < 12 << 20 {
        create(640).await?;
    }
    reader.execute_batch("COMMIT")?;
    // The next batches copy the log, begin it anew and cut it.
    until("the log is cut", async || {
        create(64).await?;
        Ok(log()? <= 8 << 20)
    })
    .await
}

#[test]
fn a_file_that_is_removed_renamed_or_replaced_stops_writing_and_is_named() -> Result<()> {
    type Change = fn(&Path) -> Result<()>;
    let away = |path: &Path| path.with_extension("away");
    let changes: [(&str, &str, Change); 5] = [
        ("removed", "workspaces.db", |path| Ok(fs::remove_file(path)?)),
        ("renamed", "workspaces.db", |path| Ok(fs::rename(path, path.with_extension("away"))?)),
        ("replaced", "workspaces.db", |path| {
            fs::rename(path, path.with_extension("away"))?;
            Ok(fs::write(path, "another")?)
        }),
        ("log removed", "workspaces.db-wal", |path| Ok(fs::remove_file(path.with_extension("db-wal"))?)),
        ("index removed", "workspaces.db-shm", |path| Ok(fs::remove_file(path.with_extension("db-shm"))?)),
    ];
    for (what, named, change) in changes {
        let (deployment, key) = with_key()?;
        let (server, log) = serve(&deployment)?;
        for _ in 0..10 {
            assert_eq!(server.create(&key, "{}")?.status, 201);
        }
        wait_until_ready(&server, true)?;
        let path = deployment.database();
        change(&path)?;
        wait_until_ready(&server, false)?;
        for _ in 0..2 {
            let answer = server.create(&key, "{}")?;
            assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{what}: {answer:?}");
        }
        let lines = fs::read_to_string(&log)?;
        let told: Vec<_> =
            lines.lines().filter(|line| line.contains("was removed, renamed or replaced while")).collect();
        assert!(told.len() == 1 && told[0].contains(&format!("{named} was removed")), "{what}: {lines}");
        if what == "renamed" {
            fs::rename(away(&path), &path)?;
            assert_eq!(server.create(&key, "{}")?.status, 201, "{what} back");
            wait_until_ready(&server, true)?;
        }
        if named != "workspaces.db" {
            // What the log held was saved, and a new server goes on.
            server.kill()?;
            let server = deployment.serve(&[])?;
            assert_eq!(server.create(&key, "{}")?.status, 201, "{what}");
            assert_eq!(count(&connect(&path)?, "account_workspace_ids")?, 11, "{what}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn readiness_says_what_the_last_writes_said() -> Result<()> {
    let scene = Scene::new().await?;
    let is_ready = async || Ok(scene.database.ready().await.is_ok());
    assert!(is_ready().await?);

    // Another process keeps the lock: not ready while a create waits for it, after it has given up, and no longer.
    let other = scene.other()?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    let (waiting, ()) = tokio::join!(scene.create("x"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let refusal = scene.database.ready().await;
        assert!(matches!(&refusal, Err(Error::Unavailable(reason)) if reason.contains("lock")), "{refusal:?}");
    });
    assert!(matches!(&waiting, Err(Error::Unavailable(reason)) if reason.contains("write lock")), "{waiting:?}");
    assert!(!is_ready().await?);
    let start = Instant::now();
    assert!(scene.create("x").await.is_err());
    assert!(start.elapsed() < Duration::from_secs(4), "the next ones wait less: {:?}", start.elapsed());
    other.execute_batch("ROLLBACK")?;
    until("ready after the lock", is_ready).await?;

    // A table of another shape.
    other.execute_batch("ALTER TABLE account_workspace_ids RENAME TO elsewhere")?;
    assert!(matches!(scene.create("x").await, Err(Error::Misconfigured(_))));
    let refusal = scene.database.ready().await;
    assert!(matches!(refusal, Err(Error::Misconfigured(_))), "{refusal:?}");
    other.execute_batch("ALTER TABLE elsewhere RENAME TO account_workspace_ids")?;
    until("ready after the repair", is_ready).await?;
    scene.create("x").await?;

    // A refusal of one workspace is no matter of readiness.
    let missing = Grant { account_id: Uuid::now_v7(), ..scene.grant() };
    assert_eq!(scene.database.create_workspace(Uuid::now_v7(), &missing, "x", None).await, Err(Error::AccessLost));
    assert!(is_ready().await?);
    Ok(())
}

#[tokio::test]
async fn readiness_says_that_the_disk_is_full() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = Disk::watch(folder.path())?;
    let database = Sqlite::open(&folder.path().join("workspaces.db"))?;
    let account = database.create_account(None, None).await?.id;
    let scene = Scene { folder, database, account };
    scene.create("x").await?;
    disk.fail_from(0, Fault::Full);
    // A first failure may be one of the sync, after which nothing is written any more: writes come before.
    assert!(matches!(scene.create("x").await, Err(Error::Unavailable(_))));
    assert!(scene.database.ready().await.is_err());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(scene.database.ready().await.is_err(), "as long as it is full");
    disk.heal();
    until("ready with room", async || Ok(scene.database.ready().await.is_ok())).await?;
    scene.create("x").await?;
    Ok(())
}

/// Call of `create_workspace`: grant, name and claim, and the storage to call.
type Call = (Grant, &'static str, Option<Claim>, Arc<dyn Storage>);

/// Makes the calls while another process holds the write lock, so that they are of one batch when it gives it up.
async fn in_one_batch(scene: &Scene, calls: Vec<Call>) -> Result<Vec<Result<Created, Error>>> {
    let other = scene.other()?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    // The first waits for the lock alone; the others gather meanwhile.
    let first = scene.database.clone();
    let grant = scene.grant();
    let first = tokio::spawn(async move { first.create_workspace(Uuid::now_v7(), &grant, "First", None).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let tasks: Vec<_> = calls
        .into_iter()
        .map(|(grant, name, claim, storage)| {
            tokio::spawn(async move { storage.create_workspace(Uuid::now_v7(), &grant, name, claim.as_ref()).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    other.execute_batch("COMMIT")?;
    first.await??;
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await?);
    }
    Ok(outcomes)
}

#[tokio::test]
async fn one_refusal_is_not_the_answer_to_its_batch() -> Result<()> {
    let scene = Scene::new().await?;
    scene.other()?.execute_batch(
        "CREATE TABLE teams (name TEXT PRIMARY KEY);
         CREATE TABLE notes (team TEXT REFERENCES teams (name) DEFERRABLE INITIALLY DEFERRED);
         CREATE TRIGGER refuse BEFORE INSERT ON accounts WHEN NEW.name = 'Abort' BEGIN SELECT RAISE(ABORT, 'no'); END;
         CREATE TRIGGER roll_back BEFORE INSERT ON accounts WHEN NEW.name = 'Roll back' BEGIN SELECT RAISE(ROLLBACK, 'no'); END;
         CREATE TRIGGER defer AFTER INSERT ON accounts WHEN NEW.name = 'Defer' BEGIN INSERT INTO notes VALUES ('none'); END;",
    )?;
    let used = scene.claim("used")?;
    scene.database.create_workspace(Uuid::now_v7(), &scene.grant(), "Used", Some(&used)).await?;
    let reused = Claim { fingerprint: [1; 32], ..used };
    let all: Arc<dyn Storage> = Arc::new(scene.database.clone());
    let none = scene.database.for_tenant("none", Quota { per_day: Some(0), total: None });
    let own = || scene.grant();
    let refused = |error: &Error| matches!(error, Error::Refused(_));
    type Refused = fn(&Error) -> bool;
    let cases: Vec<(Call, Refused)> = vec![
        ((Grant { account_id: Uuid::now_v7(), ..own() }, "x", None, all.clone()), |error| *error == Error::AccessLost),
        ((Grant { key_id: Some(Uuid::now_v7()), ..own() }, "x", None, all.clone()), |error| {
            *error == Error::CredentialLost
        }),
        ((own(), "x", Some(reused), all.clone()), |error| *error == Error::KeyReused),
        ((own(), "x", None, none), |error| *error == Error::QuotaReached(Period::Day)),
        ((own(), "Abort", None, all.clone()), refused),
        ((own(), "Roll back", None, all.clone()), refused),
        ((own(), "Defer", None, all.clone()), refused),
    ];
    for (call, is_expected) in cases {
        let name = call.1;
        let mut calls = vec![call];
        calls.extend((0..8).map(|_| (own(), "Good", None, all.clone())));
        let before = scene.workspaces().await?;
        let outcomes = in_one_batch(&scene, calls).await?;
        assert!(outcomes[0].as_ref().is_err_and(is_expected), "{name}: {:?}", outcomes[0]);
        assert!(outcomes[1..].iter().all(Result::is_ok), "{name}: {outcomes:?}");
        assert_eq!(scene.workspaces().await?, before + 9, "{name}");
    }
    assert_eq!(count(&scene.other()?, "notes")?, 0);
    Ok(())
}

#[tokio::test]
async fn nothing_is_written_for_who_gave_up_while_another_process_held_the_lock() -> Result<()> {
    let scene = Scene::new().await?;
    let other = scene.other()?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    let given_up = tokio::time::timeout(Duration::from_millis(300), scene.create("Given up")).await;
    assert!(given_up.is_err(), "{given_up:?}");
    other.execute_batch("COMMIT")?;
    scene.create("Waited for").await?;
    assert_eq!(scene.workspaces().await?, 1);
    Ok(())
}

#[tokio::test]
async fn what_the_data_causes_is_refused_and_what_the_schema_causes_is_misconfigured() -> Result<()> {
    let refused: fn(&Error) -> bool = |error| matches!(error, Error::Refused(_));
    let misconfigured: fn(&Error) -> bool = |error| matches!(error, Error::Misconfigured(_));
    for (what, statement, is_expected) in [
        ("unique", "CREATE UNIQUE INDEX one ON accounts (name)", refused),
        ("check", "ALTER TABLE accounts ADD COLUMN extra TEXT CHECK (name IS NULL OR length(name) < 6)", refused),
        ("abort", "CREATE TRIGGER no BEFORE INSERT ON accounts BEGIN SELECT RAISE(ABORT, 'no'); END", refused),
        ("fail", "CREATE TRIGGER no BEFORE INSERT ON accounts BEGIN SELECT RAISE(FAIL, 'no'); END", refused),
        ("roll back", "CREATE TRIGGER no AFTER INSERT ON account_info BEGIN SELECT RAISE(ROLLBACK, 'no'); END", refused),
        ("left out", "CREATE TRIGGER no BEFORE INSERT ON accounts BEGIN SELECT RAISE(IGNORE); END", refused),
        ("link left out", "CREATE TRIGGER no BEFORE INSERT ON account_workspace_ids BEGIN SELECT RAISE(IGNORE); END", refused),
        (
            "another foreign key",
            "CREATE TABLE teams (name TEXT PRIMARY KEY);
             ALTER TABLE account_info ADD COLUMN team TEXT NOT NULL DEFAULT 'none' REFERENCES teams (name)",
            refused,
        ),
        (
            "a deferred foreign key",
            "CREATE TABLE teams (name TEXT PRIMARY KEY);
             ALTER TABLE account_info ADD COLUMN team TEXT NOT NULL DEFAULT 'none' REFERENCES teams (name) DEFERRABLE INITIALLY DEFERRED",
            refused,
        ),
        ("column", "ALTER TABLE accounts RENAME COLUMN name TO title", misconfigured),
        ("table", "ALTER TABLE account_info RENAME TO elsewhere", misconfigured),
        (
            "no value",
            "ALTER TABLE account_info RENAME TO old;
             CREATE TABLE account_info (id BLOB, account_id BLOB, created_at INTEGER, updated_at INTEGER, region TEXT NOT NULL)",
            misconfigured,
        ),
        (
            "type",
            "ALTER TABLE account_info RENAME TO old;
             CREATE TABLE account_info (id BLOB, account_id INTEGER, created_at INTEGER, updated_at INTEGER) STRICT",
            misconfigured,
        ),
    ] {
        let scene = Scene::new().await?;
        scene.create("Taken").await?;
        scene.other()?.execute_batch(statement).context(what)?;
        let name = if what == "check" { "Too long" } else { "Taken" };
        let claim = scene.claim("k")?;
        for claim in [None, Some(&claim)] {
            let outcome = scene.database.create_workspace(Uuid::now_v7(), &scene.grant(), name, claim).await;
            assert!(outcome.as_ref().is_err_and(is_expected), "{what}: {outcome:?}");
        }
        let is_ready = scene.database.ready().await.is_ok();
        assert_eq!(is_ready, is_expected(&Error::Refused(String::new())), "{what}");
        let other = scene.other()?;
        assert_eq!((count(&other, "account_workspace_ids")?, count(&other, "accounts")?), (1, 2), "{what}");
        assert_eq!(count(&other, "idempotency_keys")?, 0, "{what}");
    }
    Ok(())
}

#[test]
fn a_refusal_of_the_database_is_400_and_a_wrong_schema_500() -> Result<()> {
    let (deployment, key) = with_key()?;
    let server = deployment.serve(&["--log", "off"])?;
    let sql = |statement| connect(&deployment.database())?.execute_batch(statement).map_err(anyhow::Error::from);
    sql("CREATE UNIQUE INDEX one ON accounts (name)")?;
    assert_eq!(server.create(&key, r#"{"name":"A1"}"#)?.status, 201);
    let answer = server.create(&key, r#"{"name":"A1"}"#)?;
    assert_eq!((answer.status, answer.header("retry-after")), (400, None), "{answer:?}");
    wait_until_ready(&server, true)?;
    assert_eq!(server.create(&key, r#"{"name":"A2"}"#)?.status, 201);
    sql("ALTER TABLE accounts RENAME COLUMN name TO title")?;
    let answer = server.create(&key, r#"{"name":"A3"}"#)?;
    assert_eq!((answer.status, answer.header("retry-after")), (500, None), "{answer:?}");
    wait_until_ready(&server, false)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_on_one_file_create_once_for_a_key() -> Result<()> {
    let scene = Scene::new().await?;
    let other = Sqlite::open(&scene.path())?;
    for number in 0..200 {
        let claim = scene.claim(&format!("key-{number}"))?;
        let tasks: Vec<_> = [&scene.database, &other, &scene.database, &other]
            .into_iter()
            .map(|database| {
                let (database, grant, claim) = (database.clone(), scene.grant(), claim.clone());
                tokio::spawn(async move { database.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim)).await })
            })
            .collect();
        let mut ids = Vec::new();
        for task in tasks {
            ids.push(task.await??.workspace.id);
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "{ids:?}");
    }
    assert_eq!(scene.workspaces().await?, 200);
    Ok(())
}

#[tokio::test]
async fn a_claim_is_never_older_than_the_newest() -> Result<()> {
    let scene = Scene::new().await?;
    scene.database.create_workspace(Uuid::now_v7(), &scene.grant(), "x", Some(&scene.claim("ahead")?)).await?;
    // As a host whose clock is years ahead writes it.
    let other = scene.other()?;
    other.execute("UPDATE idempotency_keys SET created_at = created_at * 2", [])?;
    scene.database.create_workspace(Uuid::now_v7(), &scene.grant(), "x", Some(&scene.claim("behind")?)).await?;
    let times = "SELECT count(DISTINCT created_at) FROM idempotency_keys";
    assert_eq!(other.query_row(times, [], |row| row.get::<_, i64>(0))?, 1);
    Ok(())
}

/// Adds so many claims of a workspace that were made a day ago.
const OLD_CLAIMS: &str = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)
    INSERT INTO idempotency_keys SELECT caller_id, route, 'old-' || n, fingerprint, workspace_id, name, account_id,
        created_at - 86400001 FROM idempotency_keys, number";

#[tokio::test(flavor = "multi_thread")]
async fn old_claims_are_forgotten_as_fast_as_new_ones_come_wherever_a_database_is_open() -> Result<()> {
    const OLD: i64 = 40_000;
    let scene = Scene::new().await?;
    scene.database.create_workspace(Uuid::now_v7(), &scene.grant(), "x", Some(&scene.claim("fresh")?)).await?;
    let path = scene.path();
    let Scene { folder, database, account } = scene;
    drop(database);
    let other = connect(&path)?;
    other.execute(OLD_CLAIMS, [OLD])?;
    assert_eq!(count(&other, "idempotency_keys")?, OLD + 1);

    let scene = Scene { database: Sqlite::open(&path)?, folder, account };
    // As many creates as the database takes.
    let created = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let load: Vec<_> = (0..64)
        .map(|client| {
            let (database, grant, created) = (scene.database.clone(), scene.grant(), created.clone());
            tokio::spawn(async move {
                for number in 0.. {
                    let claim = claim(grant.account_id, &format!("new-{client}-{number}"))?;
                    database.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim)).await?;
                    created.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let start = Instant::now();
    let left = "idempotency_keys WHERE key LIKE 'old-%'";
    until("the old ones are forgotten", async || Ok(count(&other, left)? == 0)).await?;
    let (created, took) = (created.load(std::sync::atomic::Ordering::Relaxed), start.elapsed());
    load.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(created < OLD, "{created} came while {OLD} were forgotten, within {took:?}");
    assert!(created > OLD / 20, "creates wait for the sweep: {created} came while {OLD} were forgotten");
    assert!(scene.database.find_claimed(&scene.claim("fresh")?).await?.is_some());
    Ok(())
}

/// Makes a database as an earlier version made it.
fn old_schema(path: &Path, version: usize) -> Result<Uuid> {
    let account = Uuid::new_v4();
    let old = connect(path)?;
    let steps = [
        include_str!("../../host/src/storage/sqlite/schema/1.sql"),
        include_str!("../../host/src/storage/sqlite/schema/2.sql"),
    ];
    for step in &steps[..version] {
        old.execute_batch(step)?;
    }
    old.execute("INSERT INTO accounts VALUES (?1, 'Ada', 1)", [account])?;
    old.execute("INSERT INTO account_info (id, account_id, created_at, updated_at) VALUES (?1, ?1, 1, 1)", [account])?;
    old.pragma_update(None, "user_version", version)?;
    Ok(account)
}

fn schema(path: &Path) -> Result<i64> {
    Ok(connect(path)?.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

#[test]
fn only_serve_and_migrate_change_the_schema_and_after_a_copy() -> Result<()> {
    for version in [1, 2] {
        for migrates in [&["database", "migrate"][..], &["serve"]] {
            let deployment = Deployment::new(PROGRAM)?;
            let path = deployment.database();
            let account = old_schema(&path, version)?.to_string();
            for reads in [
                &["workspace", "list"][..],
                &["database", "check"],
                &["key", "list", &account],
                &["database", "backup", "copy.db"],
            ] {
                deployment.run(reads)?;
            }
            for writes in [&["account", "create"][..], &["key", "create", &account], &["key", "revoke", &account]] {
                let refused = deployment.output(writes)?;
                let message = String::from_utf8(refused.stderr)?;
                assert!(
                    refused.status.code() == Some(1) && message.contains("workspaces database migrate"),
                    "{message}"
                );
            }
            assert_eq!(schema(&path)?, i64::try_from(version)?, "as it was");
            match migrates {
                ["serve"] => drop(deployment.serve(&[])?),
                command => drop(deployment.run(command)?),
            }
            assert_eq!(schema(&path)?, 4);
            let copy = deployment.folder().join(format!("workspaces.db.schema-{version}"));
            assert_eq!((schema(&copy)?, mode(&copy)?), (i64::try_from(version)?, 0o600));
            assert_eq!(count(&connect(&copy)?, "accounts")?, 1);
            deployment.run(&["account", "create"])?;
        }
    }
    Ok(())
}

/// Runs the program as somebody who may write nothing.
fn as_nobody(deployment: &Deployment, arguments: &[&str]) -> Result<std::process::Output> {
    use std::os::unix::{fs::MetadataExt as _, process::CommandExt as _};
    // A copy that anybody may run: the original may be in a folder of root's own.
    let programs = tempfile::tempdir()?;
    fs::set_permissions(programs.path(), fs::Permissions::from_mode(0o755))?;
    let program = programs.path().join("program");
    fs::copy(PROGRAM, &program)?;
    let mut command = std::process::Command::new(program);
    command.args(arguments).current_dir("/");
    command.env("WORKSPACES_DATABASE", format!("sqlite:{}", deployment.database().display()));
    if fs::metadata("/proc/self")?.uid() == 0 {
        command.uid(65534);
    }
    Ok(command.output()?)
}

#[test]
fn a_copy_that_cannot_be_written_can_be_read() -> Result<()> {
    let (deployment, key) = with_key()?;
    let server = deployment.serve(&[])?;
    assert_eq!(server.create(&key, "{}")?.status, 201);
    server.signal("TERM")?;
    server.wait()?;
    fs::set_permissions(deployment.database(), fs::Permissions::from_mode(0o444))?;
    fs::set_permissions(deployment.folder(), fs::Permissions::from_mode(0o555))?;
    for arguments in [&["workspace", "list"][..], &["database", "check"]] {
        let output = as_nobody(&deployment, arguments)?;
        assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
    }
    fs::set_permissions(deployment.folder(), fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_open_for_reading_alone_writes_nothing() -> Result<()> {
    let scene = Scene::new().await?;
    let database = Sqlite::open_with(&scene.path(), &SqliteOptions { access: Access::Read, ..Default::default() })?;
    let outcome = database.create_workspace(Uuid::now_v7(), &scene.grant(), "x", None).await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    assert!(database.create_account(None, None).await.is_err() && database.ready().await.is_err());
    assert_eq!(database.workspaces(None).await?.len(), 0);
    Ok(())
}
