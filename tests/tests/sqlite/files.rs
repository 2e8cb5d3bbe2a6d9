//! The files of a database: who may read them, and what a stop leaves in them.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::Result;
use uuid::Uuid;
use workspaces_host::storage::{
    Database, Error, Storage,
    sqlite::{Access, Sqlite, SqliteOptions},
};
use workspaces_tests::Deployment;

use super::{PROGRAM, Scene, connect, count, mode, serve, until, wait_until_ready, with_key};

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
