//! Administration: who may use it.

use std::{
    fs,
    net::TcpStream,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
};

use anyhow::{Context as _, Result};
use workspaces_tests::{Server, Tenants};

use super::{PROGRAM, run};

const SECTION: &str = "[tenants.acme]\npath = \"/acme\"\ndatabase = \"sqlite:acme.db\"\n";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Returns the status and the body of an answer to a request with just these lines in its head.
fn ask(mut stream: impl std::io::Read + std::io::Write, request: &str, lines: &[&str]) -> Result<(u16, String)> {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    stream.write_all(format!("{request} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("half an answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

fn admin(server: &Server, request: &str, lines: &[&str]) -> Result<(u16, String)> {
    ask(TcpStream::connect(server.admin()?)?, request, lines)
}

#[test]
fn every_route_refuses_other_hosts_and_other_origins() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    tenants.configure(&format!("admin-hosts = [\"admin.example\"]\n{SECTION}"))?;
    let server = tenants.serve()?;
    let address = server.admin()?;
    let port = address.port();
    let local = format!("Host: localhost:{port}");
    for (lines, allowed) in [
        (&[format!("Host: {address}")][..], true),
        (&[format!("Host: LOCALHOST:{port}")], true),
        (&[format!("Host: [::1]:{port}")], true),
        (&["Host: admin.example".into()], true),
        (&[local.clone(), format!("Origin: http://localhost:{port}")], true),
        // What a name that its owner points here sends, and other pages.
        (&[format!("Host: evil.example:{port}")], false),
        (&["Host: localhost".into()], false),
        (&[format!("Host: 10.0.0.1:{port}")], false),
        (&[], false),
        (&[local.clone(), local.clone()], false),
        (&[local.clone(), "Origin: http://evil.example".into()], false),
        (&[local.clone(), format!("Origin: http://127.0.0.1:{port}")], false),
        (&[local.clone(), "Origin: null".into()], false),
        (&[local.clone(), format!("Origin: http://localhost:{port}"), "Origin: null".into()], false),
    ] {
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        for request in ["GET /tenants", "GET /metrics", "POST /reload", "GET /nothing", "OPTIONS /reload"] {
            let (status, body) = admin(&server, request, &[&lines[..], &["x-workspaces-admin: reload"]].concat())?;
            let is_refusal = status == 403 && body.contains("\"error\":403");
            // Two hosts, or none, may be refused by the server before.
            let is_refused = is_refusal || (status == 400 && lines.len() != 1);
            assert_eq!(is_refused, !allowed, "{request} {lines:?}: {status} {body}");
        }
    }
    // The target has a host of its own.
    let (status, _) = admin(&server, &format!("GET http://evil.example:{port}/tenants"), &[&local])?;
    assert_eq!(status, 403);
    Ok(())
}

#[test]
fn with_a_token_nobody_else_is_answered() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let deployment = tenants.deployment();
    tenants.write("token", format!("{TOKEN}\n"))?;
    tenants.configure(&format!("admin-token-file = \"token\"\n{SECTION}"))?;
    let server = tenants.serve_soon()?;
    let host = format!("Host: {}", server.admin()?);
    for request in ["GET /tenants", "GET /metrics", "POST /reload", "GET /nothing"] {
        for wrong in
            ["x: y", "Authorization: Bearer", "Authorization: Bearer 0123456789abcdef", "Authorization: Basic x"]
        {
            let (status, body) = admin(&server, request, &[&host, wrong, "x-workspaces-admin: reload"])?;
            assert!(status == 401 && body.contains("\"error\":401"), "{request} {wrong}: {status} {body}");
        }
        let right = format!("Authorization: bearer {TOKEN}");
        let (status, body) = admin(&server, request, &[&host, &right, "x-workspaces-admin: reload"])?;
        assert!(status != 401 && status != 403, "{request}: {status} {body}");
    }
    let address = server.admin()?.to_string();
    assert!(!tenants.reload(&server)?.status.success());
    assert!(deployment.run(&["reload", "--admin", &address, "--token-file", "token"])?.contains("unchanged acme"));
    // Tokens that can't be meant.
    for (text, part) in
        [("", "visible characters"), ("short", "visible characters"), ("with a space in the middle", "visible")]
    {
        tenants.write("token", text)?;
        let (code, said) = run(&mut deployment.server(&["--config", "gateway.toml", "--admin", "127.0.0.1:0"]))?;
        assert!(code == Some(1) && said.contains(part) && said.contains("token"), "{text}: {said}");
    }
    Ok(())
}

#[test]
fn a_socket_is_for_this_user_alone_and_replaces_none_that_is_in_use() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let deployment = tenants.deployment();
    let socket = deployment.folder().join("admin.sock");
    tenants.configure(SECTION)?;
    let arguments = ["--config", "gateway.toml", "--admin", "unix:admin.sock"];
    let server = deployment.serve(&arguments)?;
    let found = fs::symlink_metadata(&socket)?;
    assert!(found.file_type().is_socket() && found.permissions().mode() & 0o777 == 0o600, "{found:?}");
    let (status, body) = ask(UnixStream::connect(&socket)?, "GET /tenants", &["Host: localhost"])?;
    assert!(status == 200 && body.contains("acme"), "{status} {body}");
    let origin = ["Host: localhost", "Origin: http://localhost"];
    assert_eq!(ask(UnixStream::connect(&socket)?, "GET /tenants", &origin)?.0, 403);
    assert!(deployment.run(&["reload", "--admin", "unix:admin.sock"])?.contains("unchanged acme"));

    let (code, said) = run(&mut deployment.server(&arguments))?;
    assert!(code == Some(1) && said.contains("another server answers"), "{said}");
    server.kill()?;
    // Left behind by the one that was killed.
    assert!(socket.exists());
    let server = deployment.serve(&arguments)?;
    assert!(deployment.run(&["reload", "--admin", "unix:admin.sock"])?.contains("unchanged acme"));
    server.signal("TERM")?;
    assert_eq!(server.wait()?, 0);
    assert!(!socket.exists(), "the socket is still there");

    fs::write(&socket, "a file of somebody")?;
    let (code, said) = run(&mut deployment.server(&arguments))?;
    assert!(code == Some(1) && said.contains("no socket") && fs::read(&socket)? == b"a file of somebody", "{said}");
    fs::remove_file(&socket)?;
    let listener = UnixListener::bind(&socket)?;
    let (code, _) = run(&mut deployment.server(&arguments))?;
    assert_eq!(code, Some(1));
    drop(listener);
    Ok(())
}

#[test]
fn a_change_that_needs_a_restart_is_said_to_who_asked_for_the_reload() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    tenants.configure(SECTION)?;
    let server = tenants.serve()?;
    tenants.configure(&format!("max-connections = 100\npool.queue = 7\n{SECTION}"))?;
    let address = server.admin()?.to_string();
    let said = tenants.deployment().run(&["reload", "--admin", &address])?;
    assert!(said.contains("restart the server for the change of max-connections, pool"), "{said}");
    // Until it was restarted.
    let output = String::from_utf8(tenants.reload(&server)?.stdout)?;
    assert!(output.contains("\"notice\":\"restart"), "{output}");
    tenants.configure(SECTION)?;
    let output = String::from_utf8(tenants.reload(&server)?.stdout)?;
    assert!(!output.contains("notice"), "{output}");
    Ok(())
}
