//! The file of `serve --config`.

mod finding;
mod tenant;
mod value;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    mem,
    num::{NonZero, NonZeroU32},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, de::DeserializeOwned};
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

pub(crate) use self::finding::{Document, Finding, Severity};
use self::{
    finding::plain,
    tenant::{LimitsSection, Section, TenantSection, Wrong},
    value::{Admin, Host, Listen, Size, Time},
};
use super::{
    address::AdminAddress,
    cache::{self, CacheConfig},
    compiler::Compiler,
    config::{Config, TenantConfig},
};
use crate::{
    files::{self, Limit},
    runtime::{Pool, SandboxLimits, Wasi},
    tenants::Tenants,
    terminal::Lines,
};

/// Maximum size of a configuration: some thousand tenants.
const CONFIGURATION: Limit = Limit::fixed(4 << 20);

/// Configuration file that was read, as far as that was possible.
pub(crate) struct Examined {
    /// Text, for the places of further findings.
    pub(crate) document: Document,
    /// Configuration, with those tenants that can be used. Complete where no finding is an error; `None` where nothing of
    /// it could be read.
    pub(crate) config: Option<Config>,
    /// Findings about the file itself.
    pub(crate) findings: Vec<Finding>,
}

/// Reads a file; paths in it are relative to its folder.
///
/// # Errors
///
/// All errors, each with the file, the line, the column and the key, and without the value.
pub(crate) fn read(path: &Path) -> Result<Config> {
    let Examined { document, config, findings } = examine(path)?;
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let lines: Vec<_> = errors.map(ToString::to_string).collect();
    match config {
        _ if !lines.is_empty() => bail!(Lines(lines)),
        Some(config) => Ok(config),
        None => bail!("{}: nothing could be read", document.name),
    }
}

