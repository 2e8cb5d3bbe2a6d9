//! Components of core modules, for toolchains that make no components themselves.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

use super::shape::contract;

/// Module that can't be made a component of.
#[derive(Debug, thiserror::Error)]
#[error("no component of the world recoup:workspaces/plugin@1.0.0 can be made of it: {0}")]
pub struct ComponentizeError(String);

/// Makes a component of a core module that imports and exports the functions of the contract by the canonical ABI.
///
/// # Errors
///
/// A [`ComponentizeError`] with the function that is missing or has another signature.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, ComponentizeError> {
    let wrong = |error: &dyn std::fmt::Display| ComponentizeError(format!("{error:#}"));
    let (resolve, world) = contract().ok_or_else(|| wrong(&"the contract can't be read"))?;
    let mut module = module.to_vec();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).map_err(|error| wrong(&error))?;
    let encoder = ComponentEncoder::default().validate(true).module(&module);
    encoder.and_then(|mut encoder| encoder.encode()).map_err(|error| wrong(&error))
}
