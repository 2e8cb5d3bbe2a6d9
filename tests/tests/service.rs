//! The program as a service: a socket that a service manager opens, a unit of systemd, an image.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use workspaces_tests::{Answer, Deployment, Server, installed};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Returns a file of the deployment.
fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/deploy").join(name)
}

/// Starts the program with a socket as file 3, as systemd does.
fn with_socket(deployment: &Deployment, listener: &TcpListener) -> Result<Server> {
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    let inner = deployment.command(&["serve"]);
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash"]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(deployment.folder()).env("WORKSPACES_LOG", "warn");
    command.stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)));
    Server::start(&mut command)
}

/// Creates a workspace over a connection of its own, and returns the status.
fn create(address: SocketAddr, key: &str) -> Result<u16> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "POST /api/workspaces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nx-api-key: {key}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    )?;
    Ok(Answer::read(stream)?.status)
}

#[test]
fn a_restart_with_a_socket_of_the_service_manager_refuses_no_connection() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let key = deployment.run(&["key", "create", &deployment.run(&["account", "create"])?])?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut server = with_socket(&deployment, &listener)?;
    assert_eq!(server.address(), address);
    let (is_over, created) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (key, is_over, created) = (key.clone(), is_over.clone(), created.clone());
            thread::spawn(move || -> Result<()> {
                while !is_over.load(Relaxed) {
                    let status = create(address, &key)?;
                    ensure!(status == 201, "{status}");
                    created.fetch_add(1, Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    for _ in 0..3 {
        let before = created.load(Relaxed);
        while created.load(Relaxed) < before + 20 && !clients.iter().any(|client| client.is_finished()) {
            thread::yield_now();
        }
        server.signal("TERM")?;
        assert_eq!(server.wait()?, 0);
        server = with_socket(&deployment, &listener)?;
    }
    is_over.store(true, Relaxed);
    for client in clients {
        client.join().ok().context("a client panicked")??;
    }
    assert!(created.load(Relaxed) >= 60);
    Ok(())
}

#[test]
fn a_file_that_is_no_listening_socket_is_an_error() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let script = "exec 3</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    let inner = deployment.command(&["serve", "--demo"]);
    let output =
        Command::new("bash").args(["-c", script, "bash"]).arg(inner.get_program()).args(inner.get_args()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("LISTEN_FDS"), "{said}");
    Ok(())
}

#[test]
fn the_processes_that_compile_do_not_get_the_socket() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    deployment.run(&["account", "create"])?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let server = with_socket(&deployment, &listener)?;
    // What a program that is started gets depends on the flag alone.
    let flags = fs::read_to_string(format!("/proc/{}/fdinfo/3", server.id()))?;
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).context("no flags")?;
    const CLOEXEC: u32 = 0o2_000_000;
    assert_eq!(u32::from_str_radix(flags.trim(), 8)? & CLOEXEC, CLOEXEC, "{flags}");
    Ok(())
}

#[test]
fn systemd_takes_the_units_and_finds_little_exposed() -> Result<()> {
    if !installed(&["systemd-analyze"], "systemd")? {
        return Ok(());
    }
    let folder = TempDir::new()?;
    for unit in ["workspaces.service", "workspaces.socket"] {
        // The program of this test in the place of the installed one.
        let text = fs::read_to_string(deploy(unit))?.replace("/usr/bin/workspaces", PROGRAM);
        fs::write(folder.path().join(unit), text)?;
    }
    let analyze = |arguments: &[&str]| -> Result<String> {
        let output = Command::new("systemd-analyze").args(arguments).current_dir(folder.path()).output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "{arguments:?}: {said}");
        Ok(said)
    };
    let said =
        analyze(&["verify", "--man=no", "--recursive-errors=no", "./workspaces.service", "./workspaces.socket"])?;
    // Only of the units themselves: the machine may lack others.
    let own: Vec<_> = said.lines().filter(|line| line.contains("workspaces")).collect();
    ensure!(own.is_empty(), "{own:?}");
    // From 0 to 10, in tenths, where under 20 is "OK".
    analyze(&["security", "--offline=true", "--threshold=20", "./workspaces.service"])?;
    Ok(())
}

#[test]
fn the_image_needs_no_more_than_its_base_has() -> Result<()> {
    let text = fs::read_to_string(deploy("Containerfile"))?;
    assert!(text.contains("\nUSER nonroot\n") && text.contains("distroless/cc-debian12:nonroot"), "{text}");
    // Libraries of distroless/cc.
    const BASE: [&str; 6] = ["linux-vdso", "libgcc_s", "libm.", "libc.", "libpthread", "ld-linux"];
    let output = Command::new("ldd").arg(PROGRAM).output()?;
    let mut said = String::new();
    output.stdout.as_slice().read_to_string(&mut said)?;
    assert!(output.status.success() && said.contains("libc."), "{said}");
    for line in said.lines() {
        assert!(BASE.iter().any(|library| line.contains(library)), "{line}");
    }
    Ok(())
}
