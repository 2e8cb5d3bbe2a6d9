//! Files that are no component: each is named in one line, whoever is given it.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use workspaces_host::COMPONENT;
use workspaces_tests::{Tenants, variant};

use super::{PROGRAM, run};

/// Writes one file of each kind, and returns its name and what is said of it.
fn wrong_files(tenants: &Tenants) -> Result<Vec<(&'static str, &'static str)>> {
    tenants.write("good.wasm", COMPONENT)?;
    let folder = tenants.deployment().folder();
    let gzip = Command::new("gzip").args(["--to-stdout", "good.wasm"]).current_dir(folder).output();
    let gzip = gzip.context("these tests need gzip")?;
    ensure!(gzip.status.success(), "gzip failed");
    for (name, content) in [
        ("empty.wasm", Vec::new()),
        ("text.wasm", b"the component is in the mail\n".to_vec()),
        ("wat.wasm", b"(component (core module))\n".to_vec()),
        ("utf8.wasm", "die Komponente w\u{e4}re hier\n".into()),
        ("gzip.wasm", gzip.stdout),
        ("zstd.wasm", [&[0x28, 0xb5, 0x2f, 0xfd][..], &[7; 50]].concat()),
        ("zip.wasm", [&b"PK\x03\x04"[..], &[7; 50]].concat()),
        ("program.wasm", fs::read("/bin/true")?),
        ("core.wasm", wat::parse_str("(module (func (export \"run\")))")?),
        ("magic.wasm", COMPONENT[..4].to_vec()),
        ("half.wasm", COMPONENT[..COMPONENT.len() / 2].to_vec()),
        ("byte.wasm", COMPONENT[..COMPONENT.len() - 1].to_vec()),
        ("later.wasm", [&b"\0asm\x77\0\x01\0"[..], &COMPONENT[8..]].concat()),
        ("noise.wasm", (0..200).map(|byte: u8| byte ^ 0xa5).collect()),
        ("other.wasm", wat::parse_str("(component)")?),
    ] {
        tenants.write(name, content)?;
    }
    tenants.deployment().run(&["compile", "good.wasm", "--output", "compiled.wasm"])?;
    Ok(vec![
        ("missing.wasm", "can't read the component missing.wasm: No such file"),
        (".", "it is a folder: give a regular file"),
        ("empty.wasm", "the file is empty"),
        ("text.wasm", "it is text: give the binary form"),
        ("wat.wasm", "it is text: give the binary form"),
        ("utf8.wasm", "it is text: give the binary form"),
        ("gzip.wasm", "it is compressed with gzip: unpack it"),
        ("zstd.wasm", "it is compressed with zstd: unpack it"),
        ("zip.wasm", "it is a zip archive: unpack it"),
        ("program.wasm", "it is machine code"),
        ("compiled.wasm", "it is machine code"),
        ("core.wasm", "it is a core module: build it for wasm32-wasip2"),
        ("magic.wasm", "the file is cut off"),
        ("half.wasm", "the file is cut off"),
        ("byte.wasm", "the file is cut off"),
        ("later.wasm", "its version of the binary format is not known here"),
        ("noise.wasm", "it is no WebAssembly"),
        ("other.wasm", "not a component of the world recoup:workspaces/plugin@1.0.0"),
    ])
}

#[test]
fn each_file_that_is_no_component_is_named_in_one_line_at_the_start() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    for (file, part) in wrong_files(&tenants)? {
        let mut serve = tenants.deployment().server(&["--database", "sqlite::memory:", "--component", file]);
        let (code, said) = run(&mut serve)?;
        let errors: Vec<_> = said.lines().collect();
        assert_eq!(code, Some(1), "{file}: {said}");
        assert!(errors.len() == 1 || file == "other.wasm", "{file}: {said}");
        assert!(said.contains(part) && said.contains(file), "{file}: {said}");
        if file != "." && file != "other.wasm" {
            let (code, said) = run(&mut tenants.deployment().command(&["compile", file, "--output", "compiled.out"]))?;
            let part = part.trim_start_matches("can't read the component ");
            assert!(code == Some(1) && said.contains(part) && said.lines().count() == 1, "compile {file}: {said}");
        }
    }
    Ok(())
}

#[test]
fn a_file_that_is_no_component_at_a_reload_leaves_the_one_before() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    let wrong = wrong_files(&tenants)?;
    tenants.write("acme.wasm", variant(b"before"))?;
    tenants.configure("tenants.acme = { database = \"sqlite:acme.db\", component = \"acme.wasm\" }")?;
    let server = tenants.serve()?;
    let folder = tenants.deployment().folder();
    for (file, part) in wrong.into_iter().filter(|(file, _)| *file != ".") {
        match fs::read(folder.join(file)) {
            Ok(content) => tenants.write("acme.wasm", content)?,
            Err(_) => fs::remove_file(folder.join("acme.wasm"))?,
        }
        let output = tenants.reload(&server)?;
        let said = String::from_utf8([output.stdout, output.stderr].concat())?;
        let part = part.replace(file, "acme.wasm");
        assert!(output.status.code() == Some(1) && said.contains(&part), "{file}: {said}");
        assert_eq!(server.create(&key, "{}")?.status, 201, "{file}");
    }
    Ok(())
}
