//! The invariants of docs/architecture.md, each as what the sources do not name.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use syn::{
    Attribute, Item, ItemUse, UseTree,
    visit::{self, Visit},
};

/// Rooms of the host, from top to bottom: each imports only what is below it.
const ROOMS: [&str; 11] =
    ["cli", "server", "http", "tenants", "operation", "harness", "runtime", "error", "storage", "auth", "model"];

/// Modules that every room may import, and that import no room.
const TOOLS: [&str; 9] =
    ["fuzz", "metrics", "certificate", "tls_client", "private", "files", "terminal", "excerpt", "hex"];

/// Source file of the host, with what it names.
struct Source {
    path: PathBuf,
    /// Module path from the crate's root: `["http", "json"]`.
    module: Vec<String>,
    /// Absolute paths that it names, a segment each, `crate` left out: `["storage", "Created"]`.
    inner: BTreeSet<Vec<String>>,
    /// First segments of its other paths: crates, and names that are in scope.
    outer: BTreeSet<String>,
}

/// Collector of the paths in a file, tests left out.
#[derive(Default)]
struct Paths {
    found: Vec<Vec<String>>,
}

impl Paths {
    fn add_tree(&mut self, tree: &UseTree, prefix: &[String]) {
        let with = |name: String| prefix.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.add_tree(&path.tree, &with(path.ident.to_string())),
            UseTree::Name(name) => self.found.push(with(name.ident.to_string())),
            UseTree::Rename(name) => self.found.push(with(name.ident.to_string())),
            UseTree::Glob(_) => self.found.push(prefix.to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(tree, prefix)),
        }
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string().contains("test"))
    })
}

impl<'a> Visit<'a> for Paths {
    fn visit_item(&mut self, item: &'a Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        self.add_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        self.found.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the Rust files under a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            false => {}
        }
    }
    Ok(found)
}

/// Reads the host's sources; the two roots, lib.rs and main.rs, belong to no room.
fn sources() -> Result<Vec<Source>> {
    let folder = root().join("host/src");
    let mut sources = Vec::new();
    for path in files(&folder)? {
        let relative = path.strip_prefix(&folder)?.with_extension("");
        let mut module: Vec<_> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let is_root_of_folder = module.last().is_some_and(|last| last == "mod");
        if is_root_of_folder {
            module.pop();
        }
        if module == ["lib"] || module == ["main"] {
            continue;
        }
        let mut paths = Paths::default();
        let text = fs::read_to_string(&path)?;
        paths.visit_file(&syn::parse_file(&text).with_context(|| path.display().to_string())?);
        let (mut inner, mut outer) = (BTreeSet::new(), BTreeSet::new());
        for found in paths.found {
            let ups = found.iter().take_while(|part| *part == "super").count();
            match found.first().map(String::as_str) {
                Some("crate") => drop(inner.insert(found[1..].to_vec())),
                Some("self") => {}
                // A module within a file is one level more than its file, which keeps this an upper bound.
                Some("super") if ups < module.len() => {
                    inner.insert([&module[..module.len() - ups], &found[ups..]].concat());
                }
                Some("super") | None => {}
                Some(first) => drop(outer.insert(first.to_owned())),
            }
        }
        sources.push(Source { path, module, inner, outer });
    }
    ensure!(sources.len() > 80, "only {} sources were found", sources.len());
    Ok(sources)
}

/// Returns the room of each name that the crate's root exports again.
fn exports() -> Result<BTreeMap<String, String>> {
    let file = syn::parse_file(&fs::read_to_string(root().join("host/src/lib.rs"))?)?;
    let mut paths = Paths::default();
    for item in &file.items {
        if let Item::Use(item) = item {
            paths.add_tree(&item.tree, &[]);
        }
    }
    let names = paths.found.into_iter().filter_map(|path| Some((path.last()?.clone(), path.first()?.clone())));
    Ok(names.filter(|(_, room)| ROOMS.contains(&room.as_str())).collect())
}

