//! Needs of a component, read from its bytes before it is compiled: a component over its limits costs no compilation.

use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, Encoding, Instance, Parser, Payload,
};

use super::{
    LoadError, SandboxLimits, Wasi,
    cause::{MAX_CAUSE, MAX_NAME},
    wasi::is_wasi,
};
use crate::excerpt::{clipped, excerpt};

/// Size of a page of linear memory, in bytes.
const PAGE: u64 = 64 << 10;

/// Maximum number of imports whose names are kept.
const MAX_WASI: usize = 64;

/// Maximum number of them in an error.
const SHOWN_WASI: usize = 3;

/// Maximum number of modules, and of components, in one component: a limit of the engine's validator.
const MAX_PARTS: usize = 1_000;

/// Needs of one instance of a component, with all that it is composed of.
///
/// Modules and components that are given to it as arguments are not counted: no tool composes like that. The engine
/// counts them after it has compiled them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Core instances. The engine adds one for calls between each two components.
    pub(crate) core_instances: u64,
    pub(crate) memories: u64,
    /// Bytes of all memories at the start.
    pub(crate) memory: u64,
    pub(crate) tables: u64,
    /// Elements of all tables at the start.
    pub(crate) table_elements: u64,
}

impl Needs {
    /// Adds the needs of a part.
    fn add(&mut self, part: Self) {
        let Self { core_instances, memories, memory, tables, table_elements } = part;
        self.core_instances = self.core_instances.saturating_add(core_instances);
        self.memories = self.memories.saturating_add(memories);
        self.memory = self.memory.saturating_add(memory);
        self.tables = self.tables.saturating_add(tables);
        self.table_elements = self.table_elements.saturating_add(table_elements);
    }

    /// Returns the limits that are too low: name, need and limit.
    pub(crate) fn over(self, limits: &SandboxLimits) -> impl Iterator<Item = Over> {
        [
            ("core-instances", self.core_instances, limits.core_instances.into()),
            ("memories", self.memories, limits.memories.into()),
            ("memory", self.memory, limits.memory as u64),
            ("tables", self.tables, limits.tables.into()),
            ("table-elements", self.table_elements, limits.table_elements as u64),
        ]
        .into_iter()
        .filter(|(_, need, limit)| need > limit)
        .map(|(name, need, limit)| Over { name, need, limit })
    }
}

/// Need that is over its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Over {
    /// Name of the limit, as in the configuration file.
    pub(crate) name: &'static str,
    pub(crate) need: u64,
    pub(crate) limit: u64,
}

/// Requirements of a component: needs, and imports that not every host gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Requirements {
    pub(crate) needs: Needs,
    /// Names of the interfaces of WASI that it imports.
    pub(crate) wasi: Vec<String>,
}

impl Requirements {
    /// Reads the requirements of a component. Those of a core module are empty.
    ///
    /// # Errors
    ///
    /// [`LoadError::Compile`] where the bytes are cut off, or are no WebAssembly.
    pub(crate) fn of(wasm: &[u8]) -> Result<Self, LoadError> {
        Self::read(wasm).map_err(|error| LoadError::Compile(clipped(error, MAX_CAUSE)))
    }

    fn read(wasm: &[u8]) -> Result<Self, BinaryReaderError> {
        let (mut scopes, mut requirements) = (Vec::<Scope>::new(), Self::default());
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload?;
            match &payload {
                Payload::Version { encoding, .. } => {
                    scopes.push(Scope { is_module: *encoding == Encoding::Module, ..Scope::default() });
                }
                Payload::End(_) => {
                    let Some(scope) = scopes.pop() else { continue };
                    match scopes.last_mut() {
                        Some(parent) if scope.is_module => push(&mut parent.modules, scope.needs),
                        Some(parent) => push(&mut parent.components, scope.needs),
                        None if scope.is_module => {}
                        None => requirements.needs = scope.needs,
                    }
                }
                Payload::ComponentImportSection(imports) if scopes.len() == 1 => {
                    for import in imports.clone() {
                        let name = import?.name.name;
                        if is_wasi(name) && requirements.wasi.len() < MAX_WASI {
                            requirements.wasi.push(excerpt(name, MAX_NAME).into_owned());
                        }
                    }
                }
                _ => {}
            }
            add_section(payload, &mut scopes)?;
        }
        Ok(requirements)
    }

    /// Checks that the limits allow what it requires.
    ///
    /// # Errors
    ///
    /// [`LoadError::Needs`] naming each limit that is too low, [`LoadError::Wasi`] where it imports what they do not give.
    pub(crate) fn check(&self, limits: &SandboxLimits, section: &'static str) -> Result<(), LoadError> {
        if limits.wasi == Wasi::None && !self.wasi.is_empty() {
            let names = self.wasi.iter().take(SHOWN_WASI).map(String::as_str).collect::<Vec<_>>().join(", ");
            let further = self.wasi.len().saturating_sub(SHOWN_WASI);
            return Err(LoadError::Wasi(if further > 0 { format!("{names} and {further} more") } else { names }));
        }
        let over = self.needs.over(limits);
        let over: Vec<_> =
            over.map(|Over { name, need, limit }| format!("{need}, where {section}.{name} is {limit}")).collect();
        if over.is_empty() { Ok(()) } else { Err(LoadError::Needs(over.join("; "))) }
    }
}