/// Reads a file and says all that is wrong with it.
///
/// # Errors
///
/// A file that can't be read.
pub(crate) fn examine(path: &Path) -> Result<Examined> {
    let document = read_document(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut findings = Vec::new();
    let file = sections(&document, &mut findings);
    let config = file.map(|(file, tenants)| configuration(&document, folder, file, &tenants, &mut findings));
    Ok(Examined { document, config, findings })
}

fn read_document(path: &Path) -> Result<Document> {
    let name = path.display().to_string();
    let text = files::read_text(path, CONFIGURATION).with_context(|| format!("can't read {name}"))?;
    Ok(Document { name, text })
}

/// Sections of tenants, by name. A section that has values of the wrong type is empty.
type Sections = BTreeMap<String, (usize, Option<TenantSection>)>;

/// Reads the keys and the types of their values, and adds what is wrong with them to `findings`.
fn sections(document: &Document, findings: &mut Vec<Finding>) -> Option<(File, Sections)> {
    let (mut table, errors) = DeTable::parse_recoverable(&document.text);
    if !errors.is_empty() {
        findings.extend(errors.into_iter().map(|error| document.explain(&[], error)));
        return None;
    }
    let tenants = match table.get_mut().remove("tenants").map(Spanned::into_inner) {
        None => DeTable::new(),
        Some(DeValue::Table(values)) => values,
        Some(_) => {
            let message = "expected sections: begin one with [tenants.NAME]";
            findings.push(document.finding_at(Severity::Error, &["tenants"], message));
            return None;
        }
    };
    let (file, is_whole) = deserialize::<File>(document, &[], DeValue::Table(table.into_inner()), findings);
    let tenants = tenants.into_iter().map(|(name, value)| {
        let (name, start) = (name.into_inner().into_owned(), value.span().start);
        let (section, is_whole) = deserialize(document, &["tenants", &name], value.into_inner(), findings);
        (name, (start, section.filter(|_| is_whole)))
    });
    let tenants = tenants.collect();
    Some((File { is_whole, ..file? }, tenants))
}

/// Reads a section. A value that can't be read is taken out, so that the rest is read too. Returns also whether there was
/// none.
fn deserialize<T: DeserializeOwned>(
    document: &Document,
    within: &[&str],
    mut value: DeValue<'_>,
    findings: &mut Vec<Finding>,
) -> (Option<T>, bool) {
    let mut is_whole = true;
    loop {
        let whole = Spanned::new(0..document.text.len(), value.clone());
        let error = match T::deserialize(ValueDeserializer::from(whole)) {
            Ok(read) => return (Some(read), is_whole),
            Err(error) => error,
        };
        is_whole = false;
        let at = error.span().unwrap_or_default().start;
        findings.push(document.explain(within, error));
        let DeValue::Table(table) = &mut value else { return (None, false) };
        if !remove_at(table, at) {
            return (None, false);
        }
    }
}

/// Removes the innermost key that stands at a byte of the text, or whose value does.
fn remove_at(table: &mut DeTable<'_>, at: usize) -> bool {
    let holds = |(key, value): &(&Spanned<_>, &Spanned<DeValue<'_>>)| {
        key.span().contains(&at) || value.span().contains(&at) || value.span().start == at
    };
    let found = table.iter().find(holds).map(|(key, _)| key.get_ref().clone());
    let Some(key): Option<Cow<'_, str>> = found else { return false };
    let is_inner = match table.get_mut(&*key).map(Spanned::get_mut) {
        Some(DeValue::Table(inner)) => remove_at(inner, at),
        _ => false,
    };
    is_inner || table.remove(&*key).is_some()
}

/// Makes the configuration of a file's sections, without the tenants that can't be used, and adds what is wrong with them
/// to `findings`.
fn configuration(
    document: &Document,
    folder: &Path,
    file: File,
    sections: &Sections,
    findings: &mut Vec<Finding>,
) -> Config {
    let pool = file.pool.pool();
    let mut tenants = Vec::<TenantConfig>::new();
    for (name, (start, own)) in sections {
        let Some(own) = own else { continue };
        let section = Section { own, defaults: &file.defaults, folder, pool: &pool };
        let tenant = match section.tenant(name) {
            Ok(tenant) => tenant,
            Err(wrongs) => {
                // What a tenant lacks may be a default that can't be read.
                let wrongs = wrongs.into_iter().filter(|wrong| file.is_whole || wrong.at.is_some());
                for Wrong { at, key, message } in wrongs {
                    let path = ["tenants", plain(name), key].into_iter().filter(|part| !part.is_empty());
                    findings.push(document.error(at.unwrap_or(*start), path.collect::<Vec<_>>().join("."), message));
                }
                continue;
            }
        };
        for (key, message) in section.warnings(&tenant) {
            let key: Vec<_> = ["tenants", name].into_iter().chain(key.split('.')).collect();
            findings.push(document.finding_at(Severity::Warning, &key, message));
        }
        let places = tenants.iter().chain([&tenant]).map(TenantConfig::loading);
        if let Err(conflict) = Tenants::new(places.collect()) {
            let key = format!("tenants.{}", plain(name));
            findings.push(document.error(*start, key, format!("hosts, path: {conflict}")));
            continue;
        }
        let of_file = tenants.iter().find(|other| other.component.is_some() && other.component == tenant.component);
        if let Some(other) = of_file.filter(|other| other.image != tenant.image) {
            let message = format!(
                "tenant {} pulls another image into this file, or none: give each a file of its own",
                other.name
            );
            findings.push(document.finding_at(Severity::Error, &["tenants", name, "component"], message));
            continue;
        }
        tenants.push(tenant);
    }
    if sections.is_empty() {
        findings.push(document.error(0, "", "no tenant: begin one with [tenants.NAME]"));
    }
    if file.admin.is_none() {
        for (key, is_given) in
            [("admin-token-file", file.admin_token_file.is_some()), ("admin-hosts", !file.admin_hosts.is_empty())]
        {
            if is_given {
                let message = "it has no effect without admin, or the option --admin";
                findings.push(document.finding_at(Severity::Warning, &[key], message));
            }
        }
    }
    let compiler = file.compile.compiler();
    let cache = file.compile.cache.as_ref().map(|cache| CacheConfig {
        folder: folder.join(cache),
        size: file.compile.cache_size.map_or(cache::SIZE, |size| size.0.as_u64()),
    });
    if cache.is_none() && file.compile.cache_size.is_some() {
        let message = "it has no effect without compile.cache";
        findings.push(document.finding_at(Severity::Warning, &["compile", "cache-size"], message));
    }
    let File { listen, admin, admin_token_file, admin_hosts, tls, max_connections, docs, watch, .. } = file;
    let max_connections = max_connections.map(NonZero::get);
    let listen = listen.map(|listen| listen.0);
    let admin = admin.map(|Admin(address)| match address {
        AdminAddress::Unix(path) => AdminAddress::Unix(folder.join(path)),
        address @ AdminAddress::Tcp(_) => address,
    });
    match &admin {
        Some(AdminAddress::Tcp(address)) if Some(*address) == listen && address.port() != 0 => {
            let message = "listen has the same address: give the administration one of its own";
            findings.push(document.finding_at(Severity::Error, &["admin"], message));
        }
        _ => {}
    }
    Config {
        listen,
        admin,
        admin_token_file: admin_token_file.map(|file| folder.join(file)),
        admin_hosts: admin_hosts.into_iter().map(|host| host.0).collect(),
        tls: tls.map(|TlsSection { certificate, key }| (folder.join(certificate), folder.join(key))),
        max_connections,
        docs: docs.unwrap_or(true),
        watch,
        pool,
        compiler,
        cache,
        tenants,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    /// True where each of its values could be read.
    #[serde(skip)]
    is_whole: bool,
    listen: Option<Listen>,
    admin: Option<Admin>,
    admin_token_file: Option<PathBuf>,
    #[serde(default)]
    admin_hosts: Vec<Host>,
    tls: Option<TlsSection>,
    max_connections: Option<NonZero<usize>>,
    docs: Option<bool>,
    #[serde(default)]
    watch: bool,
    #[serde(default)]
    pool: PoolSection,
    #[serde(default)]
    compile: CompileSection,
    #[serde(default)]
    defaults: TenantSection,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TlsSection {
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct PoolSection {
    concurrency: Option<NonZero<usize>>,
    slow: Option<usize>,
    queue: Option<usize>,
    target_delay: Option<Time>,
    admission_wait: Option<Time>,
    memory: Option<Size>,
    memories: Option<NonZeroU32>,
    table_elements: Option<usize>,
    tables: Option<NonZeroU32>,
    core_instances: Option<NonZeroU32>,
    component_size: Option<Size>,
    compiled_size: Option<Size>,
}

impl PoolSection {
    fn pool(&self) -> Pool {
        let default = Pool::default();
        Pool {
            concurrency: self.concurrency.map_or(default.concurrency, NonZero::get),
            slow: self.slow.unwrap_or(default.slow),
            queue: self.queue.unwrap_or(default.queue),
            target_delay: self.target_delay.map_or(default.target_delay, |time| time.0),
            admission_wait: self.admission_wait.map_or(default.admission_wait, |time| time.0),
            memory: self.memory.map_or(default.memory, Size::bytes),
            memories: self.memories.map_or(default.memories, NonZero::get),
            table_elements: self.table_elements.unwrap_or(default.table_elements),
            tables: self.tables.map_or(default.tables, NonZero::get),
            core_instances: self.core_instances.map_or(default.core_instances, NonZero::get),
            component_size: self.component_size.map_or(default.component_size, Size::bytes),
            compiled_size: self.compiled_size.map_or(default.compiled_size, Size::bytes),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CompileSection {
    memory: Option<Size>,
    time: Option<Time>,
    cache: Option<PathBuf>,
    cache_size: Option<Size>,
}

impl CompileSection {
    fn compiler(&self) -> Compiler {
        Compiler {
            memory: self.memory.map_or(Compiler::default().memory, |size| size.0.as_u64()),
            time: self.time.map_or(Compiler::default().time, |time| time.0),
        }
    }
}

/// File of the limits of one component, with the sections that a configuration needs for it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LimitsFile {
    wasi: Option<Wasi>,
    #[serde(default)]
    limits: LimitsSection,
    #[serde(default)]
    pool: PoolSection,
    #[serde(default)]
    compile: CompileSection,
}

/// Limits of one component: of its sandboxes, of the pool that they are of, and of its compilation.
#[derive(Default)]
pub(crate) struct ComponentLimits {
    pub(crate) sandbox: SandboxLimits,
    pub(crate) pool: Pool,
    pub(crate) compiler: Compiler,
}

/// Reads a file of limits.
///
/// # Errors
///
/// All errors, each with the file, the line, the column and the key, and without the value.
pub(crate) fn read_limits(path: &Path) -> Result<ComponentLimits> {
    let document = read_document(path)?;
    let (mut table, errors) = DeTable::parse_recoverable(&document.text);
    let mut findings: Vec<_> = errors.into_iter().map(|error| document.explain(&[], error)).collect();
    let table = DeValue::Table(mem::take(table.get_mut()));
    let (file, _) = deserialize::<LimitsFile>(&document, &[], table, &mut findings);
    let limits = file.map(|LimitsFile { wasi, limits, pool, compile }| {
        let (pool, compiler) = (pool.pool(), compile.compiler());
        let (own, defaults) = (TenantSection::of_limits(wasi, limits), TenantSection::default());
        let mut wrongs = Vec::new();
        let section = Section { own: &own, defaults: &defaults, folder: Path::new(""), pool: &pool };
        let sandbox = section.limits(&mut wrongs);
        let of_keys =
            wrongs.into_iter().map(|wrong| document.error(wrong.at.unwrap_or(0), wrong.key.to_owned(), wrong.message));
        findings.extend(of_keys);
        ComponentLimits { sandbox, pool, compiler }
    });
    match limits {
        Some(limits) if findings.is_empty() => Ok(limits),
        _ => bail!(Lines(findings.iter().map(ToString::to_string).collect())),
    }
}
