//! Documents that make claims about the tree and about the program.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use workspaces_tests::{Deployment, Server, Tenants};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the pages: their paths from the root, and their text.
fn pages() -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for folder in ["", "docs"] {
        for entry in fs::read_dir(root().join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path)?;
                found.push((Path::new(folder).join(path.file_name().context("no name")?), text));
            }
        }
    }
    ensure!(found.len() > 9, "{found:?}");
    Ok(found)
}

fn page(name: &str) -> Result<String> {
    fs::read_to_string(root().join(name)).context(name.to_owned())
}

/// Appends the paths and the text of all Rust sources under a folder.
fn read_sources(folder: &Path, paths: &mut Vec<String>, text: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read_sources(&path, paths, text)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *text += &fs::read_to_string(&path)?;
            paths.push(path.display().to_string());
        }
    }
    Ok(())
}

/// Returns the texts between backticks, outside of blocks of code.
fn quoted(page: &str) -> Vec<&str> {
    let outside = page.split("\n```").step_by(2);
    outside.flat_map(|part| part.lines()).flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn each_test_and_each_source_file_that_a_page_names_exists() -> Result<()> {
    let (mut paths, mut sources) = (Vec::new(), String::new());
    for folder in ["host", "guest", "tests"] {
        read_sources(&root().join(folder), &mut paths, &mut sources)?;
    }
    let is_snake_case = |word: &str| {
        let is_plain = word.chars().all(|letter| matches!(letter, 'a'..='z' | '0'..='9' | '_'));
        is_plain && word.matches('_').count() > 2
    };
    let (mut tests, mut files) = (0, 0);
    for (name, text) in pages()?.iter().filter(|(name, _)| !name.ends_with("CHANGELOG.md")) {
        for word in quoted(text) {
            let is_other = ["workspaces_", "process_", "idle_in_transaction_session_timeout"];
            if is_snake_case(word) && !is_other.iter().any(|start| word.starts_with(start)) {
                let exists = sources.contains(&format!("fn {word}(")) || sources.contains(&format!("{word}\""));
                assert!(exists, "{} names {word}, which does not exist", name.display());
                tests += 1;
            }
            if word.ends_with(".rs") && !word.contains([' ', '*']) {
                let exists = paths.iter().any(|path| path.ends_with(&format!("/{word}")));
                assert!(exists, "{} names {word}, which does not exist", name.display());
                files += 1;
            }
        }
    }
    assert!(tests > 40 && files > 20, "{tests} tests and {files} files are named");
    Ok(())
}

/// Returns the anchor that a heading has on a page.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect::<String>().to_lowercase()
}

#[test]
fn each_link_leads_to_a_file_and_a_heading() -> Result<()> {
    let mut links = 0;
    for (name, text) in pages()? {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") {
                continue;
            }
            links += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => name.clone(),
                file => name.parent().unwrap_or(Path::new("")).join(file),
            };
            assert!(root().join(&path).exists(), "{}: {target}", name.display());
            if !heading.is_empty() {
                let text = page(&path.display().to_string())?;
                let headings = text
                    .lines()
                    .filter_map(|line| line.strip_prefix('#'))
                    .map(|line| line.trim_start_matches('#').trim());
                assert!(headings.into_iter().any(|known| anchor(known) == heading), "{}: {target}", name.display());
            }
        }
    }
    assert!(links > 20, "{links}");
    Ok(())
}

#[test]
fn the_readme_has_under_a_thousand_words() -> Result<()> {
    let words = page("README.md")?.split_whitespace().count();
    assert!((300..1000).contains(&words), "{words}");
    Ok(())
}

/// Returns the help of a command.
fn help(command: &[&str]) -> Result<String> {
    Ok(String::from_utf8(Command::new(PROGRAM).args(command).arg("--help").output()?.stdout)?)
}

#[test]
fn each_option_and_variable_of_serve_is_in_the_configuration_page_and_no_other() -> Result<()> {
    let help = help(&["serve"])?;
    let page = page("docs/configuration.md")?;
    let named = |text: &str, start: &str| -> BTreeSet<String> {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        let words = text.split(|letter: char| !is_part(letter));
        words.filter(|word| word.starts_with(start) && word.len() > start.len() + 1).map(str::to_owned).collect()
    };
    let mut options = named(&help, "--");
    options.remove("--help");
    assert!(options.len() > 24, "{options:?}");
    let mut described = named(&page, "--");
    // Options of `config check`, and of builds with a feature.
    for other in ["--offline", "--features", "--otlp-endpoint"] {
        assert!(described.remove(other), "{other}");
    }
    assert_eq!(described, options);
    let mut variables = named(&help, "WORKSPACES_");
    assert!(variables.len() > 12, "{variables:?}");
    let described = named(&page, "WORKSPACES_");
    variables.retain(|variable| !described.contains(variable));
    assert!(variables.is_empty(), "not described: {variables:?}");
    Ok(())
}

/// Returns the keys that a section of a configuration can have, from what is said of one that it can't have.
fn keys(tenants: &Tenants, before: &str) -> Result<Vec<String>> {
    let output = {
        tenants.write("gateway.toml", format!("{before}zzzzzzzz = 1\n"))?;
        tenants.deployment().output(&["config", "check", "gateway.toml"])?
    };
    let said = String::from_utf8(output.stderr)?;
    let known = said.split("unknown key zzzzzzzz: expected ").nth(1).with_context(|| said.clone())?;
    Ok(known.lines().next().unwrap_or_default().split(", ").map(str::to_owned).collect())
}

