//! Files that are no regular files, or too large: refused within seconds, at the start and on reload.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use workspaces_host::COMPONENT;
use workspaces_tests::{Deployment, PEPPER, Server, Tenants, variant};

use super::{PROGRAM, run};

/// Kinds of files that can't be read, with a part of the reason.
const BAD: [(&str, &str); 5] = [
    ("fifo", "a FIFO"),
    ("device", "a device"),
    ("folder", "a folder"),
    ("sparse", "the limit"),
    ("absent", "No such file"),
];

/// Puts a bad file in the place of what is at a path.
fn spoil(path: &Path, kind: &str) -> Result<()> {
    clear(path)?;
    match kind {
        "fifo" => {
            let made = Command::new("mkfifo").arg(path).status().context("these tests need mkfifo")?;
            ensure!(made.success(), "no FIFO could be made");
        }
        "device" => symlink("/dev/zero", path)?,
        "folder" => fs::create_dir(path)?,
        // Takes no room on the disk.
        "sparse" => File::create(path)?.set_len(1 << 40)?,
        _ => {}
    }
    Ok(())
}

fn clear(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => Ok(fs::remove_dir(path)?),
        Ok(_) => Ok(fs::remove_file(path)?),
        Err(_) => Ok(()),
    }
}

/// Makes a certificate and its key, `server.crt` and `server.key`, and a public key, `jwt.pem`.
fn keys(folder: &Path) -> Result<()> {
    let openssl = |arguments: &[&str]| -> Result<()> {
        let output = Command::new("openssl").args(arguments).current_dir(folder).output();
        let output = output.context("these tests need openssl")?;
        ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    openssl(&[
        "req",
        "-x509",
        "-nodes",
        "-subj",
        "/CN=tests",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-addext",
        "subjectAltName = IP:127.0.0.1",
        "-out",
        "server.crt",
        "-keyout",
        "server.key",
    ])?;
    openssl(&["pkey", "-in", "server.key", "-pubout", "-out", "jwt.pem"])
}

#[test]
fn a_file_that_is_none_is_refused_at_start_whatever_it_is_for() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let folder = deployment.folder();
    keys(folder)?;
    fs::write(
        folder.join("peppered.toml"),
        "tenants.acme = { database = \"sqlite:a.db\", key-pepper-file = \"bad\" }",
    )?;
    let uses: [(&str, &[&str]); 8] = [
        ("configuration", &["serve", "--config", "bad"]),
        ("configuration, checked", &["config", "check", "bad"]),
        ("pepper", &["serve", "--config", "peppered.toml"]),
        ("component", &["serve", "--component", "bad"]),
        ("component, compiled", &["compile", "bad", "--output", "compiled"]),
        ("keys", &["serve", "--jwt-keys", "bad", "--jwt-issuer", "i", "--jwt-audience", "a"]),
        ("certificate", &["serve", "--tls-certificate", "bad", "--tls-key", "server.key"]),
        ("key", &["serve", "--tls-certificate", "server.crt", "--tls-key", "bad"]),
    ];
    for (kind, reason) in BAD {
        spoil(&folder.join("bad"), kind)?;
        for (what, arguments) in uses {
            let mut command = deployment.command(arguments);
            if arguments[0] == "serve" {
                command.args(["--listen", "127.0.0.1:0"]);
            }
            let (code, said) = run(&mut command).with_context(|| format!("{what}: {kind}"))?;
            assert!(
                code == Some(1) && said.contains(reason) && said.contains("bad"),
                "{what}: {kind}: {code:?} {said}"
            );
        }
        let database = format!("postgres://ada@127.0.0.1:1/x?sslrootcert={}", folder.join("bad").display());
        let (code, said) = run(&mut deployment.command(&["serve", "--database", &database]))?;
        assert!(code == Some(1) && said.contains(reason), "sslrootcert: {kind}: {code:?} {said}");
    }
    Ok(())
}