/// Module or component that is being read.
#[derive(Default)]
struct Scope {
    is_module: bool,
    /// Own needs, and those of all that it instantiates.
    needs: Needs,
    /// Index space of its core modules.
    modules: Vec<Needs>,
    /// Index space of its components.
    components: Vec<Needs>,
}

/// Adds a part to an index space. The validator refuses those beyond.
fn push(parts: &mut Vec<Needs>, needs: Needs) {
    if parts.len() < MAX_PARTS {
        parts.push(needs);
    }
}

/// Adds a section to the innermost scope.
fn add_section(payload: Payload<'_>, scopes: &mut [Scope]) -> Result<(), BinaryReaderError> {
    let Some((scope, outer)) = scopes.split_last_mut() else { return Ok(()) };
    let part = |parts: &[Needs], index: u32| parts.get(index as usize).copied().unwrap_or_default();
    match payload {
        Payload::MemorySection(memories) => {
            for memory in memories {
                let memory = memory?;
                let page = memory.page_size_log2.map_or(PAGE, |log2| 1u64.checked_shl(log2).unwrap_or(u64::MAX));
                let memory = memory.initial.saturating_mul(page);
                scope.needs.add(Needs { memories: 1, memory, ..Needs::default() });
            }
        }
        Payload::TableSection(tables) => {
            for table in tables {
                let table_elements = table?.ty.initial;
                scope.needs.add(Needs { tables: 1, table_elements, ..Needs::default() });
            }
        }
        Payload::InstanceSection(instances) => {
            for instance in instances {
                if let Instance::Instantiate { module_index, .. } = instance? {
                    scope.needs.add(Needs { core_instances: 1, ..Needs::default() });
                    scope.needs.add(part(&scope.modules, module_index));
                }
            }
        }
        Payload::ComponentInstanceSection(instances) => {
            for instance in instances {
                if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                    scope.needs.add(part(&scope.components, component_index));
                }
            }
        }
        Payload::ComponentImportSection(imports) => {
            for import in imports {
                match import?.ty {
                    ComponentTypeRef::Module(_) => push(&mut scope.modules, Needs::default()),
                    ComponentTypeRef::Component(_) => push(&mut scope.components, Needs::default()),
                    _ => {}
                }
            }
        }
        Payload::ComponentAliasSection(aliases) => {
            for alias in aliases {
                match alias? {
                    ComponentAlias::Outer { kind, count, index } => {
                        let from = match count {
                            0 => None,
                            count => outer.len().checked_sub(count as usize).and_then(|at| outer.get(at)),
                        };
                        let from = from
                            .map_or((&*scope.modules, &*scope.components), |from| (&*from.modules, &*from.components));
                        let (module, component) = (part(from.0, index), part(from.1, index));
                        match kind {
                            ComponentOuterAliasKind::CoreModule => push(&mut scope.modules, module),
                            ComponentOuterAliasKind::Component => push(&mut scope.components, component),
                            _ => {}
                        }
                    }
                    ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => {
                        push(&mut scope.modules, Needs::default());
                    }
                    ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                        push(&mut scope.components, Needs::default());
                    }
                    _ => {}
                }
            }
        }
        // An export is another name of what it exports, in the same index space.
        Payload::ComponentExportSection(exports) => {
            for export in exports {
                let export = export?;
                let (module, component) = (part(&scope.modules, export.index), part(&scope.components, export.index));
                match export.kind {
                    ComponentExternalKind::Module => push(&mut scope.modules, module),
                    ComponentExternalKind::Component => push(&mut scope.components, component),
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Ok(())
}
