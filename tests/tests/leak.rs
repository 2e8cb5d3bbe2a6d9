//! Memory of a process in which components are swapped. Alone in its program, so that no other test's memory is measured.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{fs, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use uuid::Uuid;
use workspaces_host::{
    CreateWorkspaceRequest, Error, Workspaces,
    auth::Caller,
    runtime::{Pool, Sandboxes},
    storage::sqlite::Sqlite,
};
use workspaces_tests::{Open, hostile_components::two_faced};

/// Returns the resident memory of this process, in bytes.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes << 10)
}

/// Returns the component with another name in it, so that it is another one.
fn numbered(component: &[u8], number: u32) -> Vec<u8> {
    let text = format!("{number:08}");
    // A custom section: its length, its name's length, its name.
    [component, &[0, 9, 8], text.as_bytes()].concat()
}

#[tokio::test]
async fn a_thousand_swaps_take_no_more_memory_than_a_hundred() -> Result<()> {
    let component = two_faced("")?;
    let sandboxes = Sandboxes::new(Pool { concurrency: 2, slow: 2, ..Pool::default() })?;
    let builder = Workspaces::builder(Arc::new(Sqlite::in_memory()?), Arc::new(Open));
    let workspaces = builder.component(component.clone()).sandboxes(sandboxes.clone()).build()?;
    let mut after_a_hundred = 0;
    for number in 1..=1_000 {
        let next = sandboxes.compile(&numbered(&component, number))?;
        workspaces.swap(next).await.map_err(anyhow::Error::msg)?;
        // It refuses other accounts than the caller's own.
        let request =
            CreateWorkspaceRequest { account_id: Some(Uuid::nil().into()), ..CreateWorkspaceRequest::default() };
        let refused = workspaces.create_workspace_for(Caller::new(Uuid::nil()), request, None).await;
        ensure!(matches!(refused, Err(Error::InvalidRequest(_))), "{refused:?}");
        if number == 100 {
            after_a_hundred = resident()?;
        }
    }
    let after = resident()?;
    ensure!(sandboxes.usage().components <= 3, "{:?}", sandboxes.usage());
    ensure!(after <= after_a_hundred + after_a_hundred / 20, "{after_a_hundred} bytes, and then {after}");
    Ok(())
}