#[test]
fn each_key_of_a_configuration_is_in_its_page_and_no_other() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let page = page("docs/configuration.md")?;
    let tables = page.split("## The file").nth(1).context("no such section")?;
    let rows = tables.lines().filter(|line| line.starts_with("| `"));
    let described: BTreeSet<_> =
        rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let mut all = BTreeSet::new();
    for (section, before) in [
        ("", ""),
        ("tls.", "[tls]\n"),
        ("", "[pool]\n"),
        ("", "[compile]\n"),
        ("", "[tenants.acme]\n"),
        ("jwt.", "[tenants.acme.jwt]\n"),
        ("record.", "[tenants.acme.record]\n"),
        ("", "[tenants.acme.limits]\n"),
    ] {
        let found = keys(&tenants, before)?;
        // Sections are described by the keys in them.
        all.extend(
            found
                .iter()
                .filter(|key| !["tls", "pool", "compile", "jwt", "record", "limits"].contains(&key.as_str()))
                .map(|key| format!("{section}{key}")),
        );
    }
    all.insert("tenants".into());
    assert!(all.len() > 40, "{all:?}");
    let all: BTreeSet<_> = all.iter().map(String::as_str).collect();
    assert_eq!(described, all);
    // The example is a configuration.
    let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).context("no example")?;
    tenants.write("gateway.toml", example)?;
    let said =
        String::from_utf8(tenants.deployment().output(&["config", "check", "gateway.toml", "--offline"])?.stderr)?;
    let wrong: Vec<_> = said.lines().filter(|line| line.contains("unknown") || line.contains("expected")).collect();
    assert!(wrong.is_empty() && said.contains("acme.wasm"), "{said}");
    Ok(())
}

#[test]
fn each_metric_is_in_the_operations_page_and_no_other() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    tenants.configure("tenants.acme = { database = \"sqlite:acme.db\" }")?;
    let server = tenants.serve()?;
    assert_eq!(server.create(&key, "{}")?.status, 201);
    let scrape = String::from_utf8(server.ask_admin("GET", "/metrics", &[])?.body)?;
    let mut metrics = BTreeSet::new();
    for line in scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').context(line.to_owned())?;
        metrics.insert(match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        });
    }
    // It has a series from the first fault on.
    metrics.insert("workspaces_faults_total".into());
    assert!(metrics.len() > 15, "{metrics:?}");
    let page = page("docs/operations.md")?;
    let is_metric = |word: &&str| word.starts_with("workspaces_") || word.starts_with("process_");
    let described: BTreeSet<_> = quoted(&page).into_iter().filter(is_metric).map(str::to_owned).collect();
    assert_eq!(described, metrics);
    let queries = page.split("```promql\n").nth(1).and_then(|rest| rest.split("```").next()).context("no queries")?;
    assert_eq!(queries.lines().count(), 10);
    for word in queries.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').filter(is_metric) {
        assert!(metrics.contains(word.trim_end_matches("_bucket")), "{word}");
    }
    Ok(())
}

/// Returns the blocks of a language on a page.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("```{language}\n");
    page.split(start.as_str()).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[test]
fn each_block_for_a_shell_can_be_pasted() -> Result<()> {
    let mut found = 0;
    for (name, text) in pages()? {
        for block in blocks(&text, "sh") {
            let parsed = Command::new("bash").args(["-n", "-c", block]).output()?;
            assert!(parsed.status.success(), "{}: {block}: {parsed:?}", name.display());
            found += 1;
        }
    }
    assert!(found > 6, "{found}");
    Ok(())
}

#[test]
fn the_setup_of_the_operations_page_works_as_it_stands() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let folder = deployment.folder();
    fs::create_dir(folder.join("bin"))?;
    symlink(PROGRAM, folder.join("bin/workspaces"))?;
    let page = page("docs/operations.md")?;
    let block = *blocks(&page, "sh").first().context("no block")?;
    let (set_up, serve) = block.rsplit_once('\n').context("one line")?;
    assert!(serve.starts_with("workspaces serve "), "{serve}");
    // Installing takes the time of a release build; the program is there.
    let set_up: Vec<_> = set_up.lines().filter(|line| !line.starts_with("cargo install ")).collect();
    let script = format!("set -e\n{}\necho pepper=$WORKSPACES_KEY_PEPPER", set_up.join("\n"));
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH")?);
    let output = Command::new("bash").args(["-c", &script]).current_dir(folder).env("PATH", path).output()?;
    let printed = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{printed} {}", String::from_utf8_lossy(&output.stderr));
    let key = printed.lines().find(|line| line.starts_with("recoup_sk_")).context("no key")?;
    let pepper = printed.lines().find_map(|line| line.strip_prefix("pepper=")).context("no pepper")?;
    let mut command = Command::new(folder.join("bin/workspaces"));
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("WORKSPACES_KEY_PEPPER", pepper).current_dir(folder);
    let server = Server::start(&mut command)?;
    assert_eq!(server.create(key, "{}")?.status, 201);
    Ok(())
}
