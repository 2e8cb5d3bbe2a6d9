//! Certificates and keys of the listener: what is wrong with a file, their dates, and how they are replaced.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use workspaces_tests::{
    Server, Tenants,
    certificate::{EC, certificate, certificate_at},
    clock,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Runs openssl in a folder.
fn openssl(folder: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().context("openssl")?;
    ensure!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Returns whether curl, which trusts this certificate alone, gets an answer.
fn is_shown(address: SocketAddr, trusted: &Path) -> Result<bool> {
    let url = format!("https://{address}/healthz");
    let status =
        Command::new("curl").args(["--silent", "--cacert"]).arg(trusted).arg(url).stdout(Stdio::null()).status()?;
    match status.code() {
        Some(0) => Ok(true),
        // Not trusted.
        Some(60) => Ok(false),
        other => Err(anyhow::anyhow!("curl ends with {other:?}")),
    }
}

/// A tenant whose server takes its certificate from `shown.crt` and `shown.key`, by its configuration file.
struct Scene {
    tenants: Tenants,
    folder: PathBuf,
}

impl Scene {
    fn new(top: &str) -> Result<Self> {
        let tenants = Tenants::new(PROGRAM)?;
        tenants.configure(&format!(
            "tls = {{ certificate = \"shown.crt\", key = \"shown.key\" }}\n{top}\ntenants.acme.database = \"sqlite::memory:\"\n"
        ))?;
        let folder = tenants.deployment().folder().to_owned();
        Ok(Self { tenants, folder })
    }

    /// Starts the server with its administration and its log in the file `log`.
    fn serve(&self) -> Result<Server> {
        let log = fs::File::create(self.folder.join("log"))?;
        let arguments = ["--config", "gateway.toml", "--admin", "127.0.0.1:0"];
        Server::start(self.tenants.deployment().server(&arguments).stderr(log))
    }

    /// Returns whether a line of the log has these parts.
    fn logged(&self, parts: &[&str]) -> Result<bool> {
        let log = fs::read_to_string(self.folder.join("log"))?;
        Ok(log.lines().any(|line| parts.iter().all(|part| line.contains(part))))
    }

    /// Copies a certificate and a key to where the configuration has them.
    fn show(&self, certificate: &str, key: &str) -> Result<()> {
        for (from, to) in [(certificate, "shown.crt"), (key, "shown.key")] {
            let _ = fs::remove_file(self.folder.join(to));
            match from {
                "missing" => {}
                from => {
                    fs::copy(self.folder.join(from), self.folder.join("next"))?;
                    fs::rename(self.folder.join("next"), self.folder.join(to))?;
                }
            }
        }
        Ok(())
    }

    /// Runs the server, which has to end by itself.
    fn fails(&self) -> Result<Output> {
        self.tenants.deployment().output(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--config",
            "gateway.toml",
            "--log",
            "warn",
        ])
    }
}

