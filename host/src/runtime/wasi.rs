//! Imports of WASI that give nothing, for components whose toolchain imports it whether they use it or not.
//!
//! What a component gets is the same in each version of WASI 0.2: nothing here depends on its types. A component that
//! declares other types than WASI has gets a trap.

use std::fmt;

use wasmtime::{
    Engine, StoreContextMut,
    component::{Component, Linker, Resource, ResourceAny, ResourceType, Val, types::ComponentItem},
};

use super::{cause::MAX_NAME, host_imports::State, limits::MAX_WRITTEN};
use crate::excerpt::excerpt;

/// A handle of WASI, of any resource. It stands for nothing.
struct Handle;

/// The component has called a function of WASI that it is not given.
#[derive(Debug, thiserror::Error)]
#[error("WASI is denied: {interface} {function}")]
pub(super) struct Denied {
    interface: String,
    function: String,
}

/// Output that a component has written in this call, as far as it is kept.
#[derive(Default)]
pub(super) struct Written(Vec<u8>);

impl Written {
    fn write(&mut self, bytes: impl Iterator<Item = u8>) {
        self.0.extend(bytes.take(MAX_WRITTEN.saturating_sub(self.0.len())));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl fmt::Display for Written {
    /// Writes it in one line, with its control characters escaped.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", String::from_utf8_lossy(&self.0).trim())
    }
}

/// Returns whether an import is one of WASI.
pub(super) fn is_wasi(import: &str) -> bool {
    import.starts_with("wasi:")
}

/// Gives a component the imports of WASI that it has. Other imports are left alone.
pub(super) fn deny(engine: &Engine, linker: &mut Linker<State>, component: &Component) -> wasmtime::Result<()> {
    for (import, item) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(interface) = item.ty else { continue };
        if !is_wasi(import) {
            continue;
        }
        let mut instance = linker.instance(import)?;
        for (name, item) in interface.exports(engine) {
            match item.ty {
                ComponentItem::Resource(_) => instance.resource(name, ResourceType::host::<Handle>(), |_, _| Ok(()))?,
                ComponentItem::ComponentFunc(_) => {
                    let own = (unversioned(import).to_owned(), name.to_owned());
                    instance.func_new(name, move |store, _, arguments, results| {
                        call(store, (&own.0, &own.1), arguments, results)
                    })?;
                }
                // Types need no definition, and WASI has nothing else.
                _ => {}
            }
        }
    }
    Ok(())
}

/// Returns the name of an interface without its version.
fn unversioned(import: &str) -> &str {
    import.split_once('@').map_or(import, |(name, _)| name)
}

/// Answers a call.
fn call(
    mut store: StoreContextMut<'_, State>,
    (interface, function): (&str, &str),
    arguments: &[Val],
    results: &mut [Val],
) -> wasmtime::Result<()> {
    store.data_mut().count()?;
    give_back(&mut store, arguments)?;
    let answer = match (interface, function) {
        ("wasi:cli/environment", "get-environment" | "get-arguments") => Val::List(Vec::new()),
        ("wasi:cli/environment", "initial-cwd")
        | ("wasi:cli/terminal-stdin", "get-terminal-stdin")
        | ("wasi:cli/terminal-stdout", "get-terminal-stdout")
        | ("wasi:cli/terminal-stderr", "get-terminal-stderr") => Val::Option(None),
        ("wasi:filesystem/preopens", "get-directories") => Val::List(Vec::new()),
        // For hash tables, and allowed to be the same each time.
        ("wasi:random/insecure-seed", "insecure-seed" | "get-insecure-seed") => {
            Val::Tuple(vec![Val::U64(0), Val::U64(0)])
        }
        ("wasi:cli/stdin", "get-stdin")
        | ("wasi:cli/stdout", "get-stdout")
        | ("wasi:cli/stderr", "get-stderr")
        | ("wasi:io/streams", "[method]input-stream.subscribe" | "[method]output-stream.subscribe") => {
            Val::Resource(ResourceAny::try_from_resource(Resource::<Handle>::new_own(0), &mut store)?)
        }
        ("wasi:io/streams", "[method]input-stream.read" | "[method]input-stream.blocking-read") => {
            Val::Result(Err(Some(Box::new(Val::Variant("closed".into(), None)))))
        }
        ("wasi:io/streams", "[method]output-stream.check-write") => {
            Val::Result(Ok(Some(Box::new(Val::U64(MAX_WRITTEN as u64)))))
        }
        ("wasi:io/streams", "[method]output-stream.flush" | "[method]output-stream.blocking-flush") => {
            Val::Result(Ok(None))
        }
        ("wasi:io/streams", "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush") => {
            let [_, Val::List(bytes)] = arguments else { return Err(denied(interface, function)) };
            let bytes = bytes.iter().map_while(|byte| if let Val::U8(byte) = byte { Some(*byte) } else { None });
            store.data_mut().written.write(bytes);
            Val::Result(Ok(None))
        }
        // A stream that is empty or takes everything is always ready, and nothing else can be waited for.
        ("wasi:io/poll", "[method]pollable.ready") => Val::Bool(true),
        ("wasi:io/poll", "[method]pollable.block") if results.is_empty() => return Ok(()),
        ("wasi:io/poll", "poll") => {
            let [Val::List(pollables)] = arguments else { return Err(denied(interface, function)) };
            Val::List((0..).take(pollables.len()).map(Val::U32).collect())
        }
        _ => return Err(denied(interface, function)),
    };
    match results {
        [result] => *result = answer,
        _ => return Err(denied(interface, function)),
    }
    Ok(())
}

/// Gives back the handles in a call's arguments: those that are borrowed have to be, by the end of the call.
fn give_back(store: &mut StoreContextMut<'_, State>, arguments: &[Val]) -> wasmtime::Result<()> {
    for argument in arguments {
        match argument {
            Val::Resource(handle) => {
                handle.try_into_resource::<Handle>(&mut *store)?;
            }
            Val::List(values) if matches!(values.first(), Some(Val::Resource(_))) => give_back(store, values)?,
            _ => {}
        }
    }
    Ok(())
}

fn denied(interface: &str, function: &str) -> wasmtime::Error {
    let name = |name| excerpt(name, MAX_NAME).into_owned();
    Denied { interface: name(interface), function: name(function) }.into()
}
