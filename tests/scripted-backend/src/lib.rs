//! Auth and storage that answer as a case of the judge says. The credential is the JSON of the case's replies; each call is
//! a line of `/data/calls`.

#[cfg(target_family = "wasm")]
mod component {
    #![allow(unsafe_code, reason = "the exports of the canonical ABI")]
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::panic,
        clippy::unwrap_used,
        reason = "generated; a test"
    )]

    use std::{
        cell::RefCell,
        fs::{self, OpenOptions},
        io::Write as _,
    };

    use serde_json::{Map, Value, json};
    use uuid::Uuid;

    wit_bindgen::generate!({
        world: "recoup:session/backend",
        path: ["../../wit", "../../host/examples/wasi-http/wit"],
        generate_all,
    });

    use exports::recoup::{
        session::session,
        workspaces::{auth, storage},
    };
    use recoup::workspaces::types;

    const CALLS: &str = "/data/calls";
    const CALLER: &str = "01900000-0000-7000-8000-00000000ca11";
    const CREATED: &str = "01900000-0000-7000-8000-00000000ab1e";

    struct Backend;
    export!(Backend);

    thread_local! {
        static REPLIES: RefCell<Vec<Value>> = const { RefCell::new(Vec::new()) };
    }

    fn called(call: Value) {
        let mut file = OpenOptions::new().append(true).open(CALLS).unwrap();
        writeln!(file, "{call}").unwrap();
    }

    /// Returns the first reply of these kinds.
    fn reply(kinds: [&str; 2]) -> Value {
        REPLIES.with_borrow_mut(|replies| {
            let at = replies.iter().position(|reply| kinds.iter().any(|kind| reply.get(kind).is_some()));
            at.map_or(Value::Null, |at| replies.remove(at))
        })
    }

    fn id(text: &Value) -> Option<Uuid> {
        text.as_str().map(|text| Uuid::parse_str(text).unwrap())
    }

    impl session::Guest for Backend {
        fn begin(credential: String) -> Result<(), session::Error> {
            REPLIES.set(serde_json::from_str(&credential).map_err(|_| session::Error::UnknownCredential)?);
            fs::write(CALLS, "").map_err(|_| session::Error::Unavailable)
        }
    }

    pub struct Grant {
        account_id: Uuid,
        organization_id: Option<Uuid>,
    }

    impl auth::Guest for Backend {
        type Grant = Grant;

        fn authorize(
            account: Option<types::Uuid>,
            organization: Option<types::Uuid>,
        ) -> Result<auth::Grant, auth::Denial> {
            let (account, organization_id) = (account.map(lift), organization.map(lift));
            let asked = [("account_id", account), ("organization_id", organization_id)];
            let asked: Map<_, _> =
                asked.into_iter().filter_map(|(name, id)| Some((name.into(), json!(id?.to_string())))).collect();
            called(json!({ "authorize": asked }));
            let reply = reply(["grant", "denied"]);
            if let Some(denied) = reply["denied"].as_str() {
                return Err(match denied {
                    "unauthenticated" => auth::Denial::Unauthenticated,
                    "account-forbidden" => auth::Denial::AccountForbidden,
                    "organization-forbidden" => auth::Denial::OrganizationForbidden,
                    "unavailable" => auth::Denial::Unavailable,
                    denied => panic!("{denied}"),
                });
            }
            let account_id = id(&reply["grant"]["account_id"]).or(account).unwrap_or_else(|| CALLER.parse().unwrap());
            Ok(auth::Grant::new(Grant { account_id, organization_id }))
        }
    }

    impl auth::GuestGrant for Grant {
        fn account_id(&self) -> types::Uuid {
            called(json!("account-id"));
            lower(self.account_id)
        }

        fn organization_id(&self) -> Option<types::Uuid> {
            called(json!("organization-id"));
            self.organization_id.map(lower)
        }
    }

    impl Drop for Grant {
        fn drop(&mut self) {
            called(json!("drop-grant"));
        }
    }

    impl storage::Guest for Backend {
        fn create_workspace(_: auth::GrantBorrow<'_>, name: String) -> Result<types::Uuid, storage::Error> {
            called(json!({ "create-workspace": { "name": name } }));
            let reply = reply(["created", "failed"]);
            match reply["failed"].as_str() {
                None => Ok(lower(id(&reply["created"]).unwrap_or_else(|| CREATED.parse().unwrap()))),
                Some("grant-used") => Err(storage::Error::GrantUsed),
                Some("access-lost") => Err(storage::Error::AccessLost),
                Some("invalid-name") => Err(storage::Error::InvalidName),
                Some("unavailable") => Err(storage::Error::Unavailable),
                Some("unknown") => Err(storage::Error::Unknown),
                Some(failed) => panic!("{failed}"),
            }
        }
    }

    fn lift(types::Uuid { high, low }: types::Uuid) -> Uuid {
        Uuid::from_u64_pair(high, low)
    }

    fn lower(id: Uuid) -> types::Uuid {
        let (high, low) = id.as_u64_pair();
        types::Uuid { high, low }
    }
}
