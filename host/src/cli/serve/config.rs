//! The file of `serve --config`.

use std::{
    collections::BTreeMap,
    env,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;
use uuid::Uuid;

use super::{
    super::{
        DatabaseAddress,
        pepper::{self, PEPPER},
        terminal::Lines,
    },
    plan::{Compiler, DatabasePlan, Plan, TenantPlan, TokenPlan},
};
use crate::{
    Rate, Share,
    auth::jwt::{self, KeySource},
    files::{self, Limit},
    gateway::Gateway,
    runtime::{Limits, Pool},
    storage::{Quota, postgres, sqlite},
};

/// Of the pool's sandboxes, the share of a tenant that is given none: one in so many, so that no
/// tenant alone can take all of them.
const SHARE: usize = 4;

/// Maximum size of a configuration: some thousand tenants.
const CONFIGURATION: Limit = Limit::fixed(4 << 20);

/// Reads a file; paths in it are relative to its folder.
///
/// # Errors
///
/// What is wrong, with the file, the line and the key.
pub(in crate::cli) fn read(path: &Path) -> Result<Plan> {
    let name = path.display();
    let text = files::read_text(path, CONFIGURATION).with_context(|| format!("can't read {name}"))?;
    let file: File = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| line(&text, span.start));
        let shown = error.to_string();
        // The first line says no more than where it is.
        let (_, shown) = shown.split_once('\n').unwrap_or_default();
        let shown = shown.trim_end().trim_end_matches(error.message()).trim_end();
        let first = format!("{name}:{line}: {}", error.message());
        Lines(std::iter::once(first).chain(shown.lines().map(str::to_owned)).collect())
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let pool = file.pool.pool();
    let mut tenants = Vec::new();
    for (tenant, own) in &file.tenants {
        let line = line(&text, own.span().start);
        let plan = Section { own: own.get_ref(), defaults: &file.defaults, folder, pool: &pool }.plan(tenant);
        tenants.push(plan.with_context(|| format!("{name}:{line}: tenant {tenant}"))?);
    }
    let places = tenants.iter().map(|tenant| tenant.at(Err(String::new())));
    if let Err(conflict) = Gateway::new(places.collect()) {
        let line = file.tenants.get(&conflict.second).map_or(1, |second| line(&text, second.span().start));
        bail!("{name}:{line}: hosts, path: {conflict}");
    }
    ensure!(!tenants.is_empty(), "{name}: no tenant: begin one with [tenants.NAME]");
    let compiler = Compiler {
        memory: file.compile.memory.map_or(Compiler::default().memory, |size| size.0.as_u64()),
        time: file.compile.time.map_or(Compiler::default().time, |time| time.0),
    };
    let File { listen, admin, max_connections, watch, .. } = file;
    Ok(Plan { listen, admin, max_connections, watch, pool, compiler, tenants })
}

