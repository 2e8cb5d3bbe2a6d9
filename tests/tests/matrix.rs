//! Access matrix: every caller with every account, organization and form of credential, against the
//! rules as sets.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context as _, Result, ensure};
use rusqlite::Connection;
use serde_json::{Map, Value, json};
use uuid::Uuid;
use workspaces_host::auth::api_key::Pepper;
use workspaces_tests::{Answer, Client, Deployment, Server};

/// Memberships. Grace shares an organization with Ada and with Mallory, who share none with
/// each other; Sam shares one with Ada, and one with Root, an administrator as he is.
const MEMBERS: [(&str, &[&str]); 3] =
    [("label", &["ada", "grace", "sam"]), ("studio", &["grace", "mallory"]), (ADMINISTRATORS, &["root", "sam"])];

const ADMINISTRATORS: &str = "admins";

/// Ada's, and shown by `label`: that makes it a member of nothing.
const WORKSPACE: &str = "workspace";

/// Names of all accounts. `hermit` is a member of nothing.
const EVERYBODY: [&str; 10] =
    ["ada", "grace", "mallory", "sam", "root", "hermit", "label", "studio", ADMINISTRATORS, WORKSPACE];

/// An id that nothing has.
const NOBODY: &str = "nobody";

/// The tables that a create writes.
const TABLES: [&str; 5] =
    ["accounts", "account_info", "account_workspace_ids", "artist_organization_ids", "idempotency_keys"];

/// Form of the credential.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// A key of the caller's in `x-api-key`.
    ApiKey(Key),
    /// The same in `Authorization`.
    Bearer(Key),
    /// A valid key in each of the two.
    Both,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Valid,
    Revoked,
    Expired,
    /// Hashed with another pepper than the server's.
    Foreign,
}

const KEYS: [Key; 4] = [Key::Valid, Key::Revoked, Key::Expired, Key::Foreign];

const FORMS: [Form; 7] = [
    Form::ApiKey(Key::Valid),
    Form::Bearer(Key::Valid),
    Form::ApiKey(Key::Revoked),
    Form::Bearer(Key::Expired),
    Form::ApiKey(Key::Foreign),
    Form::Both,
    Form::None,
];

