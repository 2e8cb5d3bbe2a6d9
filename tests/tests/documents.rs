//! Documents that make claims about the tree.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{fs, path::Path};

use anyhow::Result;

/// Appends the text of all Rust sources under a folder.
fn read_sources(folder: &Path, text: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read_sources(&path, text)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *text += &fs::read_to_string(path)?;
        }
    }
    Ok(())
}

#[test]
fn each_test_that_the_threat_model_names_exists() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = String::new();
    for folder in ["host/src", "guest/src", "tests/src", "tests/tests"] {
        read_sources(&root.join(folder), &mut sources)?;
    }
    let page = fs::read_to_string(root.join("SECURITY.md"))?;
    let is_name = |word: &&str| {
        let is_snake_case = word.chars().all(|letter| matches!(letter, 'a'..='z' | '0'..='9' | '_'));
        is_snake_case && word.matches('_').count() > 1
    };
    let named: Vec<_> = page.split('`').skip(1).step_by(2).filter(is_name).collect();
    assert!(named.len() > 40, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "SECURITY.md names tests that do not exist: {missing:?}");
    Ok(())
}
