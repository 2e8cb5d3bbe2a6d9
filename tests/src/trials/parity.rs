//! Sends the same generated requests to a server on SQLite and one on PostgreSQL, and compares the answers.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use serde_json::Value;

use crate::{Answer, Deployment, Server};

/// Number of requests that are under way at once.
const LANES: usize = 4;

/// Maximum number of times that a request is sent, where it is answered with 503.
const TRIES: usize = 20;

/// Accounts, then organizations. The first [`LIVE`] have a key.
const ACCOUNTS: [&str; 6] = ["Ada", "Grace", "Mallory", "Hermit", "Root", "Artist"];
const ORGANIZATIONS: [&str; 3] = ["Label", "Studio", "Administrators"];
/// Memberships, as places in the lists above: Grace reaches Ada and Mallory, who don't
/// reach each other; Hermit reaches nobody, Root everybody.
const MEMBERS: [(usize, usize); 6] = [(0, 0), (0, 1), (0, 5), (1, 1), (1, 2), (2, 4)];
const ADMINISTRATORS: usize = 2;
const LIVE: usize = 5;
/// Credentials that belong to nobody, beside an expired and a revoked key.
const UNKNOWN: [&str; 3] = ["recoup_sk_0123456789abcdef", "recoup_sk_", "a.b.c"];
const DEAD: usize = 2 + UNKNOWN.len();

/// Result of the trial, the same on both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParityReport {
    /// Number of requests answered with each status.
    pub statuses: BTreeMap<u16, usize>,
    /// Number of 201 that gave the answer of an earlier request again.
    pub replayed: usize,
    /// Number of 503: they depend on the machine's moment, write nothing, and the request was sent again.
    pub sent_again: usize,
    /// Number of workspaces at the end.
    pub workspaces: usize,
}

/// Sends so many requests to each, on a new SQLite database and on the empty PostgreSQL database at this address.
/// The same seed makes the same requests.
///
/// # Errors
///
/// At the first difference, with the request and both answers, or where a server fails.
pub fn run(program: &str, postgres_url: &str, requests: usize, seed: u64) -> Result<ParityReport> {
    compare(program, postgres_url, requests, seed).with_context(|| format!("parity with the seed {seed}"))
}

fn compare(program: &str, postgres_url: &str, requests: usize, seed: u64) -> Result<ParityReport> {
    let mut rng = Rng::with_seed(seed);
    let ids = [(); ACCOUNTS.len() + ORGANIZATIONS.len()].map(|()| random_id(&mut rng));
    let sides = [
        Side::set_up(Deployment::new(program)?, &ids)?,
        Side::set_up(Deployment::on_postgres(program, postgres_url)?, &ids)?,
    ];
    let stopped = AtomicBool::new(false);
    let mut report = ParityReport::default();
    thread::scope(|scope| -> Result<()> {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                let generator = Generator { rng: rng.fork(), ids: &ids, lane, keyed: Vec::new() };
                let share = requests / LANES + usize::from(lane < requests % LANES);
                let (sides, stopped) = (&sides, &stopped);
                scope.spawn(move || {
                    drive(sides, generator, share, stopped).inspect_err(|_| stopped.store(true, Relaxed))
                })
            })
            .collect();
        for lane in lanes {
            let part = lane.join().unwrap_or_else(|_| bail!("a client panicked"))?;
            part.statuses.into_iter().for_each(|(status, count)| *report.statuses.entry(status).or_default() += count);
            report.replayed += part.replayed;
            report.sent_again += part.sent_again;
        }
        Ok(())
    })?;
    let [sqlite, postgres] = [sides[0].workspaces()?, sides[1].workspaces()?];
    let odd = sqlite.iter().find(|(row, count)| postgres.get(*row) != Some(count));
    ensure!(sqlite == postgres, "the databases differ, such as in how often there is {odd:?} of SQLite's");
    report.workspaces = sqlite.values().sum();
    let created = report.statuses.get(&201).copied().unwrap_or_default() - report.replayed;
    ensure!(report.workspaces == created, "{created} were created, {} are there", report.workspaces);
    Ok(report)
}

/// Sends one lane's requests, one after the other. An idempotency key belongs to a lane, so that both
/// sides see the requests that share it in one order.
fn drive(
    sides: &[Side; 2],
    mut generator: Generator<'_>,
    requests: usize,
    stopped: &AtomicBool,
) -> Result<ParityReport> {
    let mut report = ParityReport::default();
    let mut twins = HashMap::new();
    for _ in 0..requests {
        if stopped.load(Relaxed) {
            break;
        }
        let request = generator.request();
        let shown = || format!("{:?} {:?} {}", request.credentials, request.headers, request.body.escape_ascii());
        let mut answer = |side: &Side| {
            let (answer, times) = side.send(&request).with_context(shown)?;
            report.sent_again += times - 1;
            // Both failing alike would be no parity to be proud of.
            ensure!(answer.status < 500, "a server failed\nrequest: {}\nanswer: {}", shown(), show(&answer));
            without_id(answer)
        };
        let ((sqlite, id), (postgres, twin)) = (answer(&sides[0])?, answer(&sides[1])?);
        let difference = || format!("{}\nSQLite: {}\nPostgreSQL: {}", shown(), show(&sqlite), show(&postgres));
        ensure!(sqlite == postgres, "the answers differ\n{}", difference());
        *report.statuses.entry(sqlite.status).or_default() += 1;
        if let (Some(id), Some(twin)) = (id, twin) {
            // A replay is of the same earlier request on both; anything else is new on both.
            let replayed = sqlite.header("idempotency-replayed").is_some();
            let known = twins.insert(id.clone(), twin.clone());
            ensure!(
                known.as_ref() == replayed.then_some(&twin),
                "a replay is of another workspace, {id} or {twin}\n{}",
                difference()
            );
            report.replayed += usize::from(replayed);
        }
    }
    Ok(report)
}

