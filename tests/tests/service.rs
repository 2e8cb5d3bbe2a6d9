//! The program as a service: a socket that a service manager opens, a unit of systemd, an image.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
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

/// Images of one test, in a folder of its own. Nothing here runs in a container, so that it takes no rights but root's
/// usual ones.
struct Images(TempDir);

impl Images {
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let [store, state] = ["store", "state"].map(|name| self.0.path().join(name));
        let mut command = Command::new("buildah");
        command.arg("--root").arg(store).arg("--runroot").arg(state).args(["--storage-driver", "vfs"]);
        let output = command.args(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Makes an image of a folder.
    fn make(&self, folder: &Path, name: &str) -> Result<()> {
        let container = self.run(&["from", "scratch"])?;
        self.run(&["copy", &container, folder.to_str().context("the folder's name")?, "/"])?;
        self.run(&["commit", &container, name]).map(drop)
    }

    /// Builds the image of the Containerfile, and returns the folder of a container of it.
    ///
    /// The bases lie in registries that a test can't count on. In place of the second it makes one of this machine's
    /// libraries, those that the base has; in place of the stage that compiles one with the program under test.
    fn build(&self) -> Result<PathBuf> {
        let [base, built, empty] = ["base", "built", "empty"].map(|name| self.0.path().join(name));
        for folder in [
            base.join("etc"),
            base.join("var/lib"),
            built.join("build/target/dist"),
            built.join("build/data"),
            empty.clone(),
        ] {
            fs::create_dir_all(folder)?;
        }
        for library in libraries()? {
            let copy = base.join(library.strip_prefix("/")?);
            fs::create_dir_all(copy.parent().context("no folder")?)?;
            fs::copy(&library, copy)?;
        }
        fs::write(base.join("etc/passwd"), "nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n")?;
        let program = built.join("build/target/dist/workspaces");
        let stripped = Command::new("strip").arg("-o").arg(program).arg(PROGRAM).status()?;
        ensure!(stripped.success(), "the program's symbols can't be removed");
        self.make(&base, "gcr.io/distroless/cc-debian12:nonroot")?;
        self.make(&built, "localhost/built")?;
        let (file, empty) = (deploy("Containerfile"), empty.to_str().context("the folder's name")?);
        let file = file.to_str().context("the file's name")?;
        let stage = "build=container-image://localhost/built";
        self.run(&["bud", "--pull-never", "--build-context", stage, "--file", file, "--tag", "workspaces", empty])?;
        let container = self.run(&["from", "--pull-never", "localhost/workspaces"])?;
        Ok(self.run(&["mount", &container])?.into())
    }
}

/// Returns the libraries of the program. Each has to be one that the image's base has.
fn libraries() -> Result<Vec<PathBuf>> {
    const BASE: [&str; 5] = ["libgcc_s", "libm.", "libc.", "libpthread", "ld-linux"];
    let output = Command::new("ldd").arg(PROGRAM).output()?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(output.status.success() && said.contains("libc."), "{said}");
    let mut paths = Vec::new();
    // The kernel's own one, the vDSO, has no file.
    for line in said.lines().filter(|line| line.contains('/')) {
        ensure!(BASE.iter().any(|library| line.contains(library)), "the base lacks {line}");
        paths.push(line.split_whitespace().find(|word| word.starts_with('/')).context("no path")?.into());
    }
    Ok(paths)
}

#[test]
fn the_image_is_the_program_for_a_user_who_can_write_the_data_folder_alone() -> Result<()> {
    if !installed(&["buildah"], "buildah")? || !installed(&["strip"], "binutils")? {
        return Ok(());
    }
    let images = Images(TempDir::new()?);
    let root = images.build()?;
    let image = serde_json::from_str::<Value>(&images.run(&["inspect", "--type", "image", "localhost/workspaces"])?)?;
    let config = &image["OCIv1"]["config"];
    assert_eq!((&config["User"], &config["Entrypoint"]), (&json!("nonroot"), &json!(["/usr/bin/workspaces"])));
    let data = fs::metadata(root.join("var/lib/workspaces"))?;
    assert_eq!((data.uid(), data.gid()), (65532, 65532));

    // As the user in the image's files, of which the others are root's.
    let program = |arguments: &[&str]| {
        let mut command = Command::new("chroot");
        command.arg("--userspec=65532:65532").arg(&root).arg("/usr/bin/workspaces").args(arguments);
        command.env("WORKSPACES_LOG", "warn").env("WORKSPACES_KEY_PEPPER", "a pepper of sixteen bytes and more");
        command.env("WORKSPACES_DATABASE", "sqlite:/var/lib/workspaces/workspaces.db");
        command
    };
    let run = |arguments: &[&str]| -> Result<String> {
        let output = program(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let key = run(&["key", "create", &run(&["account", "create"])?])?;
    let server = Server::start(&mut program(&["serve", "--listen", "127.0.0.1:0"]))?;
    assert_eq!(create(server.address(), &key)?, 201);
    server.signal("TERM")?;
    assert_eq!(server.wait()?, 0);
    for elsewhere in ["sqlite:/workspaces.db", "sqlite:/etc/workspaces.db", "sqlite:/var/lib/workspaces.db"] {
        let output = program(&["account", "create"]).env("WORKSPACES_DATABASE", elsewhere).output()?;
        ensure!(!output.status.success(), "{elsewhere} was made");
    }
    Ok(())
}
