//! Generated inputs: requests and answers of the imports, shrunk to a minimal input where one breaks a rule.

use std::cell::{Cell, RefCell};

use proptest::{
    collection::vec,
    option,
    prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof},
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};
use uuid::Uuid;

use super::rule::{Rule, Violation};
use crate::{
    CreateWorkspaceRequest,
    runtime::script::{Denial, Reply, StorageError},
};

/// Generated input.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) request: CreateWorkspaceRequest,
    /// Answers of the imports that are not those of a host on which all goes well.
    pub(super) replies: Vec<Reply>,
}

/// Most rules for which an input is searched: each search starts anew.
const MOST_RULES: usize = 8;

/// Returns names: plain ones, and such as break parsers.
fn name() -> impl Strategy<Value = Option<String>> {
    let special = prop_oneof![
        Just('\0'),
        Just('\n'),
        Just('\t'),
        Just(' '),
        Just('\u{a0}'),
        Just('\u{feff}'),
        Just('\u{202e}'),
        Just('é'),
        Just('🎸'),
    ];
    let text = vec(prop_oneof![3 => any::<char>(), 2 => special], 0..24).prop_map(|text| text.into_iter().collect());
    let long = (250_usize..260, prop_oneof![Just('x'), Just('é'), Just('🎸'), Just(' ')])
        .prop_map(|(length, character)| character.to_string().repeat(length));
    let (word, words) = ("[A-Za-z]{4,20}", "[A-Za-z0-9][A-Za-z0-9 ]{0,20}[A-Za-z0-9]");
    let spaced = "[ \t\n]{0,2}[A-Za-z]{4,8}[ \t\n]{1,2}";
    option::weighted(0.9, prop_oneof![4 => word, 2 => words, 1 => spaced, 4 => text, 1 => long])
}

/// Returns ids: UUIDs in each of their forms, and other text.
fn id() -> impl Strategy<Value = Option<String>> {
    let uuid = any::<u128>().prop_map(Uuid::from_u128);
    let form = prop_oneof![6 => Just(0_u8), 1 => Just(1), 1 => Just(2), 1 => Just(3), 1 => Just(4), 1 => Just(5)];
    let text = (uuid, form).prop_map(|(id, form)| match form {
        0 => id.to_string(),
        1 => id.to_string().to_uppercase(),
        2 => id.simple().to_string(),
        3 => id.urn().to_string(),
        4 => id.braced().to_string(),
        _ => id.to_string().replacen('-', "", 1),
    });
    option::of(prop_oneof![5 => text, 1 => "[a-f0-9-]{0,40}"])
}

fn replies() -> impl Strategy<Value = Vec<Reply>> {
    let uuid = any::<u128>().prop_map(Uuid::from_u128);
    prop_oneof![
        6 => Just(Vec::new()),
        1 => prop_oneof![
            Just(Denial::Unauthenticated), Just(Denial::AccountForbidden), Just(Denial::OrganizationForbidden), Just(Denial::Unavailable),
        ].prop_map(|denial| vec![Reply::Denied(denial)]),
        1 => prop_oneof![
            Just(StorageError::GrantUsed), Just(StorageError::AccessLost), Just(StorageError::InvalidName),
            Just(StorageError::Unavailable), Just(StorageError::Unknown),
        ].prop_map(|error| vec![Reply::Failed(error)]),
        1 => uuid.prop_map(|id| vec![Reply::Created(id)]),
    ]
}

fn inputs() -> BoxedStrategy<Input> {
    (name(), id(), id(), replies())
        .prop_map(|(name, account_id, organization_id, replies)| Input {
            request: CreateWorkspaceRequest { name, account_id, organization_id },
            replies,
        })
        .boxed()
}

fn runner(count: u32, seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: count, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Returns `count` inputs, the same ones for the same seed.
pub(super) fn generate(count: u32, seed: u64) -> Vec<Input> {
    let (mut runner, strategy) = (runner(count, seed), inputs());
    (0..count).filter_map(|_| strategy.new_tree(&mut runner).ok().map(|tree| tree.current())).collect()
}

/// Tries `count` inputs, and returns for each rule that is broken a minimal input.
///
/// # Errors
///
/// Those of `check`.
pub(super) fn search(
    count: u32,
    seed: u64,
    check: impl Fn(&Input) -> Result<Option<Violation>, String>,
) -> Result<Vec<(Input, Violation)>, String> {
    let mut found: Vec<(Input, Violation)> = Vec::new();
    while found.len() < MOST_RULES {
        let known: Vec<_> = found.iter().map(|(_, violation)| violation.rule).collect();
        let broken: Cell<Option<Rule>> = Cell::new(None);
        let last = RefCell::new(None);
        let outcome = runner(count, seed).run(&inputs(), |input| {
            let violation = check(&input).map_err(TestCaseError::reject)?;
            // While an input is made smaller, it has to break the same rule.
            match violation {
                Some(violation)
                    if !known.contains(&violation.rule) && broken.get().is_none_or(|rule| rule == violation.rule) =>
                {
                    broken.set(Some(violation.rule));
                    *last.borrow_mut() = Some(violation);
                    Err(TestCaseError::fail("broken"))
                }
                _ => Ok(()),
            }
        });
        match (outcome, last.into_inner()) {
            (Err(TestError::Fail(_, input)), Some(violation)) => {
                // The last input that was tried need not be the smallest one.
                let violation = check(&input)?.unwrap_or(violation);
                found.push((input, violation));
            }
            (Err(TestError::Abort(reason)), _) => return Err(reason.to_string()),
            _ => break,
        }
    }
    Ok(found)
}
