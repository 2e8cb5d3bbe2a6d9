//! Rules that a component is held to, and how it breaks one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Makes the rules: a name, a word for files and reports, and the sentence of the contract.
macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident $word:literal $sentence:literal)*) => {
        /// Rule that a component is held to.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Rule {
            $(#[doc = $sentence] #[serde(rename = $word)] $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns the name of the rule in files and reports.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }

            /// Returns the sentence that a component is held to.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence),* }
            }
        }
    };
}

rules! {
    Answers "answers" "A component answers each request, whatever its imports answer: it does not trap, and its answer can be read."
    KeepsLimits "keeps-limits" "A component answers within the limits of its sandbox: time on the processor, time in all, and calls of imports."
    AsksForAccount "asks-for-account" "A component asks for the account that the request names, and for none where it names none."
    AsksForOrganization "asks-for-organization" "A component asks for the organization that the request names, and for none where it names none."
    RefusesInvalidIds "refuses-invalid-ids" "A component refuses an account_id or organization_id that is no UUID before it asks for a grant."
    AsksOnce "asks-once" "A component asks for one grant and creates one workspace in a request."
    StopsAfterFailure "stops-after-failure" "A component calls nothing after a denial or an error of storage; it may drop its grant."
    ClaimsOnlyStored "claims-only-stored" "A component reports a workspace only if storage returned its id in this call."
    HidesNothing "hides-nothing" "A component reports the workspace whose id storage returned."
    ReportsId "reports-id" "A component reports the id that storage returned, in lower-case hyphenated form."
    ReportsName "reports-name" "A component reports the name that it gave to storage."
    ReportsAccount "reports-account" "A component reports the account of its grant, in lower-case hyphenated form."
    ReportsWorkspace "reports-workspace" "A component sets is-workspace."
    TellsDenials "tells-denials" "A component answers a denial with its error: unauthenticated, forbidden or unavailable."
    TellsStorageErrors "tells-storage-errors" "A component answers an error of storage with its error: unavailable for grant-used and unavailable, forbidden for access-lost, invalid-request for invalid-name, unknown for unknown."
    MessagesFit "messages-fit" "A message has 1 to 512 bytes."
    NamesField "names-field" "The message of invalid-request names the field: name, account_id or organization_id."
    RefusesAsInvalid "refuses-as-invalid" "A component that refuses a request by its own rules answers invalid-request."
    CreatesForValid "creates-for-valid" "A component creates a workspace for a request without a name, or with a word as its name, and with UUIDs, if auth and storage agree."
    Repeats "repeats" "A component that gets the same request and the same answers makes the same calls and the same answer."
    Case "case" "A component answers a case, and calls what the case expects."
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// Break of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// Behaviour that the rule expects.
    pub expected: String,
    /// Behaviour that was seen.
    pub seen: String,
}

impl Violation {
    pub(super) fn new(rule: Rule, expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { rule, expected: expected.into(), seen: seen.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, expected, seen } = self;
        write!(formatter, "{rule}: expected {expected}; seen: {seen}")
    }
}
