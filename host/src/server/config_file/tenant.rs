//! Section of a tenant.

use std::{
    env::{self, VarError},
    num::{NonZero, NonZeroU32, NonZeroU64},
    path::{Path, PathBuf},
    str::FromStr as _,
};

use serde::Deserialize;
use toml::Spanned;

use super::{
    super::{
        bundles::{BUNDLES, RecordConfig},
        config::{DatabaseConfig, TenantConfig, TokenConfig},
        pepper::{self, PEPPER},
        secret,
    },
    value::{Address, Component, Header, Host, Prefix, Size, Time, Uuid},
};
use crate::{
    Rate, TenantShare,
    auth::jwt::{self, KeySource},
    files, private,
    runtime::{Pool, SandboxLimits, TICK, Wasi},
    storage::{DatabaseAddress, Quota, postgres, sqlite},
};

/// Part of the pool's sandboxes that a tenant may have by default: one in so many, so that no tenant alone can take
/// all of them.
const SHARE: usize = 4;

/// Error in a tenant's section.
pub(super) struct Wrong {
    /// Place in the file; the tenant's section where `None`.
    pub(super) at: Option<usize>,
    /// Path of the key in the section; empty for the section as a whole.
    pub(super) key: &'static str,
    pub(super) message: String,
}

impl Wrong {
    fn at<T>(value: &Spanned<T>, key: &'static str, message: impl Into<String>) -> Self {
        Self { at: Some(value.span().start), key, message: message.into() }
    }