#[test]
fn rooms_import_only_what_is_below_them_and_tools_import_no_room() -> Result<()> {
    let (sources, exports) = (sources()?, exports()?);
    let mut wrong = Vec::new();
    let mut crossed = BTreeSet::new();
    for Source { path, module, inner, .. } in &sources {
        let own = module[0].as_str();
        let floor = ROOMS.iter().position(|room| *room == own);
        assert!(floor.is_some() || TOOLS.contains(&own), "{} is in no room: add it to ROOMS or TOOLS", path.display());
        for target in inner.iter().filter_map(|path| path.first()) {
            let target = exports.get(target).unwrap_or(target).as_str();
            let Some(below) = ROOMS.iter().position(|room| *room == target) else { continue };
            if own == target {
                continue;
            }
            crossed.insert((own.to_owned(), target.to_owned()));
            if floor.is_none_or(|floor| floor > below) {
                wrong.push(format!("{} imports {target}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for expected in [("cli", "server"), ("http", "operation"), ("operation", "runtime"), ("storage", "auth")] {
        assert!(crossed.contains(&(expected.0.into(), expected.1.into())), "{expected:?} is not seen: {crossed:?}");
    }
    Ok(())
}

/// Returns the files in which one of these crates or modules is named, as `room/file`.
fn naming(sources: &[Source], names: &[&str]) -> BTreeSet<String> {
    let names_one = |source: &&Source| names.iter().any(|name| source.outer.contains(*name));
    sources.iter().filter(names_one).map(|source| source.module.join("/")).collect()
}

#[test]
fn only_runtime_names_wasmtime_and_wit_types() -> Result<()> {
    let named = naming(&sources()?, &["wasmtime", "wasmtime_environ", "bindings", "wit"]);
    assert!(named.contains("runtime/host_imports"), "{named:?}");
    let elsewhere: Vec<_> = named.iter().filter(|file| !file.starts_with("runtime")).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    Ok(())
}

#[test]
fn auth_and_storage_name_nothing_of_http_but_the_client_that_fetches_keys() -> Result<()> {
    let named = naming(&sources()?, &["axum", "http", "http_body_util", "hyper", "hyper_util", "hyper_rustls"]);
    assert!(named.contains("http/json") || named.contains("http"), "{named:?}");
    let there = named.iter().filter(|file| file.starts_with("auth") || file.starts_with("storage"));
    assert_eq!(there.collect::<Vec<_>>(), ["auth/jwt/address"]);
    Ok(())
}

#[test]
fn the_guests_logic_names_no_binding() -> Result<()> {
    for file in ["create.rs", "name.rs"] {
        let mut paths = Paths::default();
        let text = fs::read_to_string(root().join("guest/src").join(file))?;
        paths.visit_file(&syn::parse_file(&text)?);
        let named: BTreeSet<_> = paths.found.iter().flatten().map(String::as_str).collect();
        let bindings = ["wit_bindgen", "bindings", "exports", "recoup"];
        assert!(named.len() > 10 && bindings.iter().all(|name| !named.contains(name)), "{file}: {named:?}");
    }
    Ok(())
}

/// Returns the places of a text in the host's sources, without those in comments.
fn places(text: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in files(&root().join("host/src"))? {
        let source = fs::read_to_string(&path)?;
        let lines = source.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
        for (number, _) in lines.filter(|(_, line)| line.contains(text)) {
            found.push(format!("{}:{}", path.strip_prefix(root())?.display(), number + 1));
        }
    }
    Ok(found)
}

#[test]
fn a_store_is_made_in_one_place() -> Result<()> {
    let made = places("Store::new(")?;
    assert!(made.len() == 1 && made[0].starts_with("host/src/runtime/sandboxes.rs"), "{made:?}");
    Ok(())
}

#[test]
fn a_status_for_clients_is_chosen_in_one_file() -> Result<()> {
    let chosen = places("StatusCode::")?;
    // The page of the API is no answer of the operation: its files can be unchanged, and its redirects are axum's.
    let is_of_operation = |place: &&String| place.starts_with("host/src/http/") && !place.contains("/docs.rs");
    let of_clients: Vec<_> = chosen.iter().filter(is_of_operation).collect();
    assert!(of_clients.len() > 10, "{chosen:?}");
    assert!(of_clients.iter().all(|place| place.starts_with("host/src/http/response.rs")), "{of_clients:?}");
    Ok(())
}

#[test]
fn sql_is_made_of_constants() -> Result<()> {
    let is_sql = |text: &str| {
        ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH ", "PRAGMA "].iter().any(|verb| text.contains(verb))
    };
    let mut made = Vec::new();
    for path in files(&root().join("host/src/storage"))? {
        let text = fs::read_to_string(&path)?;
        for (at, _) in text.match_indices("format!(") {
            let statement: String = text[at..].chars().take(80).collect();
            if is_sql(&statement) && statement.contains('{') {
                made.push(format!("{}: {statement}", path.strip_prefix(root())?.display()));
            }
        }
    }
    // The statements of `database check` are constants, which one statement frames.
    assert!(made.len() == 1 && made[0].contains("postgres/maintenance.rs"), "{made:#?}");
    Ok(())
}
