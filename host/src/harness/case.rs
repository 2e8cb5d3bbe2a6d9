//! Cases: a request, the answers of the imports, and what is expected. They are data, in JSON.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    host::Host,
    rule::{Rule, Violation},
};
use crate::{
    CreateWorkspaceRequest,
    runtime::script::{Answer, Call, Ending, ErrorCase, Played, Reply},
};

/// Case that a component is judged by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Name, unique among all cases.
    pub id: String,
    /// Rules that it belongs to.
    pub level: Level,
    /// Sentence that it holds the component to.
    pub sentence: String,
    /// Request of the client.
    #[serde(default)]
    pub request: CreateWorkspaceRequest,
    /// Answers of the imports: each call takes the first that fits it. Where none does, auth grants what is asked for and
    /// storage stores what it is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replies: Vec<Reply>,
    /// Expected behaviour, beside the rules of the contract.
    #[serde(default, skip_serializing_if = "Expect::is_none")]
    pub expect: Expect,
}

/// Rules that a case belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The contract, which every component keeps.
    Contract,
    /// The rules of the built-in component, of which another may have its own.
    DefaultRules,
}

/// Expected behaviour.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<ExpectedAnswer>,
    /// Calls of `authorize` and `create-workspace`, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<Vec<Call>>,
}

/// Expected answer. What it leaves out is not compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ExpectedAnswer {
    /// A workspace.
    #[serde(rename_all = "snake_case")]
    Created {
        /// Its id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Uuid>,
        /// Its name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Its account.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account_id: Option<Uuid>,
    },
    /// An error.
    Refused {
        /// Its case.
        case: ErrorCase,
        /// Text that its message contains.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        contains: Option<String>,
    },
    /// The answer, to the letter.
    Exactly(Answer),
}

/// Reason why cases can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaseError {
    /// A file or a folder that can't be read.
    #[error("can't read {path}: {error}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Error of the system.
        error: std::io::Error,
    },
    /// A file that holds no case.
    #[error("{path} is no case, nor a list of cases: {error}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Error with the line and the column.
        error: serde_json::Error,
    },
    /// Two cases with one name.
    #[error("two cases have the id {0}: each needs one of its own")]
    Duplicate(String),
}

impl Expect {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Case {
    /// Returns the host that answers as the case says.
    pub(super) fn host(&self) -> Host {
        Host::of(&self.replies)
    }

    /// Returns the difference between the expected behaviour and the one that was seen.
    pub(super) fn judge(&self, played: &Played) -> Option<Violation> {
        if let Some(calls) = &self.expect.calls {
            let is_step = |call: &&Call| matches!(call, Call::Authorize { .. } | Call::CreateWorkspace { .. });
            let seen: Vec<_> = played.exchanges.iter().map(|exchange| &exchange.call).filter(is_step).collect();
            if !seen.iter().copied().eq(calls) {
                return Some(Violation::new(Rule::Case, list(calls.iter()), list(seen.into_iter())));
            }
        }
        let expected = self.expect.answer.as_ref()?;
        let is_met = match (expected, &played.ending) {
            (ExpectedAnswer::Exactly(expected), Ending::Answered(seen)) => expected == seen,
            (
                ExpectedAnswer::Created { id, name, account_id },
                Ending::Answered(Answer::Created { id: seen, name: seen_name, account_id: seen_account, .. }),
            ) => {
                id.is_none_or(|id| id.to_string() == *seen)
                    && name.as_ref().is_none_or(|name| name == seen_name)
                    && account_id.is_none_or(|id| id.to_string() == *seen_account)
            }
            (ExpectedAnswer::Refused { case, contains }, Ending::Answered(Answer::Refused { case: seen, message })) => {
                case == seen && contains.as_ref().is_none_or(|text| message.contains(text))
            }
            _ => false,
        };
        (!is_met).then(|| Violation::new(Rule::Case, expected.to_string(), played.ending.to_string()))
    }
}

/// Returns calls as a list.
fn list<'a>(calls: impl Iterator<Item = &'a Call>) -> String {
    let calls: Vec<_> = calls.map(ToString::to_string).collect();
    if calls.is_empty() { "no call".into() } else { calls.join(", ") }
}

impl std::fmt::Display for ExpectedAnswer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Created { id, name, account_id } => {
                formatter.write_str("created")?;
                id.map_or(Ok(()), |id| write!(formatter, " {id}"))?;
                name.as_ref().map_or(Ok(()), |name| write!(formatter, " {name:?}"))?;
                account_id.map_or(Ok(()), |id| write!(formatter, " for {id}"))
            }
            Self::Refused { case, contains: None } => case.fmt(formatter),
            Self::Refused { case, contains: Some(text) } => write!(formatter, "{case} with {text:?} in its message"),
            Self::Exactly(answer) => Ending::Answered(answer.clone()).fmt(formatter),
        }
    }
}

/// Returns the cases of the contract, and those of the default rules.
///
/// # Panics
///
/// Never: a test reads them.
#[allow(clippy::expect_used, reason = "the files are part of the crate, and a test reads them")]
pub fn built_in() -> Vec<Case> {
    let files = [include_str!("cases/contract.json"), include_str!("cases/default-rules.json")];
    let read = |text| serde_json::from_str::<Vec<Case>>(text).expect("a list of cases");
    files.into_iter().flat_map(read).collect()
}

/// Reads cases from a file, or from the files of a folder that end in `.json`.
///
/// # Errors
///
/// A [`CaseError`] with the file.
pub fn read(path: &Path) -> Result<Vec<Case>, CaseError> {
    let unread = |error| CaseError::Read { path: path.to_owned(), error };
    if !path.is_dir() {
        let text = fs::read_to_string(path).map_err(unread)?;
        let parsed = match text.trim_start().starts_with('[') {
            true => serde_json::from_str(&text),
            false => serde_json::from_str(&text).map(|case| vec![case]),
        };
        return parsed.map_err(|error| CaseError::Parse { path: path.to_owned(), error });
    }
    let entries = fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>()).map_err(unread)?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        cases.extend(read(&file)?);
    }
    Ok(cases)
}

/// Checks that each case has a name of its own.
///
/// # Errors
///
/// [`CaseError::Duplicate`].
pub(super) fn require_unique(cases: &[Case]) -> Result<(), CaseError> {
    let mut ids = HashSet::new();
    match cases.iter().find(|case| !ids.insert(&case.id)) {
        Some(case) => Err(CaseError::Duplicate(case.id.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_cases_can_be_read_and_have_names_of_their_own() {
        let cases = built_in();
        let of = |level| cases.iter().filter(|case| case.level == level).count();
        assert!(of(Level::Contract) > 20 && of(Level::DefaultRules) > 30, "{}", cases.len());
        assert!(require_unique(&cases).is_ok());
        let sentences: HashSet<_> = cases.iter().map(|case| &case.sentence).collect();
        assert!(sentences.len() > 20 && !sentences.iter().any(|sentence| sentence.is_empty()));
    }
}
