//! Chromium without a window, driven by the DevTools protocol over a pair of pipes.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::background::installed;

/// Returns whether the browser is installed, and says on standard error where it is not.
///
/// # Errors
///
/// In CI, where every test has to run.
pub fn available() -> Result<bool> {
    installed(&["chromium"], "chromium")
}

/// Browser with one page.
pub struct Browser {
    process: Child,
    commands: File,
    answers: BufReader<File>,
    session: Option<String>,
    last: u64,
    /// Addresses that the page has asked for.
    pub requested: Vec<String>,
    /// Errors that the page has logged: exceptions, refused sources, failed requests.
    pub errors: Vec<String>,
    _folder: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Browser {
    /// Starts it with an empty page.
    ///
    /// # Errors
    ///
    /// Where it does not start.
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let pipe = |name: &str| -> Result<std::path::PathBuf> {
            let path = folder.path().join(name);
            let made = Command::new("mkfifo").arg(&path).status().context("mkfifo")?;
            anyhow::ensure!(made.success(), "mkfifo failed");
            Ok(path)
        };
        let (commands, answers) = (pipe("commands")?, pipe("answers")?);
        // A shell gives the pipes the numbers that the browser expects. Both are opened for reading and writing, so that
        // opening them waits for nobody.
        let script = "exec chromium \"$@\" 3<>\"$COMMANDS\" 4<>\"$ANSWERS\"";
        let mut command = Command::new("bash");
        command.args(["-c", script, "chromium", "--headless=new", "--no-sandbox", "--remote-debugging-pipe"]);
        command.args(["--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"]);
        command.arg(format!("--user-data-dir={}", folder.path().join("profile").display()));
        command.env("COMMANDS", &commands).env("ANSWERS", &answers).env("HOME", folder.path());
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let (requested, errors) = (Vec::new(), Vec::new());
        let (commands, answers) = (open(&commands)?, BufReader::new(open(&answers)?));
        let mut browser =
            Self { process, commands, answers, session: None, last: 0, requested, errors, _folder: folder };
        let page = browser.call("Target.createTarget", &json!({"url": "about:blank"}))?;
        let attached =
            browser.call("Target.attachToTarget", &json!({"targetId": page["targetId"], "flatten": true}))?;
        browser.session = Some(attached["sessionId"].as_str().context("no session")?.to_owned());
        for domain in ["Page", "Network", "Log", "Runtime"] {
            browser.call(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(browser)
    }

    /// Goes to an address, and returns when it is loaded or has failed.
    ///
    /// # Errors
    ///
    /// Where the browser refuses it.
    pub fn go(&mut self, address: &str) -> Result<()> {
        let went = self.call("Page.navigate", &json!({"url": address}))?;
        match went["errorText"].as_str() {
            Some(error) => bail!("{address}: {error}"),
            None => Ok(()),
        }
    }

    /// Evaluates JavaScript in the page and returns its value, waiting for a promise.
    ///
    /// # Errors
    ///
    /// An exception of the script.
    pub fn evaluate(&mut self, script: &str) -> Result<Value> {
        let parameters = json!({"expression": script, "awaitPromise": true, "returnByValue": true});
        let outcome = self.call("Runtime.evaluate", &parameters)?;
        match outcome.get("exceptionDetails") {
            Some(exception) => bail!("{script}: {exception}"),
            None => Ok(outcome["result"]["value"].clone()),
        }
    }

    /// Waits until an expression of the page is true, 30 s at most, and returns its value.
    ///
    /// # Errors
    ///
    /// The page's text, where it does not become true.
    pub fn wait_for(&mut self, expression: &str) -> Result<Value> {
        self.evaluate(&format!(
            "new Promise((resolve, reject) => {{
                const start = Date.now();
                const look = () => {{
                    const value = (() => {{ try {{ return {expression}; }} catch (_) {{ return undefined; }} }})();
                    if (value) return resolve(value === true ? true : String(value));
                    if (Date.now() - start > 30000) return reject(new Error(document.documentElement.innerText.slice(0, 500)));
                    setTimeout(look, 20);
                }};
                look();
            }})"
        ))
    }

    /// Sends a command and returns its result. Takes note of the events that come before it.
    fn call(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.commands.write_all(message.to_string().as_bytes())?;
        self.commands.write_all(&[0])?;
        loop {
            let mut answer = Vec::new();
            self.answers.read_until(0, &mut answer)?;
            answer.pop();
            let answer: Value = serde_json::from_slice(&answer)?;
            if answer["id"] == self.last {
                match answer.get("error") {
                    Some(error) => bail!("{method}: {error}"),
                    None => return Ok(answer["result"].clone()),
                }
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                self.requested.extend(parameters["request"]["url"].as_str().map(str::to_owned));
            }
            Some("Runtime.exceptionThrown") => self.errors.push(parameters.to_string()),
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                let entry = &parameters["entry"];
                self.errors.push(format!("{} {}", entry["text"], entry["url"]));
            }
            Some("Runtime.consoleAPICalled") if parameters["type"] == "error" => {
                self.errors.push(parameters.to_string())
            }
            _ => {}
        }
    }
}
