//! Components that are composed of several, as `wac plug` composes them.

use anyhow::{Context as _, Result};
use wac_graph::{CompositionGraph, EncodeOptions, plug, types::Package};
use wit_parser::Resolve;

use crate::hostile_components::of_world;

/// Returns a component that exports storage and has another storage do the work: a name goes through its memory. The body
/// `first` makes another letter of a name's first one.
///
/// # Errors
///
/// Where the body is not WebAssembly text.
pub fn relay(first: &str) -> Result<Vec<u8>> {
    let module = format!(
        r#"(module
            (import "recoup:workspaces/storage@1.0.0" "create-workspace" (func $create (param i32 i32 i32 i32)))
            (import "recoup:workspaces/auth@1.0.0" "[resource-drop]grant" (func $drop (param i32)))
            (memory (export "memory") 2)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
            (func $first (param i32) (result i32) {first})
            (func (export "recoup:workspaces/storage@1.0.0#create-workspace")
                (param $grant i32) (param $at i32) (param $length i32) (result i32)
                (i32.store8 (local.get $at) (call $first (i32.load8_u (local.get $at))))
                (call $create (local.get $grant) (local.get $at) (local.get $length) (i32.const 1024))
                (call $drop (local.get $grant))
                (i32.const 1024)))"#
    );
    let mut resolve = Resolve::default();
    let (contract, _) = resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../wit"))?;
    let world = "package test:relay; world relay { import recoup:workspaces/storage@1.0.0; export recoup:workspaces/storage@1.0.0; }";
    let package = resolve.push_str("relay.wit", world)?;
    let world = resolve.select_world(&[package, contract], Some("test:relay/relay"))?;
    of_world(wat::parse_str(module)?, &resolve, world)
}

/// Returns a component that has the imports of `socket` from `plugs` where these export them, and the rest from the host.
///
/// # Errors
///
/// Where they do not fit.
pub fn composed(socket: &[u8], plugs: &[&[u8]]) -> Result<Vec<u8>> {
    let mut graph = CompositionGraph::new();
    let mut package = |name: &str, wasm: &[u8]| -> Result<_> {
        let package = Package::from_bytes(name, None, wasm, graph.types_mut())?;
        Ok(graph.register_package(package)?)
    };
    let socket = package("socket", socket)?;
    let plugs = plugs.iter().enumerate().map(|(number, plug)| package(&format!("plug{number}"), plug));
    let plugs = plugs.collect::<Result<Vec<_>>>()?;
    plug(&mut graph, plugs, socket).context("nothing was composed")?;
    Ok(graph.encode(EncodeOptions::default())?)
}
