//! A component of the ordinary `wasm32-wasip2` target, whose standard library imports WASI. What it uses of it depends on
//! the request's name.

#[cfg(target_family = "wasm")]
mod component {
    #![allow(unsafe_code, reason = "the exports of the canonical ABI")]
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        reason = "generated; it panics and prints on purpose"
    )]

    use std::{collections::HashMap, env, fs, io, net::TcpStream, process, time};

    wit_bindgen::generate!({ world: "plugin", path: "../../wit" });

    use exports::recoup::workspaces::workspaces::{
        CreateWorkspaceError as Error, CreateWorkspaceRequest, CreateWorkspaceResponse, Guest, Workspace,
    };
    use recoup::workspaces::{auth, storage, types::Uuid};

    struct Component;
    export!(Component);

    impl Guest for Component {
        fn create_workspace(request: CreateWorkspaceRequest) -> Result<CreateWorkspaceResponse, Error> {
            let name = request.name.unwrap_or_default();
            let name = name.trim();
            let account = request.account_id.map(|id| parse(&id)).transpose()?;
            let organization = request.organization_id.map(|id| parse(&id)).transpose()?;
            uses_of_wasi(name);
            let grant = auth::authorize(account, organization).map_err(|denial| match denial {
                auth::Denial::Unauthenticated => Error::Unauthenticated("Send a valid credential".into()),
                auth::Denial::Unavailable => Error::Unavailable("Try again later".into()),
                _ => Error::Forbidden("You have no access to it".into()),
            })?;
            let name = if name.is_empty() { "Untitled" } else { name };
            let id = storage::create_workspace(&grant, name).map_err(|error| match error {
                storage::Error::AccessLost => Error::Forbidden("Your access was withdrawn".into()),
                storage::Error::InvalidName => Error::InvalidRequest("name can't be stored".into()),
                storage::Error::Unknown => Error::Unknown("It is not known whether it was created".into()),
                _ => Error::Unavailable("Try again later".into()),
            })?;
            let (id, account_id) = (text(id), text(grant.account_id()));
            let workspace = Workspace { id, name: name.to_owned(), account_id, is_workspace: true };
            Ok(CreateWorkspaceResponse { workspace })
        }
    }

    /// Uses what the name says.
    fn uses_of_wasi(name: &str) {
        let found = match name {
            "what is empty" => {
                // Its hash function takes a seed.
                let map = HashMap::from([(1, env::vars().count()), (2, env::args().count())]);
                let input = io::read_to_string(io::stdin()).map(|text| text.len());
                println!("environment {}, arguments {}, input {input:?}", map[&1], map[&2]);
                eprintln!("an error\nof two lines \u{1b}[31m");
                return;
            }
            "much output" => {
                for _ in 0..5 {
                    println!("{}", "x".repeat(1_000));
                }
                return;
            }
            "the clock" => format!("{:?}", time::SystemTime::now()),
            "the monotonic clock" => format!("{:?}", time::Instant::now()),
            "a file" => format!("{:?}", fs::read("/etc/passwd")),
            "a socket" => format!("{:?}", TcpStream::connect("127.0.0.1:1")),
            "exit" => process::exit(0),
            "a panic" => panic!("the shelf is empty"),
            _ => return,
        };
        println!("{found}");
    }

    fn parse(text: &str) -> Result<Uuid, Error> {
        let digits = text.replace('-', "");
        let is_form = text.len() == 36 && digits.len() == 32;
        let half = |range| u64::from_str_radix(digits.get(range)?, 16).ok().filter(|_| is_form);
        let id = half(0..16).zip(half(16..32)).map(|(high, low)| Uuid { high, low });
        id.ok_or_else(|| Error::InvalidRequest("account_id or organization_id is not a UUID".into()))
    }

    fn text(Uuid { high, low }: Uuid) -> String {
        let [a, b, c, d, e] = [high >> 32, high >> 16 & 0xffff, high & 0xffff, low >> 48, low & 0xffff_ffff_ffff];
        format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}