/// Writes one file of each kind that is wrong, and returns certificate, key and what the message says.
fn wrong_files(folder: &Path) -> Result<Vec<(&'static str, &'static str, &'static str)>> {
    certificate(folder, "a", &EC)?;
    certificate(folder, "b", &["rsa:2048"])?;
    certificate(folder, "short", &["rsa:1024"])?;
    certificate(folder, "k1", &["ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"])?;
    certificate(folder, "ed448", &["ed448"])?;
    for (out, arguments) in [
        ("pkcs8.key", &["pkey", "-aes256", "-passout", "pass:x", "-in", "a.key"][..]),
        ("legacy.key", &["ec", "-aes256", "-passout", "pass:x", "-in", "a.key"]),
        ("der.crt", &["x509", "-outform", "DER", "-in", "a.crt"]),
        ("der.key", &["pkey", "-outform", "DER", "-in", "a.key"]),
        ("a.p12", &["pkcs12", "-export", "-passout", "pass:x", "-in", "a.crt", "-inkey", "a.key"]),
        ("a.pub", &["pkey", "-pubout", "-in", "a.key"]),
    ] {
        openssl(folder, &[arguments, &["-out", out]].concat())?;
    }
    openssl(folder, &["dsaparam", "-genkey", "-out", "dsa.new", "1024"])?;
    openssl(folder, &["dsa", "-in", "dsa.new", "-out", "dsa.key"])?;
    let pem = fs::read_to_string(folder.join("a.crt"))?;
    fs::write(folder.join("half.crt"), &pem[..pem.len() / 2])?;
    let pem = fs::read_to_string(folder.join("a.key"))?;
    fs::write(folder.join("half.key"), &pem[..pem.len() / 2])?;
    fs::write(folder.join("end.key"), &pem[pem.len() / 2..])?;
    fs::write(folder.join("letters.key"), pem.replacen('M', "!", 1))?;
    fs::write(folder.join("empty"), "\n")?;
    fs::write(folder.join("text"), "the certificate is in the mail\n")?;
    fs::write(folder.join("odd.crt"), "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")?;
    fs::write(folder.join("odd.key"), "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n")?;
    fs::write(
        folder.join("ssh.key"),
        "-----BEGIN OPENSSH PRIVATE KEY-----\nMIIB\n-----END OPENSSH PRIVATE KEY-----\n",
    )?;
    Ok(vec![
        ("missing", "a.key", "can't read shown.crt: No such file"),
        ("a.crt", "missing", "can't read shown.key: No such file"),
        ("empty", "a.key", "shown.crt is empty"),
        ("a.crt", "empty", "shown.key is empty"),
        ("text", "a.key", "there is no certificate in shown.crt, which has no section of PEM"),
        ("a.crt", "text", "there is no private key in shown.key, which has no section of PEM"),
        ("a.key", "a.key", "there is no certificate in shown.crt, which has PRIVATE KEY"),
        ("a.crt", "a.crt", "there is no private key in shown.key, which has CERTIFICATE"),
        ("a.crt", "a.pub", "there is no private key in shown.key, which has PUBLIC KEY"),
        ("a.key", "a.crt", "the private key is in shown.crt and the certificate in shown.key: swap the two"),
        ("half.crt", "a.key", "shown.crt is broken: a section has no end: is it half a file?"),
        ("a.crt", "half.key", "shown.key is broken: a section has no end: is it half a file?"),
        ("a.crt", "end.key", "there is no private key in shown.key"),
        ("a.crt", "letters.key", "shown.key is broken: a section is not base64"),
        ("odd.crt", "a.key", "the certificate in shown.crt can't be used"),
        ("a.crt", "odd.key", "the private key in shown.key is not supported"),
        ("a.crt", "b.key", "the key in shown.key is not that of the certificate in shown.crt"),
        ("a.crt", "pkcs8.key", "the private key in shown.key is encrypted: write it without its password"),
        ("a.crt", "legacy.key", "the private key in shown.key is encrypted: write it without its password"),
        ("der.crt", "a.key", "shown.crt is binary and has to be PEM: convert DER with `openssl x509"),
        ("a.crt", "der.key", "shown.key is binary and has to be PEM"),
        ("a.p12", "a.key", "shown.crt is binary and has to be PEM"),
        ("short.crt", "short.key", "the private key in shown.key is not supported: use RSA of 2048"),
        ("k1.crt", "k1.key", "the private key in shown.key is not supported: use RSA of 2048"),
        ("ed448.crt", "ed448.key", "the private key in shown.key is not supported: use RSA of 2048"),
        ("a.crt", "dsa.key", "the private key in shown.key is not supported: use RSA of 2048"),
        ("a.crt", "ssh.key", "the private key in shown.key is not supported: use RSA of 2048"),
    ])
}

#[test]
fn each_wrong_file_is_named_in_one_line_at_the_start() -> Result<()> {
    let scene = Scene::new("")?;
    for (certificate, key, part) in wrong_files(&scene.folder)? {
        scene.show(certificate, key)?;
        let output = scene.fails()?;
        let message = String::from_utf8(output.stderr)?;
        let errors: Vec<_> = message.lines().filter(|line| !line.contains("every user of the system")).collect();
        assert_eq!(output.status.code(), Some(1), "{certificate} {key}: {message}");
        assert!(matches!(errors.as_slice(), [line] if line.contains(part)), "{certificate} {key}: {errors:?}");
    }
    Ok(())
}

#[test]
fn a_certificate_in_the_file_is_served_and_a_wrong_one_at_a_reload_leaves_it() -> Result<()> {
    let scene = Scene::new("")?;
    let wrong = wrong_files(&scene.folder)?;
    let (old, _) = certificate(&scene.folder, "old", &EC)?;
    let (new, _) = certificate(&scene.folder, "new", &EC)?;
    scene.show("old.crt", "old.key")?;
    let server = scene.serve()?;
    assert_eq!((is_shown(server.address(), &old)?, is_shown(server.address(), &new)?), (true, false));
    for (certificate, key, part) in wrong {
        scene.show(certificate, key)?;
        let output = scene.tenants.reload(&server)?;
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert_eq!(output.status.code(), Some(1), "{certificate} {key}: {said}");
        assert!(said.contains("the certificate stays as it was") && said.contains(part), "{certificate} {key}: {said}");
        assert!(is_shown(server.address(), &old)?, "{certificate} {key}");
        assert!(scene.logged(&["ERROR", "the previous one stays", part])?, "{certificate} {key}");
    }
    scene.show("new.crt", "new.key")?;
    assert!(scene.tenants.reload(&server)?.status.success());
    assert_eq!((is_shown(server.address(), &old)?, is_shown(server.address(), &new)?), (false, true));
    Ok(())
}

#[test]
fn options_come_before_the_certificate_in_the_file() -> Result<()> {
    let scene = Scene::new("")?;
    let (of_file, _) = certificate(&scene.folder, "file", &EC)?;
    let (of_options, _) = certificate(&scene.folder, "options", &EC)?;
    scene.show("file.crt", "file.key")?;
    let arguments = ["--config", "gateway.toml", "--tls-certificate", "options.crt", "--tls-key", "options.key"];
    let server = scene.tenants.deployment().serve(&arguments)?;
    assert_eq!((is_shown(server.address(), &of_options)?, is_shown(server.address(), &of_file)?), (true, false));
    drop(server);
    for half in ["--tls-certificate", "--tls-key"] {
        let output = scene.tenants.deployment().output(&["serve", half, "options.crt"])?;
        let message = String::from_utf8(output.stderr)?;
        assert_eq!((output.status.code(), message.contains("--tls-")), (Some(2), true), "{half}: {message}");
    }
    Ok(())
}

