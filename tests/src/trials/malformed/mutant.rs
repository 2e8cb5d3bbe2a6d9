//! Mutants of valid requests: well framed with something wrong in them, or damaged byte by byte.

use fastrand::Rng;
use httparse::{EMPTY_HEADER, Request, Status};

use super::{
    Parts,
    body::{body, pick},
    corpus::Case,
};

/// A request that is framed rightly, whatever else it is.
pub(super) struct Mutant {
    pub(super) bytes: Vec<u8>,
    /// Its request id, which its answer has to have.
    pub(super) id: String,
    /// Mark that it is malformed for certain, and may create nothing.
    pub(super) is_malformed: bool,
}

/// Methods and paths that are not the operation's.
const LINES: &[&str] = &[
    "GET /api/workspaces",
    "PUT /api/workspaces",
    "post /api/workspaces",
    "P0ST /api/workspaces",
    "OPTIONS /api/workspaces",
    "POST /healthz",
    "GET /healthz",
    "DELETE /openapi.json",
    "POST /",
    "POST //",
    "POST /api/workspaces/",
    "POST /api/workspacez",
    "POST /api/%77orkspaces",
    "POST /%00",
    "POST /%",
    "POST /api/workspaces;x",
    "POST /..",
    "POST *",
    "POST http://x/",
];
/// Credentials that are none.
const CREDENTIALS: &[&str] = &[
    "",
    "x-api-key: KEY\r\nx-api-key: KEY\r\n",
    "x-api-key: KEY\r\nAuthorization: Bearer KEY\r\n",
    "x-api-key:\r\n",
    "x-api-key: KEY\r\nAuthorization:\r\n",
    "Authorization: KEY\r\n",
    "Authorization: Bearer\r\n",
    "Authorization: Basic KEY\r\n",
    "Authorization: Bearer a.b.c\r\n",
    "Authorization: Bearer KEY KEY\r\n",
    "x-api-key: Bearer KEY\r\n",
    "x-api-key: KEY\u{e9}\r\n",
    "Authorization: Bearer KEY\r\nAuthorization: Bearer KEY\r\n",
    "x-api-key: KEY,KEY\r\n",
    "x-api-key: recoup_sk_\r\n",
];
/// Headers with which no request is taken.
const HEADERS: &[&str] = &[
    "Content-Type: text/plain\r\n",
    "Content-Type:\r\n",
    "Content-Type: application/jsonp\r\n",
    "Content-Type: \u{e9}\r\n",
    "Content-Type: application/json, text/plain\r\n",
    "Content-Type: application/json\r\nContent-Type: text/plain\r\n",
    "Content-Encoding: gzip\r\n",
    "Content-Encoding: br, identity\r\n",
    "Content-Encoding:\r\n",
    "Idempotency-Key:\r\n",
    "Idempotency-Key: \"\r\n",
    "Idempotency-Key: a b\r\n",
    "Idempotency-Key: a\r\nIdempotency-Key: b\r\n",
    "Idempotency-Key: \u{e9}\r\n",
];
/// Headers that are nobody's business.
const HARMLESS: &[&str] = &[
    "x:\r\n",
    "x: \u{e9}\u{1f3b8}\r\n",
    "x: \t a\tb \r\n",
    "!#$%&'*+-.^_`|~: 1\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: h2c\r\n",
    "Connection: keep-alive\r\n",
    "Cookie: a=b; a=c\r\n",
    "Origin: null\r\n",
    "Content-Type: application/json\r\n",
    "Accept: text/html\r\n",
    "Range: bytes=0-\r\n",
    "If-Match: *\r\n",
    "Forwarded: for=\"[::1]\"\r\n",
    "X-HTTP-Method-Override: PUT\r\n",
];
/// Bytes that damage puts in.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\r\n x",
    b"%",
    b"0\r\n\r\n",
    b"-1",
    b"99999999999999999999",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"POST /api/workspaces HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b"HTTP/2.0",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
];

pub(super) struct Generator<'a> {
    pub(super) rng: Rng,
    scene: &'a Parts,
    /// Requests of the corpus that can be damaged: an answer to a HEAD can be told from others by its request alone.
    cases: Vec<&'a Case>,
    lane: usize,
    made: usize,
}

impl<'a> Generator<'a> {
    pub(super) fn new(rng: Rng, scene: &'a Parts, cases: &'a [Case], lane: usize) -> Self {
        let cases = cases.iter().filter(|case| !case.bytes.starts_with(b"HEAD ") && case.bytes.len() < 4096).collect();
        Self { rng, scene, cases, lane, made: 0 }
    }