/// An id in the body.
#[derive(Debug, Clone, Copy)]
enum Id {
    Absent,
    Null,
    Of(&'static str),
}

impl Id {
    fn all() -> impl Iterator<Item = Self> {
        [Self::Absent, Self::Null].into_iter().chain(EVERYBODY.into_iter().chain([NOBODY]).map(Self::Of))
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Self::Absent | Self::Null => None,
            Self::Of(name) => Some(name),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    caller: &'static str,
    account: Id,
    organization: Id,
    form: Form,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Verdict {
    Created { account: &'static str, organization: Option<&'static str> },
    Unauthenticated,
    AccountForbidden,
    OrganizationForbidden,
}

impl Cell {
    /// Returns the outcome by the rules of the deployment.
    fn outcome(self, has_administrators: bool) -> Verdict {
        let Self { caller, account, organization, form } = self;
        if !matches!(form, Form::ApiKey(Key::Valid) | Form::Bearer(Key::Valid)) {
            return Verdict::Unauthenticated;
        }
        let account = account.name().unwrap_or(caller);
        let organization = organization.name();
        let shared = MEMBERS.iter().any(|(_, members)| members.contains(&caller) && members.contains(&account));
        let administers = has_administrators && is_member(caller, ADMINISTRATORS) && EVERYBODY.contains(&account);
        if account != caller && !shared && !administers {
            return Verdict::AccountForbidden;
        }
        match organization {
            Some(organization) if organization != account && !is_member(account, organization) => {
                Verdict::OrganizationForbidden
            }
            organization => Verdict::Created { account, organization },
        }
    }
}

fn is_member(account: &str, organization: &str) -> bool {
    MEMBERS.iter().any(|(name, members)| *name == organization && members.contains(&account))
}

impl Verdict {
    fn status(self) -> u16 {
        match self {
            Self::Created { .. } => 201,
            Self::Unauthenticated => 401,
            Self::AccountForbidden | Self::OrganizationForbidden => 403,
        }
    }

    /// Returns the number of rows that it adds to each of the [`TABLES`].
    fn rows(self) -> [i64; 5] {
        match self {
            Self::Created { organization: None, .. } => [1, 1, 1, 0, 0],
            Self::Created { organization: Some(_), .. } => [1, 1, 1, 1, 0],
            _ => [0; 5],
        }
    }
}

/// A server with everybody on it, and a key of each kind for each.
struct Scene {
    deployment: Deployment,
    server: Server,
    ids: HashMap<&'static str, Uuid>,
    keys: HashMap<(&'static str, Key), String>,
}

impl Scene {
    fn new(has_administrators: bool) -> Result<Self> {
        let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
        let mut ids = HashMap::from([(NOBODY, Uuid::new_v4())]);
        for name in EVERYBODY.into_iter().filter(|name| *name != WORKSPACE) {
            ids.insert(name, deployment.run(&["account", "create", "--name", name])?.parse()?);
        }
        for (organization, members) in MEMBERS {
            let organization = ids[organization].to_string();
            for member in members {
                deployment.run(&["organization", "add-member", &organization, &ids[member].to_string()])?;
            }
        }
        let administrators = ids[ADMINISTRATORS].to_string();
        let server = match has_administrators {
            true => deployment.serve(&["--admin-organization", &administrators])?,
            false => deployment.serve(&[])?,
        };
        let mut scene = Self { deployment, server, ids, keys: HashMap::new() };
        scene.make_keys("ada")?;
        let body = json!({"organization_id": scene.ids["label"]}).to_string();
        let made = scene.server.create(&scene.keys[&("ada", Key::Valid)], body)?.json()?;
        scene.ids.insert(WORKSPACE, made["workspace"]["id"].as_str().context("no workspace")?.parse()?);
        EVERYBODY.into_iter().filter(|name| *name != "ada").try_for_each(|name| scene.make_keys(name))?;
        Ok(scene)
    }

    fn make_keys(&mut self, name: &'static str) -> Result<()> {
        let account = self.ids[name].to_string();
        for kind in KEYS {
            let more: &[&str] = match kind {
                Key::Valid => &[],
                Key::Revoked | Key::Foreign => &["--json"],
                Key::Expired => &["--expires-in", "0s"],
            };
            let printed = self.deployment.run(&[&["key", "create", &account], more].concat())?;
            let key = match kind {
                Key::Revoked => {
                    let made: Value = serde_json::from_str(&printed)?;
                    self.deployment.run(&["key", "revoke", made["id"].as_str().context("no id of a key")?])?;
                    made["key"].as_str().context("no key")?.to_owned()
                }
                Key::Foreign => {
                    // `key create` refuses another pepper than the one of the keys that are there.
                    let made: Value = serde_json::from_str(&printed)?;
                    let key = made["key"].as_str().context("no key")?.to_owned();
                    let id: Uuid = made["id"].as_str().context("no id of a key")?.parse()?;
                    let hash = Pepper::new(b"another pepper than the server's").hash(&key);
                    let connection = Connection::open(self.deployment.database())?;
                    let changed = "UPDATE account_api_keys SET key_hash = ?1 WHERE id = ?2";
                    assert_eq!(connection.execute(changed, rusqlite::params![hash, id])?, 1);
                    key
                }
                _ => printed,
            };
            self.keys.insert((name, kind), key);
        }
        Ok(())
    }

    /// Sends what the cell says.
    fn send(&self, client: &mut Client, cell: &Cell) -> Result<Answer> {
        let key = |kind| self.keys[&(cell.caller, kind)].clone();
        let bearer = |kind| format!("Bearer {}", key(kind));
        let credentials = match cell.form {
            Form::ApiKey(kind) => vec![("x-api-key", key(kind))],
            Form::Bearer(kind) => vec![("Authorization", bearer(kind))],
            Form::Both => vec![("x-api-key", key(Key::Valid)), ("Authorization", bearer(Key::Valid))],
            Form::None => vec![],
        };
        let mut body = Map::new();
        for (field, id) in [("account_id", cell.account), ("organization_id", cell.organization)] {
            match id {
                Id::Absent => {}
                Id::Null => drop(body.insert(field.into(), Value::Null)),
                Id::Of(name) => drop(body.insert(field.into(), json!(self.ids[name]))),
            }
        }
        let headers: Vec<_> = credentials.iter().map(|(name, value)| (*name, value.as_str())).collect();
        client.post(&headers, &Value::Object(body).to_string())
    }

    /// Holds what was answered and written against what the rules say.
    fn judge(&self, database: &Connection, outcome: Verdict, answer: &Answer, written: [i64; 5]) -> Result<()> {
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == outcome.status(), "{} {text} instead of {outcome:?}", answer.status);
        ensure!(written == outcome.rows(), "{written:?} rows more in {TABLES:?} for {outcome:?}");
        let body = answer.json()?;
        let Verdict::Created { account, organization } = outcome else {
            let message = body["message"].as_str().context("no message")?;
            ensure!(body == json!({"error": outcome.status(), "message": message}), "{body}");
            return Ok(());
        };
        let (account, organization) = (self.ids[account], organization.map(|name| self.ids[name]));
        let id: Uuid = body["workspace"]["id"].as_str().context("no id")?.parse()?;
        let workspace = json!({"id": id, "name": "Untitled", "account_id": account, "isWorkspace": true});
        ensure!(body == json!({"workspace": workspace}), "{body}");
        let rows: (i64, i64, Option<Uuid>, Option<Uuid>) = database
            .prepare_cached(
                "SELECT (SELECT count(*) FROM accounts WHERE id = ?1 AND name = 'Untitled'),
                        (SELECT count(*) FROM account_info WHERE account_id = ?1),
                        (SELECT account_id FROM account_workspace_ids WHERE workspace_id = ?1),
                        (SELECT organization_id FROM artist_organization_ids WHERE artist_id = ?1)",
            )?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        ensure!(rows == (1, 1, Some(account), organization), "{rows:?} for {account} and {organization:?}");
        Ok(())
    }
}

/// Returns how many rows each of the [`TABLES`] has.
fn count(database: &Connection) -> Result<[i64; 5]> {
    let mut counts = [0; 5];
    for (count, table) in counts.iter_mut().zip(TABLES) {
        *count = database.prepare_cached(&format!("SELECT count(*) FROM {table}"))?.query_row([], |row| row.get(0))?;
    }
    Ok(counts)
}

/// Goes through all cells; how many there are of each status.
fn go_through(has_administrators: bool) -> Result<BTreeMap<u16, usize>> {
    let scene = Scene::new(has_administrators)?;
    let database = Connection::open(scene.deployment.database())?;
    let mut client = Client::new(scene.server.address(), "");
    let (mut statuses, mut bodies, mut wrong) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    let mut before = count(&database)?;
    let cells = FORMS.into_iter().flat_map(|form| {
        let of = move |caller| Id::all().map(move |account| (caller, account));
        EVERYBODY.into_iter().flat_map(of).flat_map(move |(caller, account)| {
            Id::all().map(move |organization| Cell { caller, account, organization, form })
        })
    });
    for cell in cells {
        let outcome = cell.outcome(has_administrators);
        let answer = scene.send(&mut client, &cell).with_context(|| format!("{cell:?}"))?;
        let after = count(&database)?;
        let written = std::array::from_fn(|table| after[table] - before[table]);
        before = after;
        if let Err(error) = scene.judge(&database, outcome, &answer, written) {
            wrong.push(format!("{cell:?}: {error}"));
        }
        *statuses.entry(answer.status).or_default() += 1;
        if answer.status >= 400 {
            bodies.entry(outcome).or_insert_with(HashSet::new).insert(answer.body);
        }
    }
    assert!(wrong.is_empty(), "{} cells are wrong, such as {:#?}", wrong.len(), &wrong[..wrong.len().min(8)]);
    // A 401 tells no credential, two, and one that is not valid apart; what is there and out of reach is told
    // apart from what is not there by nothing.
    assert_eq!(bodies.values().map(HashSet::len).collect::<Vec<_>>(), [3, 1, 1], "{bodies:?}");
    assert_eq!(bodies.into_values().flatten().collect::<HashSet<_>>().len(), 5, "each refusal has its own words");
    Ok(statuses)
}

// Of the 10 * 13 * 13 cells of a form, by hand: an account may link to nothing (absent or null), itself, and each
// organization it is a member of, which is 3 to 5 ways; each caller reaches itself three times (absent, null, by
// its id) and each other account within its reach once.

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn every_cell_is_as_the_rules_say() -> Result<()> {
    // Ada 22, Grace 28, Mallory 17, Sam 47, Root 45, and 9 for each of the five others.
    let created = 2 * (22 + 28 + 17 + 47 + 45 + 5 * 9);
    assert_eq!(go_through(true)?, BTreeMap::from([(201, created), (401, 5 * 1690), (403, 2 * 1690 - created)]));
    Ok(())
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn every_cell_is_as_the_rules_say_where_nobody_is_an_administrator() -> Result<()> {
    // Sam reaches Ada, Grace and Root only, and Root only Sam.
    let created = 2 * (22 + 28 + 17 + 28 + 17 + 5 * 9);
    assert_eq!(go_through(false)?, BTreeMap::from([(201, created), (401, 5 * 1690), (403, 2 * 1690 - created)]));
    Ok(())
}
