//! Shape of a component: what it imports and exports, against the contract, and what it needs, against the limits of the
//! host. Nothing is compiled for it.

use std::mem;

use serde::Serialize;
use wasmparser::{Encoding, Parser, Payload};
use wit_parser::{
    Function, Handle, Interface, Resolve, Result_, SourceMap, Type, TypeDefKind, TypeId, WorldId, WorldItem,
    decoding::{DecodedWasm, decode},
};

use crate::runtime::{
    SandboxLimits, Wasi,
    needs::{Needs, Over, Requirements},
};

/// Files of the contract, with their names. One behind the other they are one document.
pub const WIT: [(&str, &str); 5] = [
    ("types.wit", include_str!("../../wit/types.wit")),
    ("auth.wit", include_str!("../../wit/auth.wit")),
    ("storage.wit", include_str!("../../wit/storage.wit")),
    ("workspaces.wit", include_str!("../../wit/workspaces.wit")),
    ("world.wit", include_str!("../../wit/world.wit")),
];

/// Package of the contract.
const PACKAGE: &str = "recoup:workspaces/";

/// Shape of a component.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Shape {
    /// Size of the file, in bytes.
    pub size: usize,
    /// Core instances of an instance, with those of all components in it.
    pub core_instances: u64,
    /// Memories of these.
    pub memories: u64,
    /// Bytes of all memories at the start.
    pub memory: u64,
    /// Tables.
    pub tables: u64,
    /// Elements of all tables at the start.
    pub table_elements: u64,
    /// Tools that made it, as its metadata names them.
    pub producers: Vec<String>,
    /// Mistakes.
    pub mistakes: Vec<Mistake>,
}

/// Mistake in the shape of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// Difference from the contract, a line each: `-` is what the contract has, `+` what the component has.
    pub difference: Vec<String>,
    /// Advice on what to do about it.
    pub remedy: String,
}

impl Shape {
    fn mistake(&mut self, difference: impl IntoIterator<Item = String>, remedy: impl Into<String>) {
        self.mistakes.push(Mistake { difference: difference.into_iter().collect(), remedy: remedy.into() });
    }
}

/// Reads the shape of a component, with what is wrong with it.
pub fn examine(wasm: &[u8], limits: &SandboxLimits, most_bytes: usize) -> Shape {
    let mut shape = Shape { size: wasm.len(), ..Shape::default() };
    if !wasm.starts_with(b"\0asm") {
        let is_text = wasm.trim_ascii_start().starts_with(b"(");
        let remedy = match is_text {
            true => "this is the text form: make a component of it with `wasm-tools parse FILE.wat -o FILE.wasm`",
            false => "this is no WebAssembly: give the .wasm file that the build makes",
        };
        shape.mistake(["- a WebAssembly component".into()], remedy);
        return shape;
    }
    if let Err(error) = read(wasm, &mut shape) {
        shape.mistake(
            ["- a WebAssembly component".into(), format!("+ {error}")],
            "the file is cut or was changed: build it again",
        );
        return shape;
    }
    if shape.mistakes.is_empty() {
        limits_of(wasm, &mut shape, limits, most_bytes);
        contract_of(wasm, &mut shape, limits.wasi);
    }
    shape
}