#[test]
fn a_file_that_is_none_is_refused_on_reload_and_the_server_serves_on_and_ends() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    let folder = tenants.deployment().folder();
    keys(folder)?;
    let files: [(&str, Vec<u8>); 6] = [
        ("gateway.toml", Vec::new()),
        ("pepper", PEPPER.into()),
        ("acme.wasm", COMPONENT.to_vec()),
        ("jwt.pem", fs::read(folder.join("jwt.pem"))?),
        ("server.crt", fs::read(folder.join("server.crt"))?),
        ("server.key", fs::read(folder.join("server.key"))?),
    ];
    tenants.write("acme.wasm", COMPONENT)?;
    tenants.configure(
        "[tenants.plain]\npath = \"/plain\"\ndatabase = \"sqlite:acme.db\"
         [tenants.acme]\npath = \"/acme\"\ndatabase = \"sqlite:acme.db\"\ncomponent = \"acme.wasm\"
         jwt = { keys = \"jwt.pem\", issuer = \"i\", audience = \"a\" }",
    )?;
    let configuration = fs::read(folder.join("gateway.toml"))?;
    let arguments = ["--config", "gateway.toml", "--admin", "127.0.0.1:0"];
    let tls = ["--tls-certificate", "server.crt", "--tls-key", "server.key"];
    let server = tenants.deployment().serve(&[&arguments[..], &tls].concat())?;
    let serves = |path: &str| -> Result<bool> {
        let url = format!("https://{}{path}/api/workspaces", server.address());
        let created = Command::new("curl")
            .args(["--silent", "--insecure", "--max-time", "30", "--data", "{}", "--output", "/dev/null"])
            .args(["--header", "Content-Type: application/json", "--header", &format!("x-api-key: {key}")])
            .args(["--write-out", "%{http_code}", &url])
            .output()
            .context("these tests need curl")?;
        Ok(created.stdout == b"201")
    };
    for (name, content) in &files {
        for (kind, reason) in BAD {
            spoil(&folder.join(name), kind)?;
            let address = server.admin()?.to_string();
            let (code, said) = {
                let output = tenants.deployment().command(&["reload", "--admin", &address]).output()?;
                let said = [output.stdout, output.stderr].concat();
                (output.status.code(), String::from_utf8(said)?)
            };
            assert!(code == Some(1) && said.contains(reason) && said.contains(name), "{name}: {kind}: {code:?} {said}");
            assert!(serves("/plain")? && serves("/acme")?, "{name}: {kind}");
        }
        clear(&folder.join(name))?;
        let content = if *name == "gateway.toml" { &configuration } else { content };
        tenants.write(name, content)?;
        let output = tenants.reload(&server)?;
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // In the middle of it all.
    spoil(&folder.join("acme.wasm"), "fifo")?;
    server.signal("HUP")?;
    let start = Instant::now();
    server.signal("TERM")?;
    assert_eq!(server.wait()?, 0);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    Ok(())
}

#[test]
fn symbolic_links_to_files_are_followed_and_their_swap_is_noticed() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    let folder = tenants.deployment().folder();
    // As Kubernetes mounts a ConfigMap: the files are links into a folder that is itself a link.
    for (version, component) in [("v1", COMPONENT.to_vec()), ("v2", variant(b"2"))] {
        fs::create_dir(folder.join(version))?;
        fs::write(folder.join(version).join("acme.wasm"), component)?;
    }
    let current = |version: &str| -> Result<()> {
        symlink(version, folder.join("next"))?;
        Ok(fs::rename(folder.join("next"), folder.join("current"))?)
    };
    current("v1")?;
    symlink("current/acme.wasm", folder.join("acme.wasm"))?;
    fs::rename(folder.join("pepper"), folder.join("v1/pepper"))?;
    symlink("v1/pepper", folder.join("pepper"))?;
    // With the times of the one before, as `cp -p` and Nix leave them.
    let touched = Command::new("touch").args(["-r", "v1/acme.wasm", "v2/acme.wasm"]).current_dir(folder).status()?;
    ensure!(touched.success(), "touch failed");
    tenants.write(
        "gateway.toml",
        "watch = true\ndefaults.key-pepper-file = \"pepper\"
         tenants.acme = { database = \"sqlite:acme.db\", component = \"acme.wasm\" }",
    )?;
    let server = tenants.serve()?;
    assert_eq!(server.create(&key, "{}")?.status, 201);
    let before = digest(&server)?;
    current("v2")?;
    let deadline = Instant::now() + Duration::from_secs(40);
    while digest(&server)? == before {
        ensure!(Instant::now() < deadline, "the other component does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.create(&key, "{}")?.status, 201);
    Ok(())
}

/// Returns the digest of the component that the only tenant runs.
fn digest(server: &Server) -> Result<String> {
    let tenants: serde_json::Value = server.ask_admin("GET", "/tenants", &[])?.json()?;
    Ok(tenants[0]["component"].as_str().context("no component")?.to_owned())
}
