use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{harness::shape::WIT, terminal};

/// Make a project of a component that builds and keeps the contract
#[derive(Args)]
#[command(after_help = "\
From nothing to a component that is served:
  workspaces new my-component --language rust
  sh my-component/verify.sh
  workspaces serve --demo --component my-component/component.wasm")]
pub(super) struct New {
    /// Folder to make
    folder: PathBuf,
    /// Language of the component
    #[arg(long, value_name = "LANGUAGE", default_value = "rust")]
    language: Language,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Language {
    Rust,
    C,
    #[value(name = "javascript")]
    JavaScript,
    Python,
}

/// File of a project: its path and its text.
type File = (&'static str, &'static str);

/// Files of each project.
const COMMON: [File; 4] = [
    ("README.md", include_str!("../../templates/README.md")),
    ("verify.sh", include_str!("../../templates/verify.sh")),
    (".gitignore", include_str!("../../templates/gitignore")),
    (".github/workflows/verify.yml", include_str!("../../templates/verify.yml")),
];

const RUST: [File; 7] = [
    ("Cargo.toml", include_str!("../../templates/rust/Cargo.toml")),
    ("build.sh", include_str!("../../templates/rust/build.sh")),
    ("build.rs", include_str!("../../templates/rust/build.rs")),
    ("src/lib.rs", include_str!("../../templates/rust/src/lib.rs")),
    ("kit/Cargo.toml", include_str!("../../templates/rust/kit.toml")),
    ("kit/src/lib.rs", include_str!("../../templates/rust/kit/lib.rs")),
    ("kit/src/arena.rs", include_str!("../../templates/rust/kit/arena.rs")),
];

const C: [File; 3] = [
    ("build.sh", include_str!("../../templates/c/build.sh")),
    ("component.c", include_str!("../../templates/c/component.c")),
    ("contract.h", include_str!("../../templates/c/contract.h")),
];

const JAVASCRIPT: [File; 4] = [
    ("package.json", include_str!("../../templates/javascript/package.json")),
    ("build.sh", include_str!("../../templates/javascript/build.sh")),
    ("component.js", include_str!("../../templates/javascript/component.js")),
    ("limits.toml", include_str!("../../templates/javascript/limits.toml")),
];

const PYTHON: [File; 4] = [
    ("requirements.txt", include_str!("../../templates/python/requirements.txt")),
    ("build.sh", include_str!("../../templates/python/build.sh")),
    ("component.py", include_str!("../../templates/python/component.py")),
    ("limits.toml", include_str!("../../templates/python/limits.toml")),
];

impl New {
    pub(super) fn run(self, json: bool) -> Result<()> {
        let Self { folder, language } = self;
        let shown = folder.display();
        if fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("{shown} is not empty: give a folder that is not there yet");
        }
        let own: &[File] = match language {
            Language::Rust => &RUST,
            Language::C => &C,
            Language::JavaScript => &JAVASCRIPT,
            Language::Python => &PYTHON,
        };
        let contract = WIT.map(|(name, text)| (format!("wit/{name}"), text));
        let contract = contract.iter().map(|(path, text)| (path.as_str(), *text));
        for (path, text) in COMMON.iter().chain(own).copied().chain(contract) {
            write(&folder.join(path), text)?;
        }
        #[derive(Serialize)]
        struct Project<'a> {
            folder: &'a Path,
        }
        match json {
            true => terminal::print_json(&Project { folder: &folder }),
            false => terminal::print(format_args!("{shown} is made: `sh {shown}/verify.sh` builds and judges it")),
        }
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    fs::write(file, text).with_context(|| format!("can't write {}", file.display()))
}