fn line(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    listen: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    max_connections: Option<usize>,
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

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct PoolSection {
    concurrency: Option<usize>,
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
            concurrency: self.concurrency.unwrap_or(default.concurrency).max(1),
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
    group_commit: Option<usize>,
    connections: Option<usize>,
    key_pepper_file: Option<PathBuf>,
    key_pepper_env: Option<String>,
    admin_organization: Option<Uuid>,
    jwt: Option<JwtSection>,
    #[serde(default)]
    limits: LimitsSection,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct JwtSection {
    keys: String,
    issuer: String,
    audience: String,
    account_claim: Option<String>,
    keys_max_age: Option<Time>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LimitsSection {
    memory: Option<Size>,
    table_elements: Option<usize>,
    cpu: Option<Time>,
    wall_clock: Option<Time>,
    host_calls: Option<u32>,
    hostcall_bytes: Option<Size>,
    handles: Option<usize>,
    faults_logged: Option<NonZeroU32>,
    concurrency: Option<usize>,
    rate: Option<NonZeroU32>,
    burst: Option<NonZeroU32>,
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

    fn plan(&self, name: &str) -> Result<TenantPlan> {
        let hosts = self.get(|section| &section.hosts).unwrap_or_default();
        let path = self.get(|section| &section.path).unwrap_or_default();
        let Address(address) = self
            .get(|section| &section.database)
            .context("no database: give one, as in database = \"sqlite:acme.db\"")?;
        let address = match address {
            DatabaseAddress::File(path) => DatabaseAddress::File(self.folder.join(path)),
            other => other,
        };
        let group_commit = self.get(|section| &section.group_commit).unwrap_or(sqlite::Options::default().batch);
        let connections = self.get(|section| &section.connections).unwrap_or(postgres::Options::default().connections);
        Ok(TenantPlan {
            name: name.to_owned(),
            hosts: hosts.into_iter().map(|host| host.0).collect(),
            path: path.0,
            component: self.get(|section| &section.component).map(|path| self.folder.join(path)),
            database: DatabasePlan::new(address, group_commit.max(1), connections.max(1), name),
            pepper: self.pepper()?,
            administrators: self.get(|section| &section.admin_organization),
            tokens: self.own.jwt.as_ref().or(self.defaults.jwt.as_ref()).map(|jwt| self.tokens(jwt)).transpose()?,
            limits: self.limits()?,
            share: self.share(),
            quota: self.quota(),
        })
    }

    fn pepper(&self) -> Result<String> {
        // The tenant's own, of either kind, before the default of the other.
        let section = match (&self.own.key_pepper_file, &self.own.key_pepper_env) {
            (None, None) => self.defaults,
            _ => self.own,
        };
        let pepper = match (&section.key_pepper_file, &section.key_pepper_env) {
            (Some(file), None) => {
                let file = self.folder.join(file);
                files::read_text(&file, PEPPER)
                    .with_context(|| format!("key-pepper-file: can't read {}", file.display()))?
            }
            (None, Some(name)) => env::var(name).map_err(|_| anyhow!("key-pepper-env: {name} is not set"))?,
            (Some(_), Some(_)) => bail!("key-pepper-file and key-pepper-env: give one of the two"),
            (None, None) => bail!(
                "no key pepper: give key-pepper-file = \"FILE\", made with `openssl rand -hex 32`, or key-pepper-env = \"NAME\""
            ),
        };
        pepper::checked(&pepper)
    }

    fn tokens(&self, jwt: &JwtSection) -> Result<TokenPlan> {
        let keys = match KeySource::from_str(&jwt.keys).map_err(|error| anyhow!("jwt.keys: {error}"))? {
            KeySource::File(path) => KeySource::File(self.folder.join(path)),
            other => other,
        };
        let mut options = jwt::Options::new(&jwt.issuer, &jwt.audience);
        if let Some(claim) = &jwt.account_claim {
            options.account_claim.clone_from(claim);
        }
        if let Some(age) = jwt.keys_max_age {
            ensure!(age.0 >= jwt::MIN_KEYS_AGE, "jwt.keys-max-age: give {:?} at least", jwt::MIN_KEYS_AGE);
            options.keys_max_age = age.0;
        }
        Ok(TokenPlan::new(keys, options))
    }

    fn limits(&self) -> Result<Limits> {
        macro_rules! limit {
            ($key:ident) => {
                self.own.limits.$key.or(self.defaults.limits.$key)
            };
        }
        let default = Limits::default();
        let limits = Limits {
            memory: limit!(memory).map_or(default.memory.min(self.pool.memory), Size::bytes),
            table_elements: limit!(table_elements).unwrap_or(default.table_elements.min(self.pool.table_elements)),
            cpu: limit!(cpu).map_or(default.cpu, |time| time.0),
            wall_clock: limit!(wall_clock).map_or(default.wall_clock, |time| time.0),
            host_calls: limit!(host_calls).unwrap_or(default.host_calls),
            hostcall_bytes: limit!(hostcall_bytes).map_or(default.hostcall_bytes, Size::bytes),
            handles: limit!(handles).unwrap_or(default.handles),
            faults_logged: limit!(faults_logged).unwrap_or(default.faults_logged),
        };
        limits.fit(self.pool).context("limits")?;
        Ok(limits)
    }

    fn quota(&self) -> Quota {
        let [own, defaults] = [&self.own.limits, &self.defaults.limits];
        Quota {
            per_day: own.workspaces_per_day.or(defaults.workspaces_per_day),
            total: own.workspaces.or(defaults.workspaces),
        }
    }

    fn share(&self) -> Share {
        let [own, defaults] = [&self.own.limits, &self.defaults.limits];
        let all = self.pool.concurrency.saturating_add(self.pool.queue);
        let rate = own
            .rate
            .or(defaults.rate)
            .map(|per_second| Rate { per_second, burst: own.burst.or(defaults.burst).unwrap_or(per_second) });
        Share { concurrency: own.concurrency.or(defaults.concurrency).unwrap_or(all.div_ceil(SHARE)), rate }
    }
}

/// A number of bytes: `"16MiB"`.
#[derive(Clone, Copy)]
struct Size(ByteSize);

impl Size {
    fn bytes(self) -> usize {
        usize::try_from(self.0.as_u64()).unwrap_or(usize::MAX)
    }
}

/// A time: `"20ms"`, `"10s"`.
#[derive(Clone, Copy)]
struct Time(Duration);

#[derive(Clone)]
struct Address(DatabaseAddress);

/// A host name, without a port.
#[derive(Clone)]
struct Host(String);

/// The beginning of paths, such as `/acme`; empty for all of the host.
#[derive(Clone, Default)]
struct Prefix(String);

/// Reads a value from its text.
macro_rules! from_text {
    ($type:ident, $parse:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let parsed: Result<_, String> = $parse(text.as_str());
                parsed.map(Self).map_err(D::Error::custom)
            }
        }
    };
}

from_text!(Time, |text| humantime::parse_duration(text)
    .map_err(|error| format!("{error}: a time is written as \"20ms\" or \"10s\"")));
from_text!(Size, |text: &str| text.parse().map_err(|_| "a size is written as \"16MiB\"".to_owned()));
from_text!(Address, |text| DatabaseAddress::parse(text)
    .ok_or_else(|| "a database is sqlite:PATH, sqlite::memory: or postgres://…".to_owned()));
from_text!(Host, |text: &str| {
    let is_name =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '[' | ']' | ':');
    let has_port = !text.ends_with(']') && text.contains(':');
    match !text.is_empty() && !has_port && text.chars().all(is_name) {
        true => Ok(text.to_owned()),
        false => Err("a host is a name without a port, such as acme.example".to_owned()),
    }
});
from_text!(Prefix, |text: &str| {
    let segments = text.strip_prefix('/').map(|rest| rest.split('/'));
    let is_plain = |segment: &str| {
        !segment.is_empty()
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~'))
    };
    match segments.is_some_and(|mut segments| segments.all(is_plain)) {
        true => Ok(text.to_owned()),
        false => Err("a path begins with / and does not end with it, such as /acme".to_owned()),
    }
});