    fn tenant(message: impl Into<String>) -> Self {
        Self { at: None, key: "", message: message.into() }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct TenantSection {
    hosts: Option<Vec<Host>>,
    path: Option<Prefix>,
    component: Option<Component>,
    require_verified: Option<bool>,
    database: Option<Address>,
    group_commit: Option<NonZero<usize>>,
    connections: Option<NonZero<usize>>,
    key_pepper_file: Option<Spanned<PathBuf>>,
    key_pepper_env: Option<Spanned<String>>,
    admin_organization: Option<Uuid>,
    jwt: Option<JwtSection>,
    record: Option<RecordSection>,
    wasi: Option<Wasi>,
    #[serde(default)]
    limits: LimitsSection,
}

impl TenantSection {
    /// Returns a section that has limits alone.
    pub(super) fn of_limits(wasi: Option<Wasi>, limits: LimitsSection) -> Self {
        Self { wasi, limits, ..Self::default() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct JwtSection {
    keys: Spanned<String>,
    issuer: Spanned<String>,
    audience: Spanned<String>,
    account_claim: Option<String>,
    keys_max_age: Option<Spanned<Time>>,
    #[serde(default)]
    create_accounts: bool,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RecordSection {
    folder: PathBuf,
    every: Option<NonZeroU64>,
    header: Option<Header>,
    #[serde(default)]
    redact: bool,
    bundles: Option<NonZero<usize>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct LimitsSection {
    memory: Option<Spanned<Size>>,
    memories: Option<Spanned<NonZeroU32>>,
    table_elements: Option<Spanned<usize>>,
    tables: Option<Spanned<NonZeroU32>>,
    core_instances: Option<Spanned<NonZeroU32>>,
    cpu: Option<Spanned<Time>>,
    wall_clock: Option<Spanned<Time>>,
    host_calls: Option<NonZeroU32>,
    hostcall_bytes: Option<Size>,
    handles: Option<NonZero<usize>>,
    faults_logged: Option<NonZeroU32>,
    requests_per_instance: Option<NonZeroU32>,
    concurrency: Option<Spanned<NonZero<usize>>>,
    running: Option<NonZero<usize>>,
    rate: Option<NonZeroU32>,
    burst: Option<Spanned<NonZeroU32>>,
    workspaces: Option<u64>,
    workspaces_per_day: Option<u64>,
}

/// A tenant's section, what stands in for what it leaves out, and where its paths begin.
pub(super) struct Section<'a> {
    pub(super) own: &'a TenantSection,
    pub(super) defaults: &'a TenantSection,
    pub(super) folder: &'a Path,
    pub(super) pool: &'a Pool,
}

impl Section<'_> {
    /// Returns a key's value: the tenant's own, or the default's.
    fn get<T: Clone>(&self, key: impl Fn(&TenantSection) -> &Option<T>) -> Option<T> {
        key(self.own).clone().or_else(|| key(self.defaults).clone())
    }

    /// Returns the configuration of the tenant.
    ///
    /// # Errors
    ///
    /// The values that can't be used.
    pub(super) fn tenant(&self, name: &str) -> Result<TenantConfig, Vec<Wrong>> {
        let mut wrongs = Vec::new();
        let address = keep(&mut wrongs, self.address());
        let pepper = keep(&mut wrongs, self.pepper());
        let jwt = self.own.jwt.as_ref().or(self.defaults.jwt.as_ref());
        let tokens = jwt.map(|jwt| keep(&mut wrongs, self.tokens(jwt)));
        let limits = self.limits(&mut wrongs);
        let share = self.share(&mut wrongs);
        let (Some(address), Some(pepper), true) = (address, pepper, wrongs.is_empty()) else { return Err(wrongs) };

        let component = self.get(|section| &section.component);
        let hosts = self.get(|section| &section.hosts).unwrap_or_default();
        let path = self.get(|section| &section.path).unwrap_or_default();
        let group_commit = self.get(|section| &section.group_commit);
        let group_commit = group_commit.map_or(sqlite::SqliteOptions::default().batch, NonZero::get);
        let connections = self.get(|section| &section.connections);
        let connections = connections.map_or(postgres::PostgresOptions::default().connections, NonZero::get);
        Ok(TenantConfig {
            name: name.to_owned(),
            hosts: hosts.into_iter().map(|host| host.0).collect(),
            path: path.0,
            component: component.as_ref().map(|component| self.folder.join(&component.file)),
            image: component.as_ref().and_then(|component| component.image.clone()),
            pin: component.map(|component| component.pin).unwrap_or_default(),
            require_verified: self.get(|section| &section.require_verified).unwrap_or_default(),
            record: self.get(|section| &section.record).map(|record| self.record(record)),
            database: DatabaseConfig::new(address, group_commit, connections, name),
            pepper,
            administrators: self.get(|section| &section.admin_organization).map(|id| id.0),
            tokens: tokens.flatten(),
            limits,
            share,
            quota: self.quota(),
        })
    }

    fn record(&self, record: RecordSection) -> RecordConfig {
        let RecordSection { folder, every, header, redact, bundles } = record;
        let folder = self.folder.join(folder);
        let header = header.map(|header| header.0);
        RecordConfig { folder, every, header, redact, bundles: bundles.unwrap_or(BUNDLES) }
    }

    /// Returns what is probably not as it was meant: the path of a key in the section, and why.
    pub(super) fn warnings(&self, tenant: &TenantConfig) -> Vec<(&'static str, String)> {
        let is_server = matches!(tenant.database.address, DatabaseAddress::Server(_));
        let has_key_file = tenant.tokens.as_ref().is_some_and(|tokens| tokens.file().is_some());
        let gives_max_age = self.own.jwt.as_ref().is_some_and(|jwt| jwt.keys_max_age.is_some());
        let TenantConfig {
            limits: SandboxLimits { cpu, wall_clock, .. },
            share: TenantShare { concurrency, running, .. },
            quota,
            ..
        } = tenant;
        let most_running = self.pool.concurrency;
        let mut warnings = Vec::new();
        let mut warn = |holds: bool, key, message: String| {
            if holds {
                warnings.push((key, message))
            }
        };
        let no_effect = |with: &str| format!("it has no effect with {with}");
        warn(self.own.group_commit.is_some() && is_server, "group-commit", no_effect("a PostgreSQL database"));
        warn(self.own.connections.is_some() && !is_server, "connections", no_effect("an SQLite database"));
        warn(gives_max_age && has_key_file, "jwt.keys-max-age", no_effect("keys from a file, which is read once"));
        warn(
            cpu > wall_clock,
            "limits.cpu",
            format!("it is over limits.wall-clock, {wall_clock:?}, and never reached"),
        );
        let over = |most: usize, name: &str| format!("it is over {most} ({name}), and never reached");
        warn(*running > most_running, "limits.running", over(most_running, "pool.concurrency"));
        warn(
            running > concurrency && *running <= most_running,
            "limits.running",
            over(*concurrency, "limits.concurrency"),
        );
        let pepper_file = match (&self.own.key_pepper_file, &self.own.key_pepper_env) {
            (None, None) => self.defaults.key_pepper_file.as_ref(),
            (own, _) => own.as_ref(),
        };
        let mode = pepper_file.and_then(|file| private::mode_for_others(&self.folder.join(file.get_ref())));
        let readable = "every user of the system can read the key pepper: `chmod o-rwx` the file".to_owned();
        warn(mode.is_some(), "key-pepper-file", readable);
        if let (Some(per_day), Some(total)) = (quota.per_day, quota.total) {
            let message = format!("it is over limits.workspaces, {total}, and never reached");
            warn(per_day > total, "limits.workspaces-per-day", message);
        }
        warnings
    }

    fn address(&self) -> Result<DatabaseAddress, Wrong> {
        match self.get(|section| &section.database) {
            None => Err(Wrong::tenant("no database: give one, as in database = \"sqlite:acme.db\"")),
            Some(Address(DatabaseAddress::File(path))) => Ok(DatabaseAddress::File(self.folder.join(path))),
            Some(Address(other)) => Ok(other),
        }
    }

    fn pepper(&self) -> Result<String, Wrong> {
        // The tenant's own, of either kind, before the default of the other.
        let section = match (&self.own.key_pepper_file, &self.own.key_pepper_env) {
            (None, None) => self.defaults,
            _ => self.own,
        };
        let (pepper, place, key) = match (&section.key_pepper_file, &section.key_pepper_env) {
            (Some(file), None) => {
                let path = self.folder.join(file.get_ref());
                private::warn_if_others_can_read(&path, "the key pepper");
                let read = files::read_text(&path, PEPPER);
                let read = read.map_err(|error| {
                    Wrong::at(file, "key-pepper-file", format!("can't read {}: {error}", secret::path(&path)))
                });
                (read?, file.span(), "key-pepper-file")
            }
            (None, Some(name)) => {
                let read = env::var(name.get_ref()).map_err(|error| {
                    let variable = variable(name.get_ref());
                    let reason = match error {
                        VarError::NotPresent => "is not set",
                        VarError::NotUnicode(_) => "is not text in UTF-8",
                    };
                    Wrong::at(name, "key-pepper-env", format!("{variable} {reason}"))
                });
                (read?, name.span(), "key-pepper-env")
            }
            (Some(_), Some(name)) => {
                return Err(Wrong::at(name, "key-pepper-env", "key-pepper-file is given too: give one of the two"));
            }
            (None, None) => {
                return Err(Wrong::tenant(
                    "no key pepper: give key-pepper-file = \"FILE\", made with `openssl rand -hex 32`, or key-pepper-env = \"NAME\"",
                ));
            }
        };
        pepper::checked(&pepper).map_err(|error| Wrong { at: Some(place.start), key, message: error.to_string() })
    }

    fn tokens(&self, jwt: &JwtSection) -> Result<TokenConfig, Wrong> {
        let keys = KeySource::from_str(jwt.keys.get_ref());
        let keys = match keys.map_err(|error| Wrong::at(&jwt.keys, "jwt.keys", error.to_string()))? {
            KeySource::File(path) => KeySource::File(self.folder.join(path)),
            other => other,
        };
        for (value, key, example) in
            [(&jwt.issuer, "jwt.issuer", "https://login.acme.example/"), (&jwt.audience, "jwt.audience", "workspaces")]
        {
            if value.get_ref().is_empty() {
                let message = format!("it is empty: give what the tokens have, such as \"{example}\"");
                return Err(Wrong::at(value, key, message));
            }
        }
        let mut options = jwt::TokenOptions::new(jwt.issuer.get_ref(), jwt.audience.get_ref());
        if let Some(claim) = &jwt.account_claim {
            options.account_claim.clone_from(claim);
        }
        options.create_accounts = jwt.create_accounts;
        if let Some(age) = &jwt.keys_max_age {
            let Time(time) = *age.get_ref();
            if time < jwt::MIN_KEYS_AGE {
                return Err(Wrong::at(age, "jwt.keys-max-age", format!("give {:?} at least", jwt::MIN_KEYS_AGE)));
            }
            options.keys_max_age = time;
        }
        Ok(TokenConfig::new(keys, options))
    }

    /// Returns the limits, and adds those that can't be used to `wrongs`.
    pub(super) fn limits(&self, wrongs: &mut Vec<Wrong>) -> SandboxLimits {
        macro_rules! limit {
            ($key:ident) => {
                self.own.limits.$key.as_ref().or(self.defaults.limits.$key.as_ref())
            };
        }
        let (default, pool) = (SandboxLimits::default(), self.pool);
        let (memory, table_elements) = (limit!(memory), limit!(table_elements));
        if let Some(memory) = memory.filter(|memory| memory.get_ref().bytes() > pool.memory) {
            wrongs.push(Wrong::at(memory, "limits.memory", over(pool.memory, "pool.memory")));
        }
        if let Some(elements) = table_elements.filter(|elements| *elements.get_ref() > pool.table_elements) {
            let message = over(pool.table_elements, "pool.table-elements");
            wrongs.push(Wrong::at(elements, "limits.table-elements", message));
        }
        let (memories, tables, core_instances) = (limit!(memories), limit!(tables), limit!(core_instances));
        for (number, key, most, name) in [
            (memories, "limits.memories", pool.memories, "pool.memories"),
            (tables, "limits.tables", pool.tables, "pool.tables"),
            (core_instances, "limits.core-instances", pool.core_instances, "pool.core-instances"),
        ] {
            if let Some(number) = number.filter(|number| number.get_ref().get() > most) {
                wrongs.push(Wrong::at(number, key, over(most as usize, name)));
            }
        }
        let at_most = |number: Option<&Spanned<NonZeroU32>>, default: u32, most: u32| {
            number.map_or(default.min(most), |number| number.get_ref().get())
        };
        let (cpu, wall_clock) = (limit!(cpu), limit!(wall_clock));
        for (time, key) in [(cpu, "limits.cpu"), (wall_clock, "limits.wall-clock")] {
            if let Some(time) = time.filter(|time| time.get_ref().0 < TICK) {
                wrongs.push(Wrong::at(time, key, format!("no component answers in that time: give {TICK:?} at least")));
            }
        }
        SandboxLimits {
            memory: memory.map_or(default.memory.min(pool.memory), |memory| memory.get_ref().bytes()),
            memories: at_most(memories, default.memories, pool.memories),
            tables: at_most(tables, default.tables, pool.tables),
            core_instances: at_most(core_instances, default.core_instances, pool.core_instances),
            table_elements: table_elements
                .map_or(default.table_elements.min(pool.table_elements), |elements| *elements.get_ref()),
            cpu: cpu.map_or(default.cpu, |time| time.get_ref().0),
            wall_clock: wall_clock.map_or(default.wall_clock, |time| time.get_ref().0),
            host_calls: limit!(host_calls).map_or(default.host_calls, |calls| calls.get()),
            hostcall_bytes: limit!(hostcall_bytes).map_or(default.hostcall_bytes, |size| size.bytes()),
            handles: limit!(handles).map_or(default.handles, |handles| handles.get()),
            faults_logged: limit!(faults_logged).copied().unwrap_or(default.faults_logged),
            requests_per_instance: limit!(requests_per_instance).copied().unwrap_or(default.requests_per_instance),
            wasi: self.get(|section| &section.wasi).unwrap_or(default.wasi),
        }
    }

    fn quota(&self) -> Quota {
        let [own, defaults] = [&self.own.limits, &self.defaults.limits];
        Quota {
            per_day: own.workspaces_per_day.or(defaults.workspaces_per_day),
            total: own.workspaces.or(defaults.workspaces),
        }
    }

    /// Returns the tenant's share of the pool, and adds what of it can't be used to `wrongs`.
    fn share(&self, wrongs: &mut Vec<Wrong>) -> TenantShare {
        let [own, defaults] = [&self.own.limits, &self.defaults.limits];
        let all = self.pool.concurrency.saturating_add(self.pool.queue);
        let concurrency = own.concurrency.as_ref().or(defaults.concurrency.as_ref());
        if let Some(concurrency) = concurrency.filter(|concurrency| concurrency.get_ref().get() > all) {
            wrongs.push(Wrong::at(concurrency, "limits.concurrency", over(all, "pool.concurrency + pool.queue")));
        }
        let (rate, burst) = (own.rate.or(defaults.rate), own.burst.as_ref().or(defaults.burst.as_ref()));
        if let (None, Some(burst)) = (rate, burst) {
            let message = "there is no limits.rate: give the rate, as in rate = 100";
            wrongs.push(Wrong::at(burst, "limits.burst", message));
        }
        let burst = burst.map(|burst| *burst.get_ref());
        let rate = rate.map(|per_second| Rate { per_second, burst: burst.unwrap_or(per_second) });
        let concurrency = concurrency.map_or(all.div_ceil(SHARE), |concurrency| concurrency.get_ref().get());
        let running = own.running.or(defaults.running);
        let running = running.map_or(self.pool.concurrency.div_ceil(SHARE), NonZero::get);
        TenantShare { concurrency, running, rate }
    }
}

/// Returns a value that can be used, or adds why it can't be.
fn keep<T>(wrongs: &mut Vec<Wrong>, value: Result<T, Wrong>) -> Option<T> {
    value.map_err(|wrong| wrongs.push(wrong)).ok()
}

/// Says that a limit is over the pool's.
fn over(most: usize, pool: &str) -> String {
    format!("over {most}, the limit of the pool ({pool})")
}

/// Shows the name of an environment variable, unless it may be the secret itself in its place.
fn variable(name: &str) -> &str {
    let is_name = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    if is_name && name.len() < 64 { name } else { "the variable (its name is not shown: it may be a secret)" }
}
