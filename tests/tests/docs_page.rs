//! The page of the API: in a real browser, and what is around it.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use workspaces_tests::{
    Deployment, Server, Tenants,
    browser::{self, Browser},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Demo that runs, with its address and a key; killed when dropped.
struct Demo {
    process: Child,
    address: String,
    key: String,
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Demo {
    fn start() -> Result<Self> {
        let mut process = Command::new(PROGRAM)
            .args(["serve", "--demo", "--json", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("no output")?).lines();
        let mut next = || -> Result<Value> { Ok(serde_json::from_str(&lines.next().context("it ended")??)?) };
        let address = next()?["listening"].as_str().context("no address")?.to_owned();
        let key = next()?["accounts"][0]["api_key"].as_str().context("no key")?.to_owned();
        Ok(Self { process, address, key })
    }
}

/// Fills the key into the page, sends the example request, and returns the status that the page shows.
fn try_it(browser: &mut Browser, key: &str) -> Result<String> {
    let click = |selector: &str| {
        format!("(element => element && (element.click(), true))(document.querySelector('{selector}'))")
    };
    browser.wait_for(&click("button.authorize"))?;
    // React sees a value that its own setter did not set.
    browser.wait_for(&format!(
        "(input => {{
            if (!input) return false;
            Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(input, '{key}');
            input.dispatchEvent(new Event('input', {{bubbles: true}}));
            return input.value === '{key}';
        }})(document.querySelector('.auth-container input'))"
    ))?;
    browser.wait_for(&click(".auth-container button.authorize"))?;
    browser.wait_for(&click(".modal-ux button.btn-done"))?;
    browser.wait_for(&click(".opblock-post .opblock-summary-control"))?;
    // The example is there.
    browser.wait_for("document.querySelector('.opblock-post textarea.body-param__text')?.value.includes('name')")?;
    browser.wait_for(&click(".opblock-post button.execute"))?;
    let status = "document.querySelector('.live-responses-table tbody .response-col_status')?.innerText.trim()";
    let status = browser.wait_for(status)?;
    Ok(status.as_str().context("no status")?.to_owned())
}

/// Asserts that the page asked its own server alone, and logged no error.
fn require_alone(browser: &Browser, address: &str) {
    assert!(browser.requested.len() > 4, "{:?}", browser.requested);
    let foreign = |url: &&String| !url.starts_with(address) && !url.starts_with("data:") && *url != "about:blank";
    let foreign: Vec<_> = browser.requested.iter().filter(foreign).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
}

#[test]
fn a_key_and_a_button_create_a_workspace_in_a_browser() -> Result<()> {
    if !browser::available()? {
        return Ok(());
    }
    let demo = Demo::start()?;
    let mut browser = Browser::start()?;
    browser.go(&demo.address)?;
    assert_eq!(browser.wait_for("location.pathname.startsWith('/docs/') && location.pathname")?, "/docs/");
    let status = try_it(&mut browser, &demo.key)?;
    assert!(status.starts_with("201"), "{status}");
    let shown = browser.wait_for("document.querySelector('.live-responses-table')?.innerText")?;
    assert!(shown.as_str().is_some_and(|text| text.contains("isWorkspace")), "{shown}");
    require_alone(&browser, &demo.address);
    // The key is gone with the page.
    let kept = browser.evaluate("JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + document.cookie")?;
    assert!(!kept.to_string().contains("recoup_sk_"), "{kept}");
    Ok(())
}

#[test]
fn the_page_under_a_tenants_path_sends_to_that_tenant() -> Result<()> {
    if !browser::available()? {
        return Ok(());
    }
    let tenants = Tenants::new(PROGRAM)?;
    let key = tenants.key("acme")?;
    tenants.configure(
        "[tenants.acme]\npath = \"/acme\"\ndatabase = \"sqlite:acme.db\"
         [tenants.other]\npath = \"/other\"\ndatabase = \"sqlite:other.db\"",
    )?;
    let server = tenants.serve()?;
    let address = format!("http://{}", server.address());
    let mut browser = Browser::start()?;
    browser.go(&format!("{address}/acme"))?;
    assert_eq!(browser.wait_for("location.pathname.endsWith('/docs/') && location.pathname")?, "/acme/docs/");
    let status = try_it(&mut browser, &key)?;
    assert!(status.starts_with("201"), "{status}");
    require_alone(&browser, &address);
    assert!(browser.requested.contains(&format!("{address}/acme/api/workspaces")), "{:?}", browser.requested);
    Ok(())
}

/// Asserts the answers around a page that is shown.
fn require_page(server: &Server) -> Result<()> {
    for (path, to) in [("/", "docs/"), ("/docs", "./docs/")] {
        let answer = server.send("GET", path, &[], b"")?;
        assert_eq!((answer.status, answer.header("location")), (307, Some(to)), "{path}");
    }
    let page = server.send("GET", "/docs/", &[], b"")?;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html")));
    for (name, part) in [
        ("content-security-policy", "default-src 'none'"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-cache"),
    ] {
        assert!(page.header(name).is_some_and(|value| value.contains(part)), "{name}: {:?}", page.header(name));
    }
    let policy = page.header("content-security-policy").context("no policy")?;
    assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
    let text = String::from_utf8(page.body.clone())?;
    assert!(!text.contains("http://") && !text.contains("https://"), "{text}");
    let tag = page.header("etag").context("no tag")?;
    assert_eq!(server.send("GET", "/docs/", &[("If-None-Match", tag)], b"")?.status, 304);
    let head = server.send("HEAD", "/docs/", &[], b"")?;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for file in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js", "swagger-initializer.js"]
    {
        let answer = server.send("GET", &format!("/docs/{file}"), &[], b"")?;
        assert!(answer.status == 200 && answer.body.len() > 400, "{file}");
    }
    for file in ["nothing", "oauth2-redirect.html", "..%2Fopenapi.json", "swagger-ui-bundle.js/", "%00"] {
        let answer = server.send("GET", &format!("/docs/{file}"), &[], b"")?;
        assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/json")), "{file}");
    }
    for path in ["/", "/docs", "/docs/", "/docs/swagger-ui.css"] {
        let answer = server.send("POST", path, &[], b"")?;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET,HEAD")), "{path}");
    }
    Ok(())
}

#[test]
fn the_page_is_shown_by_default_and_an_option_or_a_key_hides_it() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    require_page(&deployment.serve(&[])?)?;
    let tenants = Tenants::new(PROGRAM)?;
    tenants.write(
        "hidden.toml",
        "docs = false\ndefaults.key-pepper-file = \"pepper\"\n[tenants.acme]\ndatabase = \"sqlite::memory:\"",
    )?;
    for arguments in [&["--no-docs"][..], &["--config", "hidden.toml"]] {
        let server = tenants.deployment().serve(arguments)?;
        for path in ["/", "/docs", "/docs/", "/docs/swagger-ui.css"] {
            let answer = server.send("GET", path, &[], b"")?;
            assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/json")), "{path}");
        }
        assert_eq!(server.send("GET", "/openapi.json", &[], b"")?.status, 200);
    }
    Ok(())
}
