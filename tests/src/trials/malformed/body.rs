//! Bodies: JSON, and what becomes of it when its bytes, its tokens or its fields are mutated.

use fastrand::Rng;

use super::Parts;

/// Numbers that JSON has not, or that are out of range.
const NUMBERS: &[&str] = &[
    "1e999", "-1e999", "01", "-01", "+1", ".5", "1.", "1e", "1e+", "-", "--1", "0x1", "1_000", "NaN", "Infinity",
    "\u{663}",
];
/// Strings that JSON has not.
const STRINGS: &[&[u8]] = &[
    br#""\ud800""#,
    br#""\udc00""#,
    br#""\ud800\u0041""#,
    br#""\udfb8\ud83c""#,
    br#""\u12g4""#,
    br#""\x41""#,
    br#""\'""#,
    br#""\""#,
    br#""open"#,
    b"\"a\tb\"",
    b"\"a\nb\"",
    b"\"a\0b\"",
    b"\"\xff\"",
    b"\"\x80\"",
    b"\"\xe9\"",
    b"\"\xe2\x82\"",
    b"\"\xc0\x80\"",
    b"\"\xed\xa0\x80\"",
    b"\"\xf4\x90\x80\x80\"",
];
/// Values of a wrong type for each of the request's fields.
const TYPES: &[&str] = &["1", "-0", "1.5", "true", "false", "[]", "{}", "[\"A\"]", "{\"a\":\"A\"}", "[null]"];
/// Texts that are no UUID, of the hyphenated form.
const IDS: &[&str] = &["", " ", "ID0", "ID ", "{ID}", "urn:uuid:ID", "null", "g", "\\u0000ID", "ID\\n", "../ID"];
/// Values in the place of a field.
const FIELDS: &[&str] = &[
    ",",
    "\"x\"",
    "\"x\":",
    ":1",
    "x:1",
    "'x':1",
    "\"x\":1 2",
    "\"x\":1;",
    "/**/",
    "//",
    "\"x\":tru",
    "\"x\":NULL",
    "\"x\":[1,]",
    "\"x\":{,}",
    "\"x\":[1}",
    "\"x\":]",
    "\"x\":undefined",
    "1:1",
    "null:1",
    "{}",
    "[]",
    "\"\\ud800\":1",
    "\"x\":\"\"\"\"",
];
/// Tokens to put among others.
const TOKENS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"1",
    b"\"name\"",
    b"\"account_id\"",
    b"\"x\"",
    b"1e999",
    b"\"\\ud800\"",
    b" ",
];

/// Returns a body, and whether it is malformed for certain. Some of the others are valid still.
pub(super) fn body(rng: &mut Rng, scene: &Parts) -> (Vec<u8>, bool) {
    let mut fields = valid(rng, scene);
    match rng.u8(..32) {
        0..=2 => (join(&fields), false),
        3..=6 => (flipped(rng, join(&fields)), false),
        7..=11 => (shuffled(rng, &join(&fields)), false),
        12 | 13 => (encoded(rng, &join(&fields)), true),
        14 | 15 => {
            let mut body = join(&fields);
            body.truncate(rng.usize(..body.len()));
            (body, true)
        }
        16 | 17 => {
            let rest: &[u8] =
                pick(rng, &[b"{}", b"\0", b"x", b",", b"]", b"}", b"null", b"\xff", b"\x1a", b"//", b"\xc2\xa0"]);
            ([&join(&fields), rest].concat(), true)
        }
        18 => (nested(rng), true),
        19 if rng.u8(..32) == 0 => ([join(&fields), vec![b' '; rng.usize((64 << 10)..(140 << 10))]].concat(), true),
        _ => {
            let field = malformed_field(rng, scene, &fields);
            fields.insert(rng.usize(..=fields.len()), field);
            (join(&fields), true)
        }
    }
}

fn join(fields: &[Vec<u8>]) -> Vec<u8> {
    [b"{", &*fields.join(&b","[..]), b"}"].concat()
}

fn valid(rng: &mut Rng, scene: &Parts) -> Vec<Vec<u8>> {
    let account = format!("\"{}\"", scene.account);
    let organization = format!("\"{}\"", scene.organization.to_uppercase());
    let name = pick(rng, &["\"Studio\"", "null", "\"\"", "\" \\u00e9\\ud83c\\udfb8\\n\"", "\"\u{e9} \u{1f3b8}\""]);
    let more = pick(rng, &["[1,-2.5e3,{\"y\":null}]", "true", "\"z\"", "{\"y\":{\"y\":[]}}"]);
    let fields = [("name", name), ("account_id", &account), ("organization_id", &organization), ("x", more)];
    let mut fields: Vec<_> = fields.map(|(field, value)| format!("\"{field}\":{value}").into_bytes()).into();
    fields.retain(|_| rng.bool());
    rng.shuffle(&mut fields);
    fields
}

