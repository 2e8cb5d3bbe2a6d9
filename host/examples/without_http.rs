//! The component called as a function, within limits tighter than the default ones.
//!
//! `cargo run --package workspaces-host --example without_http`
#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::{error::Error, sync::Arc, time::Duration};

use workspaces_host::{
    CreateWorkspaceRequest, Workspaces,
    auth::{Caller, api_key::ApiKeys},
    runtime::SandboxLimits,
    storage::{Database as _, sqlite::Sqlite},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let database = Arc::new(Sqlite::in_memory()?);
    let account = database.create_account(None, Some("Ada".into())).await?.id;
    let auth = Arc::new(ApiKeys::new(database.clone(), b"the pepper", None));
    let limits = SandboxLimits { memory: 2 << 20, cpu: Duration::from_millis(5), ..SandboxLimits::default() };
    let workspaces = Workspaces::builder(database, auth).limits(limits).build()?;

    // Who calls is known here already; with a credential to check it would be `create_workspace`.
    let caller = Caller::new(account);
    for name in ["Studio", "\u{7}"] {
        let request = CreateWorkspaceRequest { name: Some(name.into()), ..Default::default() };
        match workspaces.create_workspace_for(caller.clone(), request, None).await {
            Ok(created) => println!("created {:?}", created.workspace),
            Err(error) => println!("not created: {error}"),
        }
    }
    Ok(())
}
