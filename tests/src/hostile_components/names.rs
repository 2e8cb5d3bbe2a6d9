//! Components whose names make work for a host that formats them.

use anyhow::Result;

use super::{
    Module, OPERATION,
    kinds::{FAILED, Kind, kind},
};

/// The longest name that the WebAssembly parser accepts, in bytes.
const LONGEST: usize = 100_000;

/// Frames of a recursion: more than a backtrace has.
const DEPTH: u32 = 100;

/// Returns components that trap in functions with such names.
pub(super) fn names() -> Result<Vec<Kind>> {
    let traps = |name, function: &str| {
        let [define, call] = trap(function);
        kind(name, Module { fields: &define, operation: &call, ..Module::default() }, FAILED, 0)
    };
    let [define, call] = trap(&cpp(200));
    let afterwards = format!(
        "{define} (func (export \"cabi_post_{OPERATION}\") (param i32) (if (global.get $hostile) (then {call})))"
    );
    let realloc = format!("{call} (i32.const 65536)");
    let long = recursion(&["a".repeat(LONGEST), "b".repeat(LONGEST)]);
    let mangled = recursion(&[rust(40), rust(41)]);
    Ok(vec![
        traps("has a C++ name that expands to megabytes", &cpp(20))?,
        traps("has a C++ name that expands without end", &cpp(200))?,
        traps("has a Rust name that expands without end", &rust(40))?,
        traps("has a name with line breaks, escapes and bidi overrides", "a\nb\r\u{1b}[31m\u{9b}2J\u{2028}\u{202e}c")?,
        kind(
            "recurses in functions with names of 100 kB",
            Module { fields: &long, operation: CALL, ..Module::default() },
            FAILED,
            0,
        )?,
        kind(
            "recurses in functions with Rust names that expand without end",
            Module { fields: &mangled, operation: CALL, ..Module::default() },
            FAILED,
            0,
        )?,
        kind(
            "traps after its answer, with a C++ name",
            Module { fields: &afterwards, ..Module::default() },
            FAILED,
            0,
        )?,
        kind(
            "traps when asked for memory, with a C++ name",
            Module { fields: &define, realloc: &realloc, ..Module::default() },
            FAILED,
            0,
        )?,
    ])
}

/// Components that trap in their rehearsal, in functions with such names.
///
/// # Errors
///
/// None, as long as they are WebAssembly text.
pub fn trap_in_rehearsal() -> Result<Vec<Vec<u8>>> {
    let function = cpp(200);
    let [define, call] = trap(&function);
    let start = format!("{define} (start {})", identifier(&function));
    let long = recursion(&["a".repeat(LONGEST), "b".repeat(LONGEST)]);
    [
        Module { fields: &define, operation: &call, ..Module::default() },
        Module { fields: &start, ..Module::default() },
        Module { fields: &long, operation: CALL, ..Module::default() },
    ]
    .iter()
    .map(Module::component)
    .collect()
}

/// Calls what [`recursion`] defines.
const CALL: &str = "(call $down (i32.const 0))";

/// Returns two functions of these names that call each other, and trap at the [`DEPTH`].
fn recursion(names: &[String; 2]) -> String {
    let [down, next] = [&names[0], &names[1]].map(|name| identifier(name));
    format!(
        "(func {down} (param i32)
            (if (i32.eq (local.get 0) (i32.const {DEPTH})) (then unreachable))
            (call {next} (i32.add (local.get 0) (i32.const 1))) (call $spin))
         (func {next} (param i32) (call {down} (local.get 0)) (call $spin))
         (func $down (param i32) (call {down} (local.get 0)) (call $spin))"
    )
}

/// Returns a function of this name that traps, and the call of it.
fn trap(name: &str) -> [String; 2] {
    let function = identifier(name);
    [format!("(func {function} unreachable)"), format!("(call {function})")]
}

/// Returns the name as an identifier in WebAssembly text, which becomes the function's name.
fn identifier(name: &str) -> String {
    let quoted: String = name.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    format!("$\"{quoted}\"")
}

/// Returns a mangled C++ name with so many template types, each of which has the one before it twice.
fn cpp(doublings: usize) -> String {
    let mut name = String::from("_Z1f1AIiiE");
    for number in 0..doublings {
        let earlier = number_in(number, 36).to_uppercase();
        name += &format!("S_IS{earlier}_S{earlier}_E");
    }
    name
}

/// Returns a mangled Rust name with so many tuples, each of which has the one before it twice.
fn rust(doublings: usize) -> String {
    let mut name = String::from("INvC1a1f");
    let mut earlier = name.len();
    name += "ThhE";
    for _ in 0..doublings {
        let reference = format!("B{}_", number_in(earlier - 1, 62));
        earlier = name.len();
        name += &format!("T{reference}{reference}E");
    }
    format!("_R{name}E")
}

/// Returns the number to this base.
fn number_in(mut number: usize, base: usize) -> String {
    let digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut text = String::new();
    loop {
        text.insert_str(0, &digits[number % base..=number % base]);
        number /= base;
        if number == 0 {
            return text;
        }
    }
}