/// Returns a part with which no body is valid, whatever stands beside it.
fn malformed_field(rng: &mut Rng, scene: &Parts, fields: &[Vec<u8>]) -> Vec<u8> {
    let known = pick(rng, &["name", "account_id", "organization_id"]);
    match rng.u8(..8) {
        0 => match fields {
            [] => br#""name":null,"n\u0061me":null"#.to_vec(),
            _ => fields[rng.usize(..fields.len())].clone(),
        },
        1 => format!("\"{known}\":{}", pick(rng, TYPES)).into_bytes(),
        2 => format!("\"y\":[0,{}]", pick(rng, NUMBERS)).into_bytes(),
        3 => [format!("\"{known}\":").as_bytes(), pick(rng, STRINGS)].concat(),
        4 => [b"\"y\":{\"z\":".as_slice(), pick(rng, STRINGS), b"}"].concat(),
        5 => {
            let id = pick(rng, IDS).replace("ID", &scene.account);
            format!("\"{}\":\"{id}\"", pick(rng, &["account_id", "organization_id"])).into_bytes()
        }
        6 => {
            let long = pick(rng, &["a", " ", "\u{e9}", "\u{1f3b8}", "\\n", "\\u0041"]).repeat(rng.usize(256..2000));
            let forbidden = pick(rng, &["\\u0000", "\\n", "\\u001b", "\u{7f}", "\u{85}", "\u{202e}", "\\u2066"]);
            match rng.bool() {
                true => format!("\"name\":\"{long}\"").into_bytes(),
                false => format!("\"name\":\"a{forbidden}b\"").into_bytes(),
            }
        }
        _ => pick(rng, FIELDS).as_bytes().to_vec(),
    }
}

/// Changes some bytes.
fn flipped(rng: &mut Rng, mut body: Vec<u8>) -> Vec<u8> {
    for _ in 0..rng.u8(1..4) {
        let at = rng.usize(..body.len());
        body[at] = match rng.bool() {
            true => rng.u8(..),
            false => body[at] ^ (1 << rng.u8(..8)),
        };
    }
    body
}

/// Removes, doubles, moves or changes some tokens.
fn shuffled(rng: &mut Rng, body: &[u8]) -> Vec<u8> {
    let mut tokens = tokens(body);
    for _ in 0..rng.u8(1..4) {
        let (at, other) = (rng.usize(..tokens.len()), rng.usize(..tokens.len()));
        match rng.u8(..4) {
            0 if tokens.len() > 1 => drop(tokens.remove(at)),
            1 => tokens.insert(at, tokens[other]),
            2 => tokens.swap(at, other),
            _ => tokens[at] = pick(rng, TOKENS),
        }
    }
    tokens.concat()
}

fn tokens(mut text: &[u8]) -> Vec<&[u8]> {
    let mut tokens = Vec::new();
    while let [first, rest @ ..] = text {
        let length = match first {
            b'"' => {
                let mut is_escaped = false;
                let closes = |byte: &u8| {
                    let closes = *byte == b'"' && !is_escaped;
                    is_escaped = *byte == b'\\' && !is_escaped;
                    closes
                };
                rest.iter().position(closes).map_or(text.len(), |at| at + 2)
            }
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            _ => text.iter().position(|byte| b"\"{}[],:".contains(byte)).unwrap_or(text.len()),
        };
        let (token, behind) = text.split_at(length);
        tokens.push(token);
        text = behind;
    }
    tokens
}

/// Returns the body in an encoding that is not JSON's.
fn encoded(rng: &mut Rng, body: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(body);
    let utf16 = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<_>>();
    match rng.u8(..6) {
        0 => [b"\xef\xbb\xbf", body].concat(),
        1 => utf16(u16::to_le_bytes),
        2 => utf16(u16::to_be_bytes),
        3 => [b"\xff\xfe".to_vec(), utf16(u16::to_le_bytes)].concat(),
        4 => [b"\xfe\xff".to_vec(), utf16(u16::to_be_bytes)].concat(),
        _ => text.chars().flat_map(|character| u32::from(character).to_be_bytes()).collect(),
    }
}

/// Returns a body that nests one level too deep, or many.
fn nested(rng: &mut Rng) -> Vec<u8> {
    let depth = if rng.bool() { rng.usize(64..70) } else { rng.usize(70..4000) };
    let (open, close) = pick(rng, &[("[", "]"), ("{\"y\":", "}"), ("[", ""), ("[{\"y\":", "}]")]);
    format!("{{\"x\":{}1{}}}", open.repeat(depth), close.repeat(depth)).into_bytes()
}

pub(super) fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}
