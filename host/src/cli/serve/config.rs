//! The file of `serve --config`.

mod value;
mod wrong;

use std::{
    collections::BTreeMap,
    env::{self, VarError},
    num::{NonZero, NonZeroU32},
    path::{Path, PathBuf},
    str::FromStr as _,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use toml::Spanned;

use self::{
    value::{Address, Admin, Host, Listen, Prefix, Size, Time, Uuid},
    wrong::{Document, plain},
};
use super::{
    super::{
        DatabaseAddress,
        admin_address::AdminAddress,
        pepper::{self, PEPPER},
        secret,
    },
    plan::{Compiler, DatabasePlan, Plan, TenantPlan, TokenPlan},
};
use crate::{
    Rate, Share,
    auth::jwt::{self, KeySource},
    files::{self, Limit},
    gateway::Gateway,
    private,
    runtime::{Limits, Pool},
    storage::{Quota, postgres, sqlite},
};

/// Part of the pool's sandboxes that a tenant may have by default: one in so many, so that no tenant alone can take
/// all of them.
const SHARE: usize = 4;

/// Maximum size of a configuration: some thousand tenants.
const CONFIGURATION: Limit = Limit::fixed(4 << 20);

/// Reads a file; paths in it are relative to its folder.
///
/// # Errors
///
/// An error with the file, the line, the column and the key, and without the value.
pub(in crate::cli) fn read(path: &Path) -> Result<Plan> {
    let name = path.display().to_string();
    let text = files::read_text(path, CONFIGURATION).with_context(|| format!("can't read {name}"))?;
    let document = Document { name, text: &text };
    let file: File = toml::from_str(&text).map_err(|error| document.explain(error))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let pool = file.pool.pool();
    let mut tenants = Vec::new();
    for (tenant, own) in &file.tenants {
        let section = Section { own: own.get_ref(), defaults: &file.defaults, folder, pool: &pool };
        tenants.push(section.plan(tenant).map_err(|Wrong { at, message }| {
            let at = at.unwrap_or(own.span().start);
            document.error(at, format_args!("tenant {}: {message}", plain(tenant)))
        })?);
    }
    let places = tenants.iter().map(TenantPlan::loading);
    if let Err(conflict) = Gateway::new(places.collect()) {
        let at = file.tenants.get(&conflict.second).map_or(0, |second| second.span().start);
        return Err(document.error(at, format_args!("hosts, path: {conflict}")));
    }
    ensure!(!tenants.is_empty(), "{}: no tenant: begin one with [tenants.NAME]", document.name);
    let compiler = Compiler {
        memory: file.compile.memory.map_or(Compiler::default().memory, |size| size.0.as_u64()),
        time: file.compile.time.map_or(Compiler::default().time, |time| time.0),
    };
    let File { listen, admin, admin_token_file, admin_hosts, tls, max_connections, watch, .. } = file;
    let max_connections = max_connections.map(NonZero::get);
    let admin = admin.map(|Admin(address)| match address {
        AdminAddress::Unix(path) => AdminAddress::Unix(folder.join(path)),
        address @ AdminAddress::Tcp(_) => address,
    });
    Ok(Plan {
        listen: listen.map(|listen| listen.0),
        admin,
        admin_token_file: admin_token_file.map(|file| folder.join(file)),
        admin_hosts: admin_hosts.into_iter().map(|host| host.0).collect(),
        tls: tls.map(|TlsSection { certificate, key }| (folder.join(certificate), folder.join(key))),
        max_connections,
        watch,
        pool,
        compiler,
        tenants,
    })
}

/// Error in a tenant's section.
struct Wrong {
    /// The place in the file; the tenant's own where `None`.
    at: Option<usize>,
    message: String,
}

impl Wrong {
    fn at<T>(value: &Spanned<T>, message: impl Into<String>) -> Self {
        Self { at: Some(value.span().start), message: message.into() }
    }

    fn tenant(message: impl Into<String>) -> Self {
        Self { at: None, message: message.into() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    listen: Option<Listen>,
    admin: Option<Admin>,
    admin_token_file: Option<PathBuf>,
    #[serde(default)]
    admin_hosts: Vec<Host>,
    tls: Option<TlsSection>,
    max_connections: Option<NonZero<usize>>,
    #[serde(default)]
    watch: bool,
    #[serde(default)]
    pool: PoolSection,
    #[serde(default)]
    compile: CompileSection,
    #[serde(default)]
    defaults: TenantSection,
    #[serde(default)]
    tenants: BTreeMap<String, Spanned<TenantSection>>,
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
    queue: Option<usize>,
    admission_wait: Option<Time>,
    memory: Option<Size>,
    table_elements: Option<usize>,
    component_size: Option<Size>,
    compiled_size: Option<Size>,
}

impl PoolSection {
    fn pool(&self) -> Pool {
        let default = Pool::default();
        Pool {
            concurrency: self.concurrency.map_or(default.concurrency, NonZero::get),
            queue: self.queue.unwrap_or(default.queue),
            admission_wait: self.admission_wait.map_or(default.admission_wait, |time| time.0),
            memory: self.memory.map_or(default.memory, Size::bytes),
            table_elements: self.table_elements.unwrap_or(default.table_elements),
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
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TenantSection {
    hosts: Option<Vec<Host>>,
    path: Option<Prefix>,
    component: Option<PathBuf>,
    database: Option<Address>,
    group_commit: Option<NonZero<usize>>,
    connections: Option<NonZero<usize>>,
    key_pepper_file: Option<Spanned<PathBuf>>,
    key_pepper_env: Option<Spanned<String>>,
    admin_organization: Option<Uuid>,
    jwt: Option<JwtSection>,
    #[serde(default)]
    limits: LimitsSection,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct JwtSection {
    keys: Spanned<String>,
    issuer: String,
    audience: String,
    account_claim: Option<String>,
    keys_max_age: Option<Spanned<Time>>,
    #[serde(default)]
    create_accounts: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LimitsSection {
    memory: Option<Spanned<Size>>,
    table_elements: Option<Spanned<usize>>,
    cpu: Option<Time>,
    wall_clock: Option<Time>,
    host_calls: Option<NonZeroU32>,
    hostcall_bytes: Option<Size>,
    handles: Option<NonZero<usize>>,
    faults_logged: Option<NonZeroU32>,
    concurrency: Option<Spanned<NonZero<usize>>>,
    running: Option<NonZero<usize>>,
    rate: Option<NonZeroU32>,
    burst: Option<Spanned<NonZeroU32>>,
    workspaces: Option<u64>,
    workspaces_per_day: Option<u64>,
}

/// A tenant's section, what stands in for what it leaves out, and where its paths begin.
struct Section<'a> {
    own: &'a TenantSection,
    defaults: &'a TenantSection,
    folder: &'a Path,
    pool: &'a Pool,
}

impl Section<'_> {
    /// A key's value: the tenant's own, or the default's.
    fn get<T: Clone>(&self, key: impl Fn(&TenantSection) -> &Option<T>) -> Option<T> {
        key(self.own).clone().or_else(|| key(self.defaults).clone())
    }

    fn plan(&self, name: &str) -> Result<TenantPlan, Wrong> {
        let hosts = self.get(|section| &section.hosts).unwrap_or_default();
        let path = self.get(|section| &section.path).unwrap_or_default();
        let Address(address) = self
            .get(|section| &section.database)
            .ok_or_else(|| Wrong::tenant("no database: give one, as in database = \"sqlite:acme.db\""))?;
        let address = match address {
            DatabaseAddress::File(path) => DatabaseAddress::File(self.folder.join(path)),
            other => other,
        };
        let group_commit = self.get(|section| &section.group_commit);
        let group_commit = group_commit.map_or(sqlite::Options::default().batch, NonZero::get);
        let connections = self.get(|section| &section.connections);
        let connections = connections.map_or(postgres::Options::default().connections, NonZero::get);
        Ok(TenantPlan {
            name: name.to_owned(),
            hosts: hosts.into_iter().map(|host| host.0).collect(),
            path: path.0,
            component: self.get(|section| &section.component).map(|path| self.folder.join(path)),
            database: DatabasePlan::new(address, group_commit, connections, name),
            pepper: self.pepper()?,
            administrators: self.get(|section| &section.admin_organization).map(|id| id.0),
            tokens: self.own.jwt.as_ref().or(self.defaults.jwt.as_ref()).map(|jwt| self.tokens(jwt)).transpose()?,
            limits: self.limits()?,
            share: self.share()?,
            quota: self.quota(),
        })
    }

    fn pepper(&self) -> Result<String, Wrong> {
        // The tenant's own, of either kind, before the default of the other.
        let section = match (&self.own.key_pepper_file, &self.own.key_pepper_env) {
            (None, None) => self.defaults,
            _ => self.own,
        };
        let (pepper, place) = match (&section.key_pepper_file, &section.key_pepper_env) {
            (Some(file), None) => {
                let path = self.folder.join(file.get_ref());
                private::warn_if_others_can_read(&path, "the key pepper");
                let read = files::read_text(&path, PEPPER);
                let read = read.map_err(|error| {
                    Wrong::at(file, format!("key-pepper-file: can't read {}: {error}", secret::path(&path)))
                });
                (read?, file.span())
            }
            (None, Some(name)) => {
                let read = env::var(name.get_ref()).map_err(|error| {
                    let name = variable(name.get_ref());
                    match error {
                        VarError::NotPresent => format!("key-pepper-env: {name} is not set"),
                        VarError::NotUnicode(_) => format!("key-pepper-env: {name} is not text in UTF-8"),
                    }
                });
                (read.map_err(|message| Wrong::at(name, message))?, name.span())
            }
            (Some(_), Some(name)) => {
                return Err(Wrong::at(name, "key-pepper-file and key-pepper-env: give one of the two"));
            }
            (None, None) => {
                return Err(Wrong::tenant(
                    "no key pepper: give key-pepper-file = \"FILE\", made with `openssl rand -hex 32`, or key-pepper-env = \"NAME\"",
                ));
            }
        };
        pepper::checked(&pepper).map_err(|error| Wrong { at: Some(place.start), message: error.to_string() })
    }

    fn tokens(&self, jwt: &JwtSection) -> Result<TokenPlan, Wrong> {
        let keys = KeySource::from_str(jwt.keys.get_ref());
        let keys = match keys.map_err(|error| Wrong::at(&jwt.keys, format!("jwt.keys: {error}")))? {
            KeySource::File(path) => KeySource::File(self.folder.join(path)),
            other => other,
        };
        let mut options = jwt::Options::new(&jwt.issuer, &jwt.audience);
        if let Some(claim) = &jwt.account_claim {
            options.account_claim.clone_from(claim);
        }
        options.create_accounts = jwt.create_accounts;
        if let Some(age) = &jwt.keys_max_age {
            let Time(time) = *age.get_ref();
            if time < jwt::MIN_KEYS_AGE {
                return Err(Wrong::at(age, format!("jwt.keys-max-age: give {:?} at least", jwt::MIN_KEYS_AGE)));
            }
            options.keys_max_age = time;
        }
        Ok(TokenPlan::new(keys, options))
    }

    fn limits(&self) -> Result<Limits, Wrong> {
        macro_rules! limit {
            ($key:ident) => {
                self.own.limits.$key.as_ref().or(self.defaults.limits.$key.as_ref())
            };
        }
        let (default, pool) = (Limits::default(), self.pool);
        let (memory, table_elements) = (limit!(memory), limit!(table_elements));
        if let Some(memory) = memory.filter(|memory| memory.get_ref().bytes() > pool.memory) {
            return Err(Wrong::at(memory, over("limits.memory", pool.memory, "pool.memory")));
        }
        if let Some(elements) = table_elements.filter(|elements| *elements.get_ref() > pool.table_elements) {
            let message = over("limits.table-elements", pool.table_elements, "pool.table-elements");
            return Err(Wrong::at(elements, message));
        }
        Ok(Limits {
            memory: memory.map_or(default.memory.min(pool.memory), |memory| memory.get_ref().bytes()),
            table_elements: table_elements
                .map_or(default.table_elements.min(pool.table_elements), |elements| *elements.get_ref()),
            cpu: limit!(cpu).map_or(default.cpu, |time| time.0),
            wall_clock: limit!(wall_clock).map_or(default.wall_clock, |time| time.0),
            host_calls: limit!(host_calls).map_or(default.host_calls, |calls| calls.get()),
            hostcall_bytes: limit!(hostcall_bytes).map_or(default.hostcall_bytes, |size| size.bytes()),
            handles: limit!(handles).map_or(default.handles, |handles| handles.get()),
            faults_logged: limit!(faults_logged).copied().unwrap_or(default.faults_logged),
        })
    }

    fn quota(&self) -> Quota {
        let [own, defaults] = [&self.own.limits, &self.defaults.limits];
        Quota {
            per_day: own.workspaces_per_day.or(defaults.workspaces_per_day),
            total: own.workspaces.or(defaults.workspaces),
        }
    }

    fn share(&self) -> Result<Share, Wrong> {
        let [own, defaults] = [&self.own.limits, &self.defaults.limits];
        let all = self.pool.concurrency.saturating_add(self.pool.queue);
        let concurrency = own.concurrency.as_ref().or(defaults.concurrency.as_ref());
        if let Some(concurrency) = concurrency.filter(|concurrency| concurrency.get_ref().get() > all) {
            return Err(Wrong::at(concurrency, over("limits.concurrency", all, "pool.concurrency + pool.queue")));
        }
        let burst = own.burst.as_ref().or(defaults.burst.as_ref());
        let rate = match (own.rate.or(defaults.rate), burst) {
            (Some(per_second), burst) => {
                Some(Rate { per_second, burst: burst.map_or(per_second, |burst| *burst.get_ref()) })
            }
            (None, Some(burst)) => {
                let message = "limits.burst without limits.rate: give the rate, as in rate = 100";
                return Err(Wrong::at(burst, message));
            }
            (None, None) => None,
        };
        let concurrency = concurrency.map_or(all.div_ceil(SHARE), |concurrency| concurrency.get_ref().get());
        let running = own.running.or(defaults.running);
        let running = running.map_or(self.pool.concurrency.div_ceil(SHARE), NonZero::get);
        Ok(Share { concurrency, running, rate })
    }
}

/// Says that a limit is over the pool's.
fn over(limit: &str, most: usize, pool: &str) -> String {
    format!("{limit} is over {most}, the limit of the pool ({pool})")
}

/// Shows the name of an environment variable, unless it may be the secret itself in its place.
fn variable(name: &str) -> &str {
    let is_name = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    if is_name && name.len() < 64 { name } else { "the variable (its name is not shown: it may be a secret)" }
}