    /// Returns a request with mutants of all its parts, each of which is right more often than not.
    pub(super) fn framed(&mut self) -> Mutant {
        let Self { rng, scene, lane, made, .. } = self;
        *made += 1;
        let id = format!("{lane}-{made}");
        let mut is_malformed = false;
        let mut or = |rng: &mut Rng, odds, valid, malformed: &[&'static str]| match rng.u8(..odds) {
            0 => {
                is_malformed = true;
                pick(rng, malformed)
            }
            _ => valid,
        };
        let line = or(rng, 24, "POST /api/workspaces", LINES);
        let bearer =
            pick(rng, &["x-api-key: KEY\r\n", "Authorization: Bearer KEY\r\n", "authorization:bearer  KEY\r\n"]);
        let credential = or(rng, 16, bearer, CREDENTIALS);
        let json =
            pick(rng, &["Content-Type: application/json\r\n", "", "content-type:application/json;charset=utf-8\r\n"]);
        let header = or(rng, 16, json, HEADERS);
        let mut headers = vec![credential.to_owned(), header.to_owned(), format!("x-request-id: {id}\r\n")];
        for _ in 0..rng.u8(..4) {
            headers.push(pick(rng, HARMLESS).to_owned());
        }
        if !header.starts_with("Idempotency") && rng.u8(..8) == 0 {
            headers.push(format!("Idempotency-Key: {lane}-{}\r\n", rng.u8(..64)));
        }
        let (body, body_is_malformed) = body(rng, scene);
        let framing = match rng.u8(..6) {
            0 => "Transfer-Encoding: chunked\r\n".into(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        let body = if framing.starts_with('T') { chunked(rng, &body) } else { body };
        headers.push(framing);
        rng.shuffle(&mut headers);
        let version = if rng.u8(..64) == 0 { "HTTP/1.1\r\nConnection: close" } else { "HTTP/1.1" };
        let head = format!("{line} {version}\r\nHost: localhost\r\n{}\r\n", headers.concat());
        let bytes = [scene.fill(head.as_bytes()), body].concat();
        Mutant { bytes, id, is_malformed: is_malformed || body_is_malformed }
    }

    /// Returns a request or two, damaged somewhere, and whether it ends early. Otherwise it has a body of the length it
    /// says, where that can be read.
    pub(super) fn damaged(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = self.whole();
        for _ in 0..self.rng.u8(1..5) {
            self.damage(&mut bytes);
        }
        let is_cut = self.rng.u8(..32) == 0;
        if is_cut {
            bytes.truncate(self.rng.usize(..=bytes.len()));
        } else {
            bytes.resize(bytes.len() + missing(&bytes), b' ');
        }
        (bytes, is_cut)
    }

    fn whole(&mut self) -> Vec<u8> {
        match self.rng.u8(..3) {
            0 => pick(&mut self.rng, &self.cases).bytes.clone(),
            _ => self.framed().bytes,
        }
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        // Most of the time in the head: it is the shorter part of some.
        let most = if self.rng.bool() { bytes.len() } else { bytes.len().min(400) };
        let at = self.rng.usize(..most);
        let end = (at + self.rng.usize(1..32)).min(bytes.len());
        match self.rng.u8(..8) {
            0 => bytes[at] ^= 1 << self.rng.u8(..8),
            1 => bytes[at] = self.rng.u8(..),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].repeat(self.rng.usize(1..4));
                bytes.splice(at..at, again);
            }
            4 | 5 => drop(bytes.splice(at..at, pick(&mut self.rng, PIECES).iter().copied())),
            6 => drop(bytes.splice(at..end, pick(&mut self.rng, PIECES).iter().copied())),
            _ => {
                let other = self.whole();
                bytes.truncate(at);
                bytes.extend(&other[self.rng.usize(..other.len())..]);
            }
        }
    }
}

/// Returns the body in chunks, with what may stand around them.
fn chunked(rng: &mut Rng, body: &[u8]) -> Vec<u8> {
    let (mut chunks, mut rest) = (Vec::new(), body);
    while !rest.is_empty() {
        let most = if body.len() > 4096 { rest.len() } else { rest.len().min(64) };
        let (chunk, behind) = rest.split_at(rng.usize(1..=most));
        let size = match rng.bool() {
            true => format!("{:x}", chunk.len()),
            false => format!("{:04X}{}", chunk.len(), pick(rng, &["", ";x", ";x=\"y\"", " "])),
        };
        chunks.extend([size.as_bytes(), b"\r\n", chunk, b"\r\n"].concat());
        rest = behind;
    }
    chunks.extend(pick(rng, &["0\r\n\r\n", "000\r\n\r\n", "0\r\nx: y\r\n\r\n"]).as_bytes());
    chunks
}

/// Returns how many bytes the first request announces and lacks, as far as the server would wait for them.
fn missing(bytes: &[u8]) -> usize {
    let mut headers = [EMPTY_HEADER; 100];
    let mut request = Request::new(&mut headers);
    let Ok(Status::Complete(head)) = request.parse(bytes) else { return 0 };
    let length = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let most = 64 << 10;
    length.filter(|length| *length <= most).map_or(0, |length| (head + length).saturating_sub(bytes.len()))
}