/// Years that the dates of the certificates below are moved by.
const AWAY: [(&str, &str, &str); 2] = [
    ("expired", "-1000d", "has expired: it was valid until 2"),
    ("early", "+1000d", "is not valid yet: it will be from 2"),
];

#[test]
fn a_certificate_out_of_its_dates_is_a_warning_at_the_start() -> Result<()> {
    if !clock::available()? {
        return Ok(());
    }
    for (name, offset, part) in AWAY {
        let scene = Scene::new("")?;
        certificate_at(offset, &scene.folder, name)?;
        scene.show(&format!("{name}.crt"), &format!("{name}.key"))?;
        let server = scene.serve()?;
        // curl refuses it for its date, which it has from the handshake.
        assert!(!is_shown(server.address(), &scene.folder.join(format!("{name}.crt")))?);
        assert!(scene.logged(&["WARN", part, "shown.crt"])?, "{name}");
    }
    Ok(())
}

#[test]
fn a_certificate_out_of_its_dates_at_a_reload_leaves_the_valid_one() -> Result<()> {
    if !clock::available()? {
        return Ok(());
    }
    let scene = Scene::new("")?;
    let (valid, _) = certificate(&scene.folder, "valid", &EC)?;
    scene.show("valid.crt", "valid.key")?;
    let server = scene.serve()?;
    for (name, offset, part) in AWAY {
        certificate_at(offset, &scene.folder, name)?;
        scene.show(&format!("{name}.crt"), &format!("{name}.key"))?;
        let output = scene.tenants.reload(&server)?;
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("the certificate stays as it was") && said.contains(part), "{said}");
        assert!(is_shown(server.address(), &valid)?, "{name}");
        assert!(scene.logged(&["ERROR", "the previous one stays", part])?, "{name}");
    }
    Ok(())
}

#[test]
fn watched_certificates_are_replaced_by_rename_by_link_and_with_the_times_of_the_old() -> Result<()> {
    let scene = Scene::new("watch = true")?;
    let folder = &scene.folder;
    let mut certificates = Vec::new();
    for name in ["one", "two", "three", "four"] {
        certificates.push(certificate(folder, name, &EC)?.0);
        fs::create_dir(folder.join(format!("{name}.d")))?;
        for kind in ["crt", "key"] {
            fs::copy(folder.join(format!("{name}.{kind}")), folder.join(format!("{name}.d/shown.{kind}")))?;
        }
    }
    scene.show("one.crt", "one.key")?;
    let server = scene.serve()?;
    let wait_for = |certificate: &Path| -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(40);
        while !is_shown(server.address(), certificate)? {
            ensure!(Instant::now() < deadline, "{} does not come", certificate.display());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    wait_for(&certificates[0])?;
    scene.show("two.crt", "two.key")?;
    wait_for(&certificates[1])?;
    // With the times of the one before, as `cp -p` leaves them.
    for kind in ["crt", "key"] {
        let (old, new) = (format!("shown.{kind}"), format!("three.d/shown.{kind}"));
        let touched = Command::new("touch").args(["-r", &old, &new]).current_dir(folder).status()?;
        ensure!(touched.success(), "touch failed");
        fs::rename(folder.join(new), folder.join(old))?;
    }
    wait_for(&certificates[2])?;
    // As Kubernetes mounts a Secret: links into a folder that is itself a link.
    symlink("four.d", folder.join("current"))?;
    for kind in ["crt", "key"] {
        symlink(format!("current/shown.{kind}"), folder.join("link"))?;
        fs::rename(folder.join("link"), folder.join(format!("shown.{kind}")))?;
    }
    wait_for(&certificates[3])?;
    symlink("one.d", folder.join("next"))?;
    fs::rename(folder.join("next"), folder.join("current"))?;
    wait_for(&certificates[0])?;
    Ok(())
}

#[test]
fn a_watched_certificate_is_shown_as_soon_as_it_is_valid() -> Result<()> {
    if !clock::available()? {
        return Ok(());
    }
    let scene = Scene::new("watch = true")?;
    let valid = certificate(&scene.folder, "valid", &EC)?.0;
    scene.show("valid.crt", "valid.key")?;
    let server = scene.serve()?;
    let early = certificate_at("+15s", &scene.folder, "early")?.0;
    scene.show("early.crt", "early.key")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !scene.logged(&["is not valid yet"])? {
        ensure!(Instant::now() < deadline, "the certificate was not looked at");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(is_shown(server.address(), &valid)?);
    while !is_shown(server.address(), &early)? {
        ensure!(Instant::now() < deadline, "the certificate does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
