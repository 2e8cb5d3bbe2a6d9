//! Auth and storage in the folder `/data` of a host of WASI.
//!
//! `/data/accounts.json` holds, by the SHA-256 of each API key in hexadecimal digits, its account and the organizations that
//! the account may link workspaces to. Each workspace is a file of `/data/workspaces`.

#[cfg(target_family = "wasm")]
mod component {
    #![allow(unsafe_code, reason = "the exports of the canonical ABI")]
    #![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
    #![allow(clippy::print_stderr, reason = "the log of its host")]

    use std::{
        cell::{Cell, RefCell},
        collections::HashMap,
        fs::{self, File},
        io::{self, Write as _},
        path::Path,
    };

    use serde::{Deserialize, Serialize};
    use sha2::{Digest as _, Sha256};

    wit_bindgen::generate!({
        world: "recoup:session/backend",
        path: ["../../../../wit", "../wit"],
        generate_all,
    });

    use exports::recoup::{
        session::session,
        workspaces::{auth, storage},
    };
    use recoup::workspaces::types;

    const ACCOUNTS: &str = "/data/accounts.json";
    const WORKSPACES: &str = "/data/workspaces";

    struct Backend;
    export!(Backend);

    thread_local! {
        static CALLER: RefCell<Option<Account>> = const { RefCell::new(None) };
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Account {
        account_id: uuid::Uuid,
        #[serde(default)]
        organizations: Vec<uuid::Uuid>,
    }

    impl session::Guest for Backend {
        fn begin(credential: String) -> Result<(), session::Error> {
            CALLER.set(None);
            let accounts = fs::read(ACCOUNTS).and_then(|text| Ok(serde_json::from_slice(&text)?));
            let mut accounts: HashMap<String, Account> = accounts.map_err(|error| {
                eprintln!("{ACCOUNTS}: {error}");
                session::Error::Unavailable
            })?;
            let hash = Sha256::digest(credential).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let account = accounts.remove(&hash).ok_or(session::Error::UnknownCredential)?;
            CALLER.set(Some(account));
            Ok(())
        }
    }

    /// Permission to create one workspace.
    pub struct Grant {
        account_id: uuid::Uuid,
        organization_id: Option<uuid::Uuid>,
        used: Cell<bool>,
    }

    impl auth::Guest for Backend {
        type Grant = Grant;

        fn authorize(
            account: Option<types::Uuid>,
            organization: Option<types::Uuid>,
        ) -> Result<auth::Grant, auth::Denial> {
            CALLER.with_borrow(|caller| {
                let caller = caller.as_ref().ok_or(auth::Denial::Unauthenticated)?;
                if account.is_some_and(|account| lift(account) != caller.account_id) {
                    return Err(auth::Denial::AccountForbidden);
                }
                let organization_id = organization.map(lift);
                if organization_id.is_some_and(|organization| !caller.organizations.contains(&organization)) {
                    return Err(auth::Denial::OrganizationForbidden);
                }
                Ok(auth::Grant::new(Grant { account_id: caller.account_id, organization_id, used: Cell::new(false) }))
            })
        }
    }

    impl auth::GuestGrant for Grant {
        fn account_id(&self) -> types::Uuid {
            lower(self.account_id)
        }

        fn organization_id(&self) -> Option<types::Uuid> {
            self.organization_id.map(lower)
        }
    }

    impl storage::Guest for Backend {
        fn create_workspace(grant: auth::GrantBorrow<'_>, name: String) -> Result<types::Uuid, storage::Error> {
            let grant = grant.get::<Grant>();
            if grant.used.replace(true) {
                return Err(storage::Error::GrantUsed);
            }
            if name.is_empty() || name.chars().count() > 255 || name.chars().any(char::is_control) {
                return Err(storage::Error::InvalidName);
            }
            let id = uuid::Uuid::now_v7();
            let workspace =
                Workspace { id, name: &name, account_id: grant.account_id, organization_id: grant.organization_id };
            workspace.write()?;
            Ok(lower(id))
        }
    }

    #[derive(Serialize)]
    struct Workspace<'a> {
        id: uuid::Uuid,
        name: &'a str,
        account_id: uuid::Uuid,
        organization_id: Option<uuid::Uuid>,
    }

    impl Workspace<'_> {
        /// Writes the file under another name and renames it, so that there is never half a workspace.
        fn write(&self) -> Result<(), storage::Error> {
            let unfinished = Path::new(WORKSPACES).join(format!(".new-{}", self.id));
            let write = || -> io::Result<()> {
                fs::create_dir_all(WORKSPACES)?;
                let mut file = File::create_new(&unfinished)?;
                file.write_all(&serde_json::to_vec(self)?)?;
                file.sync_all()
            };
            write().map_err(|error| {
                eprintln!("{}: {error}", unfinished.display());
                let _ = fs::remove_file(&unfinished);
                storage::Error::Unavailable
            })?;
            let finished = Path::new(WORKSPACES).join(format!("{}.json", self.id));
            let keep = || fs::rename(&unfinished, &finished).and_then(|()| File::open(WORKSPACES)?.sync_all());
            keep().map_err(|error| {
                eprintln!("{}: {error}", finished.display());
                storage::Error::Unknown
            })
        }
    }

    fn lift(types::Uuid { high, low }: types::Uuid) -> uuid::Uuid {
        uuid::Uuid::from_u64_pair(high, low)
    }

    fn lower(id: uuid::Uuid) -> types::Uuid {
        let (high, low) = id.as_u64_pair();
        types::Uuid { high, low }
    }
}