/// Returns the answer without what is each server's own: times, and the workspace's id, which comes beside it.
fn without_id(mut answer: Answer) -> Result<(Answer, Option<String>)> {
    answer.headers.retain(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id"));
    if answer.status != 201 {
        return Ok((answer, None));
    }
    let id = answer.json()?["workspace"]["id"].as_str().context("no id in a 201")?.to_owned();
    answer.body = String::from_utf8(answer.body)?.replacen(&id, "ID", 1).into_bytes();
    Ok((answer, Some(id)))
}

fn show(answer: &Answer) -> String {
    format!("{} {:?} {}", answer.status, answer.headers, answer.body.escape_ascii())
}

/// Database, and the server on it.
struct Side {
    server: Server,
    deployment: Deployment,
    /// Keys of the first accounts, then the [`DEAD`] ones.
    keys: Vec<String>,
}

impl Side {
    fn set_up(deployment: Deployment, ids: &[String]) -> Result<Self> {
        let (accounts, organizations) = ids.split_at(ACCOUNTS.len());
        for (name, id) in ACCOUNTS.iter().zip(accounts) {
            deployment.run(&["account", "create", "--name", name, "--id", id])?;
        }
        for (name, id) in ORGANIZATIONS.iter().zip(organizations) {
            deployment.run(&["organization", "create", "--name", name, "--id", id])?;
        }
        for (organization, account) in MEMBERS {
            deployment.run(&["organization", "add-member", &organizations[organization], &accounts[account]])?;
        }
        let mut keys = Vec::new();
        for account in &accounts[..LIVE] {
            keys.push(deployment.run(&["key", "create", account])?);
        }
        keys.push(deployment.run(&["key", "create", &accounts[0], "--expires-in", "0s"])?);
        let revoked: Value = serde_json::from_str(&deployment.run(&["key", "create", &accounts[0], "--json"])?)?;
        deployment.run(&["key", "revoke", revoked["id"].as_str().context("no id of a key")?])?;
        keys.push(revoked["key"].as_str().context("no key")?.to_owned());
        keys.extend(UNKNOWN.map(str::to_owned));
        let server = deployment.serve(&["--admin-organization", &organizations[ADMINISTRATORS]])?;
        Ok(Self { server, deployment, keys })
    }

    /// Returns the answer, and how often the request was sent for it.
    fn send(&self, request: &Request) -> Result<(Answer, usize)> {
        let credentials = request.credentials.iter();
        let credentials = credentials.map(|(name, scheme, key)| (*name, format!("{scheme}{}", self.keys[*key])));
        let headers: Vec<_> = credentials.chain(request.headers.iter().cloned()).collect();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut times = 1;
        loop {
            let answer = self.server.send("POST", "/api/workspaces", &headers, &request.body)?;
            if answer.status != 503 || times == TRIES {
                return Ok((answer, times));
            }
            times += 1;
        }
    }

    /// Returns the workspaces but for their ids, and how many there are of each.
    fn workspaces(&self) -> Result<BTreeMap<String, usize>> {
        let rows: Vec<Value> = serde_json::from_str(&self.deployment.run(&["workspace", "list", "--json"])?)?;
        let mut count = BTreeMap::new();
        for mut row in rows {
            row.as_object_mut().context("a row that is no object")?.remove("id");
            *count.entry(row.to_string()).or_default() += 1;
        }
        Ok(count)
    }
}

#[derive(Clone)]
struct Request {
    /// Header, scheme, and which of a side's keys follows.
    credentials: Vec<(&'static str, &'static str, usize)>,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// Makes requests, most of them nearly right: those get furthest.
struct Generator<'a> {
    rng: Rng,
    ids: &'a [String],
    lane: usize,
    /// Requests that had an idempotency key.
    keyed: Vec<Request>,
}

impl Generator<'_> {
    fn request(&mut self) -> Request {
        if !self.keyed.is_empty() && self.one_in(6) {
            return self.keyed[self.rng.usize(..self.keyed.len())].clone();
        }
        let content_type = if self.one_in(64) { "text/plain" } else { "application/json" };
        let mut headers = vec![("content-type", content_type.to_owned())];
        let is_keyed = self.one_in(2);
        if is_keyed {
            headers.push(("idempotency-key", self.idempotency_key()));
            if self.one_in(32) {
                headers.push(("idempotency-key", self.idempotency_key()));
            }
        }
        let request = Request { credentials: self.credentials(), headers, body: self.body() };
        if is_keyed {
            self.keyed.push(request.clone());
        }
        request
    }

    fn idempotency_key(&mut self) -> String {
        match self.rng.u8(..24) {
            0 => self.pick(&["", "a b", "\"open", "\"a\\b\"", "é"]).to_owned(),
            1 => format!("lane-{}-{}", self.lane, "k".repeat(self.rng.usize(247..=249))),
            2..=4 => format!("\"lane-{}-{}\"", self.lane, self.rng.u8(..64)),
            _ => format!("lane-{}-{}", self.lane, self.rng.u8(..64)),
        }
    }

    fn credentials(&mut self) -> Vec<(&'static str, &'static str, usize)> {
        let live = self.rng.usize(..LIVE);
        match self.rng.u8(..64) {
            0 => vec![],
            1 => vec![("x-api-key", "", live), ("authorization", "Bearer ", live)],
            2 => vec![("x-api-key", "", live), ("x-api-key", "", live)],
            3 => vec![("authorization", self.pick(&["Basic ", "", "Bearer\t"]), live)],
            4..=6 => vec![("x-api-key", "", self.rng.usize(LIVE..LIVE + DEAD))],
            7 => vec![("authorization", "Bearer ", self.rng.usize(LIVE..LIVE + DEAD))],
            8..=23 => vec![("authorization", self.pick(&["Bearer ", "bearer  "]), live)],
            _ => vec![("x-api-key", "", live)],
        }
    }

    fn body(&mut self) -> Vec<u8> {
        let values = [("name", self.name()), ("account_id", self.id()), ("organization_id", self.id())];
        let mut fields: Vec<_> =
            values.into_iter().filter_map(|(field, value)| Some(format!("{field:?}:{}", value?))).collect();
        if self.one_in(8) {
            fields.push(self.pick(&["\"x\":[1,{\"y\":null}]", "\"Name\":1", "\"x\":1e999", "\"\":{}"]).to_owned());
        }
        if self.one_in(24) && !fields.is_empty() {
            fields.push(fields[self.rng.usize(..fields.len())].clone());
        }
        self.rng.shuffle(&mut fields);
        let mut body = format!("{{{}}}", fields.join(",")).into_bytes();
        match self.rng.u8(..96) {
            0 => body.truncate(self.rng.usize(..body.len())),
            1 => {
                let at = self.rng.usize(..body.len());
                body[at] = self.rng.u8(..);
            }
            2 => {
                let depth = self.rng.usize(62..=65);
                body = format!("{{\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
            }
            3 => body = self.pick(&["", " ", "null", "[]", "\"x\"", "{}{}", "{,}", "\u{feff}{}", "{}\n"]).into(),
            _ => {}
        }
        body
    }

    /// Returns the text of a name in JSON; `None` leaves it out.
    fn name(&mut self) -> Option<String> {
        let text: String = match self.rng.u8(..24) {
            0..=2 => return None,
            3 => return Some("null".into()),
            4 => return Some(self.pick(&["1", "true", "[]", "{}", "[\"A\"]", "-0", "1e999", "\"\\ud800\""]).into()),
            5 => return Some(self.pick(&["\"\\u0041\\ud83c\\udfb8\"", "\"\\/\\b\"", "\"a\tb\""]).into()),
            6 | 7 => self.pick(&["", " ", "\t\r\n", "\u{3000}\u{2028}", "\u{200b}"]).into(),
            8 | 9 => {
                let length = self.rng.usize(254..=256);
                self.pick(&["a", "é", "🎸", " "]).repeat(length)
            }
            10 => format!("a{}b", self.pick(&["\0", "\n", "\u{1b}", "\u{7f}", "\u{85}", "\u{202e}", "\u{2066}"])),
            11..=15 => (0..self.rng.usize(1..40)).map(|_| self.rng.char(..)).collect(),
            _ => self.pick(&["Studio", "\n Studio A\t", "O'Brien \"&\" $1 ?1 %s \\", "e\u{301}", "NULL"]).into(),
        };
        Some(Value::from(text).to_string())
    }

    /// Returns the text of an id in JSON; `None` leaves it out.
    fn id(&mut self) -> Option<String> {
        let known = self.ids[self.rng.usize(..self.ids.len())].clone();
        let text = match self.rng.u8(..64) {
            0..=26 => return None,
            27..=32 => return Some("null".into()),
            33 => return Some(self.pick(&["1", "false", "[]", "{}"]).into()),
            34 => random_id(&mut self.rng),
            35 => self.pick(&["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]).into(),
            36 => self.pick(&["", "x", "123e4567-e89b-42d3-a456-42661417400"]).into(),
            37 => self.pick(&["{ID}", "urn:uuid:ID", " ID", "ID\n", "\0ID", "ID0"]).replace("ID", &known),
            38 => known.replace('-', ""),
            39..=43 => known.to_uppercase(),
            _ => known,
        };
        Some(Value::from(text).to_string())
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(..n) == 0
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.rng.usize(..from.len())]
    }
}

fn random_id(rng: &mut Rng) -> String {
    uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid().to_string()
}
