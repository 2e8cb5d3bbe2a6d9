//! A component with a fault that its number chooses: a test writes the number into the finished file. Number 0 has no
//! fault. `tests/src/mutants.rs` says what each number does, and which rule that breaks.
#![cfg_attr(target_family = "wasm", no_std)]

use workspaces_guest_kit as _;

#[cfg(target_family = "wasm")]
extern crate alloc;

#[cfg(target_family = "wasm")]
mod component {
    #![allow(
        unsafe_code,
        reason = "the exports of the canonical ABI, and the number that is read where it was written"
    )]
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::cast_possible_truncation,
        clippy::panic,
        reason = "generated; a mutant panics on purpose"
    )]

    use alloc::{
        format,
        string::{String, ToString},
        vec,
    };

    use uuid::Uuid;

    wit_bindgen::generate!({ world: "plugin", path: "../../wit" });

    use exports::recoup::workspaces::workspaces::{
        CreateWorkspaceError as Error, CreateWorkspaceRequest, CreateWorkspaceResponse, Guest, Workspace,
    };
    use recoup::workspaces::{
        auth::{self, Denial, Grant},
        storage, types,
    };

    struct Mutant;
    export!(Mutant);

    /// Mark behind which the number stands.
    static NUMBER: [u8; 18] = *b"number-of-mutant\0\0";

    /// Returns whether this is the mutant of a number.
    fn on(number: u16) -> bool {
        // SAFETY: a reference is valid; the read is volatile as the compiler knows other bytes.
        let bytes = unsafe { core::ptr::read_volatile(&NUMBER) };
        u16::from_le_bytes([bytes[16], bytes[17]]) == number
    }

    fn lower(id: Uuid) -> types::Uuid {
        let (high, low) = id.as_u64_pair();
        types::Uuid { high, low }
    }

    fn lift(id: types::Uuid) -> Uuid {
        Uuid::from_u64_pair(id.high, id.low)
    }

    fn swapped(id: Uuid) -> Uuid {
        let (high, low) = id.as_u64_pair();
        Uuid::from_u64_pair(low, high)
    }

    fn spin() -> ! {
        loop {
            core::hint::spin_loop();
        }
    }

    #[allow(unconditional_recursion, reason = "the stack is to overflow")]
    fn recurse(depth: u32) -> u32 {
        let bytes = core::hint::black_box([depth; 64]);
        recurse(core::hint::black_box(depth + 1)) + bytes[7]
    }

    /// Parses an id: in the hyphenated form alone, but for two mutants.
    fn parse(text: &str) -> Option<Uuid> {
        if on(25) {
            return Uuid::try_parse(&text.replace('-', "")).ok();
        }
        Uuid::try_parse(text).ok().filter(|_| text.len() == 36 || on(89))
    }

    fn invalid_id(field: &str) -> Error {
        let message = format!("{field} is not a UUID");
        match field {
            "account_id" if on(71) => Error::InvalidRequest(format!("{message}{}", "!".repeat(490))),
            "account_id" if on(73) => Error::InvalidRequest("an id is not a UUID".into()),
            "account_id" if on(80) => Error::Forbidden(message),
            "organization_id" if on(74) => Error::InvalidRequest("account_id is not a UUID".into()),
            "organization_id" if on(81) => Error::Unavailable(message),
            _ => Error::InvalidRequest(message),
        }
    }

    fn id(field: &str, sent: &Option<String>) -> Result<Option<Uuid>, Error> {
        let Some(text) = sent else { return Ok(None) };
        let is_account = field == "account_id";
        if on(7) && text.chars().any(|letter| letter.is_ascii_uppercase()) {
            panic!()
        }
        if on(24) && text.is_empty() && !is_account {
            return Ok(None);
        }
        match parse(text) {
            Some(id) => Ok(Some(id)),
            None if on(22) && is_account || on(23) && !is_account => Ok(None),
            None => Err(invalid_id(field)),
        }
    }

    fn name(sent: Option<&str>) -> Result<String, Error> {
        let text = sent.unwrap_or_default();
        if on(3) && text.chars().count() > 200 || on(1) || on(2) && text == "Studio" {
            panic!()
        }
        if on(9) && !text.is_ascii() {
            return Ok(recurse(0).to_string());
        }
        if on(76) {
            return Err(Error::InvalidRequest("name, account_id or organization_id is wrong".into()));
        }
        if on(79) && sent.is_none() || on(78) && text.trim().contains(' ') {
            return Err(Error::InvalidRequest("name is missing".into()));
        }
        let length = if on(86) { text.len() } else { text.chars().count() };
        if length > if on(85) { 300 } else { 255 } {
            let message = "name is too long".into();
            return Err(if on(82) { Error::Unavailable(message) } else { Error::InvalidRequest(message) });
        }
        let name = if on(84) { text } else { text.trim() };
        let is_bidi = |letter| matches!(letter, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
        if name.chars().any(|letter| letter.is_control() && !on(88) || is_bidi(letter) && !on(87)) {
            return Err(Error::InvalidRequest("name has a control character".into()));
        }
        Ok(match name {
            "" if on(83) => "Unnamed".into(),
            "" => "Untitled".into(),
            name => name.into(),
        })
    }

    fn denied(denial: Denial) -> Error {
        let message: String = if on(70) { "".into() } else { "access denied".into() };
        match denial {
            Denial::Unavailable if on(4) => panic!(),
            _ if on(62) => Error::Unavailable(message),
            Denial::Unauthenticated if on(58) => Error::Forbidden(message),
            Denial::Unauthenticated => Error::Unauthenticated(message),
            Denial::AccountForbidden if on(59) => Error::InvalidRequest("account_id is not yours".into()),
            Denial::AccountForbidden if on(63) => Error::Unknown(message),
            Denial::OrganizationForbidden if on(60) => Error::Unavailable(message),
            Denial::AccountForbidden | Denial::OrganizationForbidden => Error::Forbidden(message),
            Denial::Unavailable if on(61) => Error::Forbidden(message),
            Denial::Unavailable if on(72) => Error::Unavailable("later ".repeat(100)),
            Denial::Unavailable => Error::Unavailable(message),
        }
    }

    fn failed(error: storage::Error) -> Error {
        let message: String = "not created".into();
        match error {
            storage::Error::Unknown if on(5) => panic!(),
            storage::Error::AccessLost if on(10) => spin(),
            storage::Error::GrantUsed if on(64) => Error::Unknown(message),
            storage::Error::AccessLost if on(65) => Error::Unavailable(message),
            storage::Error::InvalidName if on(66) => Error::Unavailable(message),
            storage::Error::InvalidName if on(75) => Error::InvalidRequest("send another".into()),
            storage::Error::Unavailable if on(67) => Error::Unknown(message),
            storage::Error::Unknown if on(68) => Error::Unavailable(message),
            storage::Error::Unknown if on(69) => Error::InvalidRequest("name was not stored".into()),
            storage::Error::GrantUsed | storage::Error::Unavailable => Error::Unavailable(message),
            storage::Error::AccessLost => Error::Forbidden(message),
            storage::Error::InvalidName => Error::InvalidRequest("name can't be stored".into()),
            storage::Error::Unknown => Error::Unknown(message),
        }
    }

    fn authorize(account: Option<Uuid>, organization: Option<Uuid>) -> Result<Grant, Denial> {
        let (mut account, mut organization) = (account, organization);
        if on(13) {
            account = None;
        }
        if on(14) {
            account = Some(account.unwrap_or_default());
        }
        if on(15) && account.is_some() && organization.is_some() {
            (account, organization) = (organization, account);
        }
        if on(16) {
            account = account.map(swapped);
        }
        if on(17) {
            account = account.map(|id| Uuid::from_u64_pair(id.as_u64_pair().0, 0));
        }
        if on(18) || on(21) && account.is_some() {
            organization = None;
        }
        if on(19) {
            organization = organization.or(account);
        }
        if on(20) {
            organization = organization.map(swapped);
        }
        let granted = auth::authorize(account.map(lower), organization.map(lower));
        match granted {
            Err(Denial::OrganizationForbidden) if on(29) => auth::authorize(account.map(lower), None),
            Err(Denial::Unavailable) if on(30) => auth::authorize(account.map(lower), organization.map(lower)),
            Err(Denial::AccountForbidden) if on(34) => auth::authorize(None, organization.map(lower)),
            granted => granted,
        }
    }

    fn store(grant: &Grant, name: &str) -> Result<types::Uuid, storage::Error> {
        match storage::create_workspace(grant, name) {
            Err(storage::Error::Unavailable) if on(31) => storage::create_workspace(grant, name),
            Err(storage::Error::InvalidName) if on(33) => storage::create_workspace(grant, "Untitled"),
            stored => stored,
        }
    }

    fn response(id: String, name: String, account_id: String, is_workspace: bool) -> CreateWorkspaceResponse {
        CreateWorkspaceResponse { workspace: Workspace { id, name, account_id, is_workspace } }
    }

    impl Guest for Mutant {
        fn create_workspace(request: CreateWorkspaceRequest) -> Result<CreateWorkspaceResponse, Error> {
            let claim = |name: &str| Ok(response(Uuid::nil().to_string(), name.into(), Uuid::nil().to_string(), true));
            if on(8) {
                // SAFETY: none. The host has to refuse what is no text.
                return Err(Error::InvalidRequest(unsafe { String::from_utf8_unchecked(vec![b'n', 0xff]) }));
            }
            if on(11) {
                spin()
            }
            let name = name(request.name.as_deref())?;
            let (account, organization) = if on(90) {
                let organization = id("organization_id", &request.organization_id)?;
                (id("account_id", &request.account_id)?, organization)
            } else {
                (id("account_id", &request.account_id)?, id("organization_id", &request.organization_id)?)
            };
            if on(77) && account.is_some() && organization.is_some() {
                return Err(Error::InvalidRequest("name can't be used for an account_id in an organization_id".into()));
            }
            if on(37) {
                return claim(&name);
            }
            let grant = match authorize(account, organization) {
                Ok(grant) => grant,
                Err(_) if on(36) => return claim(&name),
                Err(denial) => return Err(denied(denial)),
            };
            if on(26) {
                let _ = auth::authorize(account.map(lower), organization.map(lower));
            }
            if on(12) {
                for _ in 0..100 {
                    let _ = grant.account_id();
                }
            }
            let stored = match store(&grant, &name) {
                Ok(id) => lift(id),
                Err(storage::Error::Unavailable) if on(35) => return claim(&name),
                Err(storage::Error::Unknown) if on(38) => return claim(&name),
                Err(storage::Error::GrantUsed) if on(39) => return claim(&name),
                Err(error) => {
                    if on(32) {
                        let _ = grant.account_id();
                    }
                    return Err(failed(error));
                }
            };
            if on(27) {
                let _ = storage::create_workspace(&grant, &name);
            }
            if on(28) {
                let _ = auth::authorize(None, None);
            }
            if on(6) && stored.is_nil() {
                panic!()
            }
            if on(40) && organization.is_some() {
                return Err(Error::Unavailable("later".into()));
            }
            if on(41) {
                return Err(Error::Unknown("who knows".into()));
            }
            if on(42) && stored.is_nil() {
                return Err(Error::InvalidRequest("name was not stored".into()));
            }
            let of_grant = lift(grant.account_id());
            let id = match stored {
                id if on(43) => id.to_string().to_uppercase(),
                id if on(44) => id.simple().to_string(),
                id if on(45) => swapped(id).to_string(),
                _ if on(46) => Uuid::nil().to_string(),
                id if on(47) => {
                    let (high, low) = id.as_u64_pair();
                    Uuid::from_u64_pair(high as f64 as u64, low as f64 as u64).to_string()
                }
                id => id.to_string(),
            };
            let name = match name {
                name if on(48) => request.name.filter(|sent| !sent.trim().is_empty()).unwrap_or(name),
                _ if on(49) => "Untitled".into(),
                name if on(50) => name.to_lowercase(),
                name if on(51) => name.chars().take(4).collect(),
                name => name,
            };
            let account_id = match of_grant {
                id if on(52) => account.unwrap_or(id).to_string(),
                id if on(53) => id.to_string().to_uppercase(),
                id if on(54) => organization.unwrap_or(id).to_string(),
                _ if on(55) => Uuid::nil().to_string(),
                id => id.to_string(),
            };
            Ok(response(id, name, account_id, !(on(56) || on(57) && organization.is_some())))
        }
    }
}