/// Reads the numbers of a component.
fn read(wasm: &[u8], shape: &mut Shape) -> Result<(), wasmparser::BinaryReaderError> {
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::Version { encoding: Encoding::Module, range, .. } if range.start == 0 => {
                shape.mistake(
                    ["- a component".into(), "+ a core module".into()],
                    "build for the target wasm32-wasip2, or make a component of the module with `wasm-tools component new FILE -o OUT`",
                );
                return Ok(());
            }
            Payload::CustomSection(section) => {
                if let wasmparser::KnownCustom::Producers(fields) = section.as_known() {
                    for field in fields {
                        for value in field?.values {
                            let value = value?;
                            let tool = format!("{} {}", value.name, value.version).trim().to_owned();
                            if !shape.producers.contains(&tool) {
                                shape.producers.push(tool);
                            }
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Compares the component's needs with the limits.
fn limits_of(wasm: &[u8], shape: &mut Shape, limits: &SandboxLimits, most_bytes: usize) {
    if shape.size > most_bytes {
        let difference = [format!("- size in bytes: {most_bytes} at most"), format!("+ size in bytes: {}", shape.size)];
        shape.mistake(difference, "strip debugging information (`wasm-tools strip`), or raise pool.component-size");
    }
    let Ok(Requirements { needs, .. }) = Requirements::of(wasm) else { return };
    let Needs { core_instances, memories, memory, tables, table_elements } = needs;
    *shape = Shape { core_instances, memories, memory, tables, table_elements, ..mem::take(shape) };
    for Over { name, need, limit } in needs.over(limits) {
        let smaller = match name {
            "memory" => "lower the memory that the linker sets aside (for Rust: -C link-arg=-zstack-size=16384), or ",
            _ => "",
        };
        let difference = [format!("- {name}: {limit} at most"), format!("+ {name}: {need}")];
        shape.mistake(difference, format!("{smaller}raise limits.{name} of the tenant, and pool.{name}"));
    }
}

/// Compares the component's imports and exports with the contract.
fn contract_of(wasm: &[u8], shape: &mut Shape, given: Wasi) {
    let decoded = match decode(wasm) {
        Ok(DecodedWasm::Component(resolve, world)) => Some((resolve, world)),
        Ok(DecodedWasm::WitPackage(..)) => {
            shape.mistake(
                ["- a component".into(), "+ a WIT package".into()],
                "this file holds interfaces and no code: give the component that implements them",
            );
            return;
        }
        // Its imports and exports are no WIT; the engine says more when it loads it.
        Err(_) => None,
    };
    let Some((resolve, world)) = decoded else {
        shape.mistake(
            ["- imports and exports as in the contract".into()],
            "its imports and exports can't be read as WIT: make it with the bindings that `workspaces wit` has",
        );
        return;
    };
    let Some((contract, plugin)) = contract() else { return };
    imports_of(shape, (&resolve, world), (&contract, plugin), given);
    exports_of(shape, (&resolve, world), (&contract, plugin));
}

/// Reads the contract: its packages, and the world `plugin`.
pub(super) fn contract() -> Option<(Resolve, WorldId)> {
    let mut files = SourceMap::new();
    for (name, text) in WIT {
        files.push_str(name, text);
    }
    let mut resolve = Resolve::default();
    let package = resolve.push_group(files.parse().ok()?).ok()?;
    let world = resolve.select_world(&[package], Some("plugin")).ok()?;
    Some((resolve, world))
}

/// Splits `recoup:workspaces/auth@1.0.0` into the interface and the version.
fn of_package(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.split_once('@')
}

fn imports_of(
    shape: &mut Shape,
    (own, world): (&Resolve, WorldId),
    (contract, plugin): (&Resolve, WorldId),
    given: Wasi,
) {
    let mut wasi = Vec::new();
    for (key, item) in &own.worlds[world].imports {
        let name = own.name_world_key(key);
        match (of_package(&name), item) {
            (Some((interface, version)), WorldItem::Interface { id, .. }) => {
                if !is_version(shape, &name, version) {
                    continue;
                }
                let known = find(contract, plugin, interface, true);
                match known {
                    Some(known) => compare(shape, &name, (own, &own.interfaces[*id]), (contract, known), false),
                    None => shape.mistake(
                        [format!("+ import {name}")],
                        "the contract has no such interface: see `workspaces wit`",
                    ),
                }
            }
            _ if name.starts_with("wasi:") => wasi.push(format!("+ import {name}")),
            _ => shape.mistake(
                [format!("+ import {name}")],
                "the host gives a component auth and storage and nothing else: leave the import out, or compose it in",
            ),
        }
    }
    if !wasi.is_empty() && given == Wasi::None {
        shape.mistake(
            wasi,
            "the host gives no WASI: build without the parts of the standard library that use it (in Rust `#![no_std]`, in C without libc's files and clocks), or give the tenant imports that are empty and trap: wasi = \"deny\", or --wasi deny",
        );
    }
}

/// Checks the version of an import or export of the package.
fn is_version(shape: &mut Shape, name: &str, version: &str) -> bool {
    let is_first = version.starts_with("1.");
    if !is_first {
        let own = name.split('@').next().unwrap_or_default();
        shape.mistake(
            [format!("- {own}@1.0.0"), format!("+ {name}")],
            "another major version of the contract: generate the bindings from the files that `workspaces wit` prints",
        );
    }
    is_first
}

fn exports_of(shape: &mut Shape, (own, world): (&Resolve, WorldId), (contract, plugin): (&Resolve, WorldId)) {
    let mut is_exported = false;
    for (key, item) in &own.worlds[world].exports {
        let name = own.name_world_key(key);
        if let (Some(("workspaces", version)), WorldItem::Interface { id, .. }) = (of_package(&name), item) {
            is_exported = true;
            if is_version(shape, &name, version)
                && let Some(known) = find(contract, plugin, "workspaces", false)
            {
                compare(shape, &name, (own, &own.interfaces[*id]), (contract, known), true);
            }
        }
    }
    if !is_exported {
        let others: Vec<_> =
            own.worlds[world].exports.keys().map(|key| format!("+ export {}", own.name_world_key(key))).collect();
        let difference = std::iter::once("- export recoup:workspaces/workspaces@1.0.0".to_owned()).chain(others);
        shape.mistake(difference, "implement the world plugin: it exports the interface workspaces");
    }
}

/// Returns an interface of the contract's world.
fn find<'a>(contract: &'a Resolve, plugin: WorldId, interface: &str, is_import: bool) -> Option<&'a Interface> {
    let world = &contract.worlds[plugin];
    let items = if is_import { &world.imports } else { &world.exports };
    items.values().find_map(|item| match item {
        WorldItem::Interface { id, .. } => {
            let known = &contract.interfaces[*id];
            (known.name.as_deref() == Some(interface)).then_some(known)
        }
        _ => None,
    })
}

/// Adds a mistake where an interface differs from the contract's. A component may import a part of one.
fn compare(
    shape: &mut Shape,
    name: &str,
    (own, interface): (&Resolve, &Interface),
    (contract, known): (&Resolve, &Interface),
    is_whole: bool,
) {
    let (own, known) = (items(own, interface), items(contract, known));
    let mut difference = Vec::new();
    for (item, text) in &own {
        match known.iter().find(|(known, _)| known == item) {
            Some((_, known)) if known == text => {}
            Some((_, known)) => difference.extend([format!("- {known}"), format!("+ {text}")]),
            None => difference.push(format!("+ {text}")),
        }
    }
    if is_whole {
        let missing = known.iter().filter(|(item, _)| !own.iter().any(|(own, _)| own == item));
        difference.extend(missing.map(|(_, text)| format!("- {text}")));
    }
    if !difference.is_empty() {
        difference.insert(0, format!("  {name}"));
        shape.mistake(
            difference,
            "its bindings are not of this contract: generate them from the files that `workspaces wit` prints",
        );
    }
}

/// Returns the types and functions of an interface, each with its text in one line.
fn items(resolve: &Resolve, interface: &Interface) -> Vec<(String, String)> {
    let types =
        interface.types.iter().map(|(name, id)| (name.clone(), format!("{name}: {}", definition(resolve, *id))));
    let functions = interface.functions.iter().map(|(name, function)| (name.clone(), signature(resolve, function)));
    types.chain(functions).collect()
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    let parameters: Vec<_> =
        function.params.iter().map(|own| format!("{}: {}", own.name, text(resolve, &own.ty))).collect();
    let result = function.result.map(|own| format!(" -> {}", text(resolve, &own))).unwrap_or_default();
    format!("{}: func({}){result}", function.name, parameters.join(", "))
}

/// Returns the definition of a type, that of another interface too.
fn definition(resolve: &Resolve, id: TypeId) -> String {
    match &resolve.types[id].kind {
        TypeDefKind::Type(Type::Id(id)) => definition(resolve, *id),
        kind => structure(resolve, kind),
    }
}

/// Returns the name of a type, or its structure where it has none.
fn text(resolve: &Resolve, own: &Type) -> String {
    match own {
        Type::Id(id) => match &resolve.types[*id].name {
            Some(name) => name.clone(),
            None => structure(resolve, &resolve.types[*id].kind),
        },
        Type::Bool => "bool".into(),
        Type::String => "string".into(),
        Type::Char => "char".into(),
        primitive => format!("{primitive:?}").to_lowercase(),
    }
}

fn structure(resolve: &Resolve, kind: &TypeDefKind) -> String {
    let or_none = |own: &Option<Type>| own.map_or("_".into(), |own| text(resolve, &own));
    let name = |id: &TypeId| resolve.types[*id].name.clone().unwrap_or_default();
    let list = |parts: Vec<String>| parts.join(", ");
    match kind {
        TypeDefKind::Record(own) => {
            let fields = own.fields.iter().map(|field| format!("{}: {}", field.name, text(resolve, &field.ty)));
            format!("record {{ {} }}", list(fields.collect()))
        }
        TypeDefKind::Variant(own) => {
            let cases = own.cases.iter().map(|case| match &case.ty {
                Some(own) => format!("{}({})", case.name, text(resolve, own)),
                None => case.name.clone(),
            });
            format!("variant {{ {} }}", list(cases.collect()))
        }
        TypeDefKind::Enum(own) => {
            format!("enum {{ {} }}", list(own.cases.iter().map(|case| case.name.clone()).collect()))
        }
        TypeDefKind::Flags(own) => {
            format!("flags {{ {} }}", list(own.flags.iter().map(|flag| flag.name.clone()).collect()))
        }
        TypeDefKind::Tuple(own) => format!("tuple<{}>", list(own.types.iter().map(|own| text(resolve, own)).collect())),
        TypeDefKind::Option(own) => format!("option<{}>", text(resolve, own)),
        TypeDefKind::List(own) => format!("list<{}>", text(resolve, own)),
        TypeDefKind::Result(Result_ { ok, err }) => format!("result<{}, {}>", or_none(ok), or_none(err)),
        TypeDefKind::Handle(Handle::Own(id)) => name(id),
        TypeDefKind::Handle(Handle::Borrow(id)) => format!("borrow<{}>", name(id)),
        TypeDefKind::Type(own) => text(resolve, own),
        other => other.as_str().to_owned(),
    }
}
