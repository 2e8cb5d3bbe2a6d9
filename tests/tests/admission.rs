//! Admission: what requests, strangers and idle clients of one tenant hold, and what they leave to others.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::time::timeout;
use uuid::Uuid;
use workspaces_host::{
    CreateWorkspaceRequest, Error, TenantShare, Workspaces,
    auth::{Auth, Caller, Credential, Denial, Grant},
    storage::sqlite::Sqlite,
};
use workspaces_tests::{
    Answer, Client, Tenants,
    postgres::{self, Postgres},
    trials::neighbour_rates::{self, Trouble},
    write_head,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// A well-formed API key that no database holds.
const UNKNOWN: &str = "recoup_sk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A network before a server, that can stop to deliver anything.
struct Network {
    address: SocketAddr,
    is_down: Arc<AtomicBool>,
}

impl Network {
    fn before(port: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let network = Self { address: listener.local_addr()?, is_down: Arc::default() };
        let is_down = network.is_down.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else { continue };
                deliver(client, server, is_down.clone());
                deliver(from_server, to_client, is_down.clone());
            }
        });
        Ok(network)
    }
}

fn deliver(mut from: TcpStream, mut to: TcpStream, is_down: Arc<AtomicBool>) {
    thread::spawn(move || {
        let mut bytes = [0; 16 << 10];
        while let Ok(read) = from.read(&mut bytes)
            && read > 0
        {
            while is_down.load(Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
            if to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

#[test]
fn requests_at_a_database_that_hangs_keep_no_connection_from_another_tenant() -> Result<()> {
    if !postgres::available()? {
        return Ok(());
    }
    let (database, tenants) = (Postgres::start()?, Tenants::new(PROGRAM)?);
    let network = Network::before(database.port())?;
    let url = database.url().replace(&format!(":{}", database.port()), &format!(":{}", network.address.port()));
    tenants.deployment().run(&["database", "migrate", "--database", &url])?;
    let account = tenants.deployment().run(&["account", "create", "--database", &url])?;
    let valid = tenants.deployment().run(&["key", "create", &account, "--database", &url])?;
    let healthy = tenants.key("healthy")?;
    tenants.configure(&format!(
        "max-connections = 16
         [tenants.stuck]\npath = \"/stuck\"\ndatabase = \"{url}\"
         [tenants.healthy]\npath = \"/healthy\"\ndatabase = \"sqlite:healthy.db\""
    ))?;
    let server = tenants.serve()?;
    let statuses = |key: &str| -> Result<Vec<u16>> {
        let answers: Vec<Result<Answer>> = thread::scope(|scope| {
            let clients: Vec<_> = (0..64).map(|_| scope.spawn(|| server.create_at("/stuck", key, "{}"))).collect();
            // The other tenant's client comes last, behind all of them.
            thread::sleep(Duration::from_millis(300));
            let sent = Instant::now();
            let answer = Client::new(server.address(), &healthy).under("/healthy").create("{}", None)?;
            let elapsed = sent.elapsed();
            ensure!(answer.status == 201, "{answer:?}");
            ensure!(elapsed < Duration::from_secs(5), "the other tenant's client waited for {elapsed:?}");
            Ok::<_, anyhow::Error>(clients.into_iter().filter_map(|client| client.join().ok()).collect())
        })?;
        answers.into_iter().map(|answer| Ok(answer?.status)).collect()
    };
    assert_eq!(server.create_at("/stuck", &valid, "{}")?.status, 201);
    network.is_down.store(true, Relaxed);
    for key in [UNKNOWN, &valid] {
        let statuses = statuses(key)?;
        assert!(statuses.iter().all(|status| matches!(status, 429 | 503)), "{statuses:?}");
    }
    network.is_down.store(false, Relaxed);
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.create_at("/stuck", &valid, "{}")?.status != 201 {
        ensure!(Instant::now() < deadline, "the tenant is not served again");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn a_body_that_comes_slowly_holds_no_place() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    tenants.configure("[tenants.acme]\ndatabase = \"sqlite:acme.db\"\nlimits = { concurrency = 1 }")?;
    let server = tenants.serve()?;
    let mut slow = server.connect()?;
    let headers = [("x-api-key", key.as_str()), ("Content-Type", "application/json"), ("Expect", "100-continue")];
    write_head(&mut slow, "POST", "/api/workspaces", &headers, Some(2))?;
    // "100 Continue" is the sign that the server waits for the body.
    let mut line = [0; 25];
    slow.read_exact(&mut line)?;
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(server.create_at("", &key, "{}")?.status, 201);
    slow.write_all(b"{}")?;
    assert_eq!(Answer::read(slow)?.status, 201);
    Ok(())
}

#[test]
fn connections_close_after_their_answer_while_more_than_three_quarters_are_open() -> Result<()> {
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    tenants.configure("max-connections = 8\n[tenants.acme]\ndatabase = \"sqlite:acme.db\"")?;
    let server = tenants.serve()?;
    let mut open = Vec::new();
    for number in 1..=8 {
        let mut stream = server.connect()?;
        let head = format!("POST /api/workspaces HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\n");
        stream.write_all(format!("{head}Content-Length: 2\r\n\r\n{{}}").as_bytes())?;
        let mut answer = Vec::new();
        match number {
            ..=6 => {
                let mut some = [0; 4096];
                let read = stream.read(&mut some)?;
                answer.extend_from_slice(&some[..read]);
            }
            _ => drop(stream.read_to_end(&mut answer)?),
        }
        let answer = String::from_utf8(answer)?.to_lowercase();
        assert!(answer.starts_with("http/1.1 201"), "{number}: {answer}");
        assert_eq!(answer.contains("connection: close"), number > 6, "{number}: {answer}");
        open.push(stream);
    }
    Ok(())
}

/// Never says who calls, and counts how often it is asked, at once and at most.
#[derive(Default)]
struct Hanging {
    asked: AtomicUsize,
    most: AtomicUsize,
}

/// Sends one question to [`Hanging`], until its caller goes away.
struct Question<'a>(&'a Hanging);

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, SeqCst);
    }
}

#[async_trait::async_trait]
impl Auth for Hanging {
    async fn authenticate(&self, _: &Credential) -> Result<Caller, Denial> {
        self.most.fetch_max(self.asked.fetch_add(1, SeqCst) + 1, SeqCst);
        let _question = Question(self);
        std::future::pending().await
    }

    async fn authorize(&self, _: &Caller, _: Option<Uuid>, _: Option<Uuid>) -> Result<Grant, Denial> {
        Err(Denial::Unavailable)
    }
}

#[tokio::test]
async fn a_look_up_that_hangs_is_given_up_and_none_is_made_beyond_the_tenants_places() -> Result<()> {
    let auth = Arc::new(Hanging::default());
    let share = TenantShare { concurrency: 2, ..TenantShare::default() };
    let workspaces = Workspaces::builder(Arc::new(Sqlite::in_memory()?), auth.clone()).share(share).build()?;
    let credential = Credential::ApiKey(UNKNOWN.into());
    let call = || workspaces.create_workspace(&credential, CreateWorkspaceRequest::default(), None);
    let start = Instant::now();
    let (one, two, three, four) = tokio::join!(call(), call(), call(), call());
    for answer in [one, two, three, four] {
        assert!(matches!(answer, Err(Error::Credential(Denial::Unavailable))), "{answer:?}");
    }
    assert!((Duration::from_secs(2)..Duration::from_secs(10)).contains(&start.elapsed()), "{:?}", start.elapsed());
    // Callers that go away are looked up no longer.
    for _ in 0..4 {
        assert!(timeout(Duration::from_millis(1), call()).await.is_err());
    }
    assert_eq!((auth.asked.load(SeqCst), auth.most.load(SeqCst)), (0, 2));
    // A look-up that waits holds no place: somebody whom another has checked is served.
    let known = async {
        tokio::task::yield_now().await;
        workspaces.create_workspace_for(Caller::new(Uuid::nil()), CreateWorkspaceRequest::default(), None).await
    };
    let (_, _, known) = tokio::join!(call(), call(), known);
    // This auth grants nothing to anybody.
    assert!(matches!(known, Err(Error::Unavailable(_))), "{known:?}");
    Ok(())
}

#[test]
fn tenants_beside_one_in_trouble_keep_their_rate() -> Result<()> {
    for (trouble, least) in [(Trouble::Stuck, 0.6), (Trouble::Loops, 0.4)] {
        let report = neighbour_rates::run(PROGRAM, 1, trouble, 3, Duration::from_secs(1))?;
        ensure!(report.kept() > least, "{report} {report:?}");
    }
    Ok(())
}
