//! Components that are wrong in one way each, for the judge of components.

use anyhow::{Context as _, Result};

use crate::built::build;

/// A fault: its number in `tests/mutants`, what the component does, and the rule that it breaks.
pub type Fault = (u16, &'static str, &'static str);

/// Faults against the contract.
pub const FAULTS: [Fault; 81] = [
    (1, "traps on each request", "answers"),
    (2, "traps on a name", "answers"),
    (3, "traps on a long name", "answers"),
    (4, "traps when access can't be checked", "answers"),
    (5, "traps when the outcome of storage is not known", "answers"),
    (6, "traps on the nil id", "answers"),
    (7, "traps on an id in upper case", "answers"),
    (8, "answers with text that is no UTF-8", "answers"),
    (9, "recurses on a name that is not ASCII", "answers"),
    (10, "loops when access is lost", "keeps-limits"),
    (11, "loops on each request", "keeps-limits"),
    (12, "makes too many calls", "keeps-limits"),
    (13, "asks for no account", "asks-for-account"),
    (14, "asks for the nil account in place of none", "asks-for-account"),
    (15, "asks for account and organization the wrong way round", "asks-for-account"),
    (16, "swaps the halves of the account", "asks-for-account"),
    (17, "cuts the account to its first half", "asks-for-account"),
    (18, "asks for no organization", "asks-for-organization"),
    (19, "asks for the account as an organization", "asks-for-organization"),
    (20, "swaps the halves of the organization", "asks-for-organization"),
    (21, "forgets the organization beside an account", "asks-for-organization"),
    (22, "takes an account_id that is no UUID as absent", "refuses-invalid-ids"),
    (23, "takes an organization_id that is no UUID as absent", "refuses-invalid-ids"),
    (24, "takes an empty organization_id as absent", "refuses-invalid-ids"),
    (25, "takes ids with hyphens anywhere", "refuses-invalid-ids"),
    (26, "asks for a second grant", "asks-once"),
    (27, "creates a second workspace", "asks-once"),
    (28, "asks for a grant after it created", "asks-once"),
    (29, "tries again without the organization", "stops-after-failure"),
    (30, "asks again when access can't be checked", "stops-after-failure"),
    (31, "stores again when storage is unavailable", "stops-after-failure"),
    (32, "asks for the account after an error of storage", "stops-after-failure"),
    (33, "stores another name in place of one that is refused", "stops-after-failure"),
    (34, "asks for the caller's account in place of one that is denied", "stops-after-failure"),
    (35, "reports a workspace when storage is unavailable", "claims-only-stored"),
    (36, "reports a workspace after a denial", "claims-only-stored"),
    (37, "reports a workspace without storage", "claims-only-stored"),
    (38, "reports a workspace when the outcome is not known", "claims-only-stored"),
    (39, "reports a workspace when the grant was used", "claims-only-stored"),
    (40, "hides a workspace in an organization", "hides-nothing"),
    (41, "says of each workspace that its outcome is not known", "hides-nothing"),
    (42, "refuses after storage returned the nil id", "hides-nothing"),
    (43, "reports the id in upper case", "reports-id"),
    (44, "reports the id without hyphens", "reports-id"),
    (45, "swaps the halves of the id", "reports-id"),
    (46, "reports the nil id", "reports-id"),
    (47, "loses bits of the id in a double", "reports-id"),
    (48, "reports the name as sent, where another was stored", "reports-name"),
    (49, "reports the default name", "reports-name"),
    (50, "reports the name in lower case", "reports-name"),
    (51, "cuts the name that it reports", "reports-name"),
    (52, "reports the account of the request, not of the grant", "reports-account"),
    (53, "reports the account in upper case", "reports-account"),
    (54, "reports the organization as the account", "reports-account"),
    (55, "reports the nil account", "reports-account"),
    (56, "reports no workspace", "reports-workspace"),
    (57, "reports no workspace in an organization", "reports-workspace"),
    (58, "answers unauthenticated with forbidden", "tells-denials"),
    (59, "answers a forbidden account with invalid-request", "tells-denials"),
    (60, "answers a forbidden organization with unavailable", "tells-denials"),
    (61, "answers unavailable with forbidden", "tells-denials"),
    (62, "answers each denial with unavailable", "tells-denials"),
    (63, "answers a forbidden account with unknown", "tells-denials"),
    (64, "answers a used grant with unknown", "tells-storage-errors"),
    (65, "answers lost access with unavailable", "tells-storage-errors"),
    (66, "answers an invalid name with unavailable", "tells-storage-errors"),
    (67, "answers unavailable with unknown", "tells-storage-errors"),
    (68, "answers unknown with unavailable", "tells-storage-errors"),
    (69, "answers unknown with invalid-request", "tells-storage-errors"),
    (70, "has no message for a denial", "messages-fit"),
    (71, "has a message of more than 512 bytes", "messages-fit"),
    (72, "has a message of 600 bytes when access can't be checked", "messages-fit"),
    (73, "does not name the field", "names-field"),
    (74, "names another field", "names-field"),
    (75, "does not name the field that storage refuses", "names-field"),
    (76, "refuses each request", "creates-for-valid"),
    (77, "refuses an account in an organization", "creates-for-valid"),
    (79, "refuses a request without a name", "creates-for-valid"),
    (80, "answers an account_id that is no UUID with forbidden", "refuses-as-invalid"),
    (81, "answers an organization_id that is no UUID with unavailable", "refuses-as-invalid"),
    (82, "answers a long name with unavailable", "refuses-as-invalid"),
];

/// Faults against the rules of the built-in component, which another component may have.
pub const OTHER_RULES: [Fault; 9] = [
    (78, "refuses a name of two words", "case"),
    (83, "has another default name", "case"),
    (84, "does not trim", "case"),
    (85, "takes a name of 256 characters", "case"),
    (86, "counts bytes", "case"),
    (87, "takes text-direction overrides", "case"),
    (88, "leaves control characters to storage", "case"),
    (89, "takes UUIDs in other forms", "case"),
    (90, "judges the organization before the account", "case"),
];

/// Bytes before the number.
const MARK: &[u8] = b"number-of-mutant";

/// Component of which a number makes a mutant.
pub struct Mutants(Vec<u8>);

impl Mutants {
    /// Builds the component, below a folder for what is built.
    ///
    /// # Errors
    ///
    /// Where it does not compile.
    pub fn build(folder: &str) -> Result<Self> {
        Ok(Self(build(folder, "workspaces-mutants")?))
    }

    /// Returns the mutant of a number; 0 has no fault.
    ///
    /// # Errors
    ///
    /// Where the component has no place for its number.
    pub fn mutant(&self, number: u16) -> Result<Vec<u8>> {
        let mut wasm = self.0.clone();
        let place = wasm.windows(MARK.len()).position(|window| window == MARK).context("no mark")? + MARK.len();
        wasm.get_mut(place..place + 2).context("no place")?.copy_from_slice(&number.to_le_bytes());
        Ok(wasm)
    }
}
