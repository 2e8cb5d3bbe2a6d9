//! Malformed requests made by hand, and what each has to be answered with. A few are not malformed at all, and
//! stand for the near side of a border.

use super::Parts;

/// Bytes, and the statuses of the answers to them; none where the server closes without a word.
pub(super) struct Case {
    pub(super) bytes: Vec<u8>,
    pub(super) statuses: &'static [u16],
}

type Line = (&'static [u8], &'static [u16]);

/// Request lines, before valid headers and a valid body.
const LINES: &[Line] = &[
    (b"", &[400]),
    (b" ", &[400]),
    (b"POST", &[400]),
    (b"POST ", &[400]),
    (b"POST /api/workspaces", &[400]),
    (b"POST /api/workspaces ", &[400]),
    (b"POST  /api/workspaces HTTP/1.1", &[400]),
    (b"POST /api/workspaces  HTTP/1.1", &[400]),
    (b"POST /api/workspaces HTTP/1.1 ", &[400]),
    (b" POST /api/workspaces HTTP/1.1", &[400]),
    (b"POST\t/api/workspaces HTTP/1.1", &[400]),
    (b"\r\n\r\nPOST /api/workspaces HTTP/1.1", &[201]),
    (b"P\0ST /api/workspaces HTTP/1.1", &[400]),
    (b"P\xffST /api/workspaces HTTP/1.1", &[400]),
    (b"P(ST /api/workspaces HTTP/1.1", &[400]),
    (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", &[400]),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", &[]),
    // Versions.
    (b"POST /api/workspaces HTTP/1.0", &[201]),
    (b"POST /api/workspaces HTTP/0.9", &[400]),
    (b"POST /api/workspaces HTTP/1.2", &[400]),
    (b"POST /api/workspaces HTTP/2.0", &[400]),
    (b"POST /api/workspaces HTTP/2", &[400]),
    (b"POST /api/workspaces HTTP/11", &[400]),
    (b"POST /api/workspaces HTTP/1,1", &[400]),
    (b"POST /api/workspaces HTTP/1.1x", &[400]),
    (b"POST /api/workspaces http/1.1", &[400]),
    (b"POST /api/workspaces HTCPCP/1.0", &[400]),
    // Methods.
    (b"post /api/workspaces HTTP/1.1", &[405]),
    (b"Post /api/workspaces HTTP/1.1", &[405]),
    (b"GET /api/workspaces HTTP/1.1", &[405]),
    (b"HEAD /api/workspaces HTTP/1.1", &[405]),
    (b"HEAD /healthz HTTP/1.1", &[200]),
    (b"PUT /api/workspaces HTTP/1.1", &[405]),
    (b"TRACE /api/workspaces HTTP/1.1", &[405]),
    (b"BREW /api/workspaces HTTP/1.1", &[405]),
    (b"!#$%&'*+-.^_`|~ /api/workspaces HTTP/1.1", &[405]),
    (b"POST /healthz HTTP/1.1", &[405]),
    (b"OPTIONS /api/workspaces HTTP/1.1", &[200]),
    (b"OPTIONS * HTTP/1.1", &[200]),
    (b"CONNECT localhost:80 HTTP/1.1", &[404]),
    (b"CONNECT /api/workspaces HTTP/1.1", &[405]),
    // Targets.
    (b"POST * HTTP/1.1", &[404]),
    (b"POST / HTTP/1.1", &[405]),
    (b"GET / HTTP/1.1", &[307]),
    (b"GET //example.org/ HTTP/1.1", &[404]),
    (b"POST localhost:80 HTTP/1.1", &[404]),
    (b"POST api/workspaces HTTP/1.1", &[400]),
    (b"POST http://localhost/api/workspaces HTTP/1.1", &[201]),
    (b"POST https://other.example:1/api/workspaces HTTP/1.1", &[201]),
    (b"POST http:///api/workspaces HTTP/1.1", &[400]),
    (b"POST http://user:password@localhost/api/workspaces HTTP/1.1", &[201]),
    (b"POST http://[::1/api/workspaces HTTP/1.1", &[400]),
    (b"POST file:///etc/passwd HTTP/1.1", &[400]),
    (b"POST //api/workspaces HTTP/1.1", &[404]),
    (b"POST /api//workspaces HTTP/1.1", &[404]),
    (b"POST /api/workspaces/ HTTP/1.1", &[404]),
    (b"POST /api/../api/workspaces HTTP/1.1", &[404]),
    (b"POST /API/workspaces HTTP/1.1", &[404]),
    (b"POST /api/workspaces?name=A&name=B HTTP/1.1", &[201]),
    (b"POST /api/workspaces? HTTP/1.1", &[201]),
    (b"POST /api/workspaces#x HTTP/1.1", &[201]),
    (b"POST /api/%77orkspaces HTTP/1.1", &[404]),
    (b"POST /api%2fworkspaces HTTP/1.1", &[404]),
    (b"POST /api/workspaces%00 HTTP/1.1", &[404]),
    (b"POST /api/workspaces%0d%0aX:1 HTTP/1.1", &[404]),
    (b"POST /% HTTP/1.1", &[404]),
    (b"POST /%zz HTTP/1.1", &[404]),
    (b"POST /%ff%fe HTTP/1.1", &[404]),
    (b"POST /\"<>\\^`{|} HTTP/1.1", &[400]),
    (b"POST /\0 HTTP/1.1", &[400]),
    (b"POST /\x7f HTTP/1.1", &[400]),
    (b"POST /\xff HTTP/1.1", &[400]),
    ("POST /ü HTTP/1.1".as_bytes(), &[404]),
    (b"POST /a b HTTP/1.1", &[400]),
];

/// Header lines, among valid ones.
const HEADERS: &[Line] = &[
    (b"no colon", &[400]),
    (b"nocolon", &[400]),
    (b": no name", &[400]),
    (b":", &[400]),
    (b"x: ", &[201]),
    (b"x:y", &[201]),
    (b"x : y", &[400]),
    (b"x\t: y", &[400]),
    (b" x: y", &[400]),
    (b"x y: z", &[400]),
    (b"x\0y: z", &[400]),
    (b"x(y): z", &[400]),
    (b"\xc3\xbc: z", &[400]),
    (b"x: y\r\n folded", &[400]),
    (b"x:\r\n\tfolded", &[400]),
    (b"x: \0", &[400]),
    (b"x: a\0b", &[400]),
    (b"x: a\rb", &[400]),
    (b"x: a\nb: c", &[201]),
    (b"x: \x01", &[400]),
    (b"x: \x7f", &[400]),
    (b"x: \x80\xff", &[201]),
    (b"x: a\tb", &[201]),
    (b"x: a\r\nb: c", &[201]),
    // Credentials.
    (b"x-api-key: KEY", &[401]),
    (b"X-Api-Key: KEY", &[401]),
    (b"x-api-key:", &[401]),
    (b"Authorization: Bearer KEY", &[401]),
    (b"Authorization:", &[401]),
    (b"Authorization: Basic dTpw", &[401]),
    // What it says of the body.
    (b"Content-Type: text/plain", &[415]),
    (b"Content-Type:", &[415]),
    (b"Content-Type: \xff", &[415]),
    (b"Content-Type: application/json, application/json", &[415]),
    (b"Content-Type: application/json;", &[201]),
    (b"Content-Type: APPLICATION/JSON ; charset=utf-16", &[201]),
    (b"Content-Type: application/json\r\nContent-Type: text/plain", &[415]),
    (b"Content-Type: multipart/form-data; boundary=x", &[415]),
    (b"Content-Encoding: gzip", &[415]),
    (b"Content-Encoding:", &[415]),
    (b"Content-Encoding: identity, gzip", &[415]),
    (b"Content-Encoding: identity", &[201]),
    // Others that are read.
    (b"Idempotency-Key:", &[400]),
    (b"Idempotency-Key: a b", &[400]),
    (b"Idempotency-Key: \"a", &[400]),
    (b"Idempotency-Key: \xff", &[400]),
    (b"Idempotency-Key: a\r\nIdempotency-Key: a", &[400]),
    (b"x-request-id: \xff", &[201]),
    (b"x-request-id: a\r\nx-request-id: b", &[201]),
    (b"Expect: 100-continue", &[201]),
    (b"Expect: 200-ok", &[201]),
    (b"Connection: close, keep-alive", &[201]),
    (b"Connection: x-api-key", &[201]),
    (b"Connection: upgrade\r\nUpgrade: websocket", &[201]),
    (b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA", &[201]),
    (b"Host: other.example", &[400]),
    (b"Trailer: x", &[201]),
    (b"TE: trailers", &[201]),
    (b"Content-Range: bytes 0-1/2", &[201]),
];

/// Lines that say how long the body is, and what follows them.
const LENGTHS: &[(&[u8], &[u8], &[u16])] = &[
    (b"x: y", b"", &[400]),
    (b"x: y", b"{}", &[400, 400]),
    (b"Content-Length: 0", b"", &[400]),
    (b"Content-Length: 0", b"{}", &[400, 400]),
    (b"Content-Length: 2", b"{}garbage\r\n\r\n", &[201, 400]),
    (b"Content-Length: 1", b"{}", &[400, 400]),
    (b"Content-Length: 02", b"{}", &[201]),
    (b"Content-Length:2", b"{}", &[201]),
    (b"Content-Length: 2 ", b"{}", &[201]),
    (b"Content-Length:", b"{}", &[400]),
    (b"Content-Length: +2", b"{}", &[400]),
    (b"Content-Length: -2", b"{}", &[400]),
    (b"Content-Length: 0x2", b"{}", &[400]),
    (b"Content-Length: 2.0", b"{}", &[400]),
    (b"Content-Length: 2e0", b"{}", &[400]),
    (b"Content-Length: two", b"{}", &[400]),
    (b"Content-Length: 2, 2", b"{}", &[400]),
    (b"Content-Length: 2 2", b"{}", &[400]),
    (b"Content-Length: \xd9\xa2", b"{}", &[400]),
    (b"Content-Length: 65537", b"{}", &[413]),
    (b"Content-Length: 4294967298", b"{}", &[413]),
    (b"Content-Length: 9223372036854775807", b"{}", &[413]),
    (b"Content-Length: 18446744073709551615", b"{}", &[431]),
    (b"Content-Length: 18446744073709551618", b"{}", &[400]),
    (b"Content-Length: 2\r\nContent-Length: 2", b"{}", &[201]),
    (b"Content-Length: 2\r\nContent-Length: 3", b"{}", &[400]),
    (b"Content-Length: 2\r\nContent-Length:", b"{}", &[400]),
    (b"Content-Length : 2", b"{}", &[400]),
    // Both: the chunks count, and a length is no way to hide a request in them.
    (b"Content-Length: 2\r\nTransfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n", &[201]),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 2", b"2\r\n{}\r\n0\r\n\r\n", &[201]),
    (b"Transfer-Encoding: chunked\r\nContent-Length: two", b"2\r\n{}\r\n0\r\n\r\n", &[201]),
    (b"Content-Length: 2\r\nTransfer-Encoding: chunked", b"{}", &[400]),
    (b"Content-Length: 2\r\nTransfer-Encoding: identity", b"{}", &[400]),
    (b"Transfer-Encoding: chunked", b"{}", &[400]),
    (b"Transfer-Encoding: Chunked", b"2\r\n{}\r\n0\r\n\r\n", &[201]),
    (b"Transfer-Encoding: gzip, chunked", b"2\r\n{}\r\n0\r\n\r\n", &[201]),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n", &[201]),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"2\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding: chunked, identity", b"2\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding: identity", b"2\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding: xchunked", b"2\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding: chunked;x=y", b"2\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding:", b"2\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding: \x0bchunked", b"2\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"Transfer-Encoding : chunked", b"2\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"Transfer_Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n", &[400, 400]),
];

/// Bodies behind `Transfer-Encoding: chunked`.
const CHUNKS: &[Line] = &[
    (b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", &[201]),
    (b"00002\r\n{}\r\n000\r\n\r\n", &[201]),
    (b"2;x=y\r\n{}\r\n0\r\n\r\n", &[201]),
    (b"2 \r\n{}\r\n0\r\n\r\n", &[201]),
    (b"2\r\n{}\r\n0\r\nx: y\r\n\r\n", &[201]),
    (b"0\r\n\r\n", &[400]),
    (b"0\r\n\r\n2\r\n{}\r\n0\r\n\r\n", &[400, 400]),
    (b"\r\n{}\r\n0\r\n\r\n", &[400]),
    (b" 2\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"+2\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"-2\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"0x2\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"g\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"2\n{}\n0\n\n", &[400]),
    (b"2\r{}\r0\r\r", &[400]),
    (b"2\r\n{}0\r\n\r\n", &[400]),
    (b"1\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"3\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"2\r\n{}\r\n0\r\nno colon\r\n\r\n", &[400]),
    (b"2\r\n{}\r\n0\r\nx: \0\r\n\r\n", &[400]),
    (b"2\r\n{}\r\n-0\r\n\r\n", &[400]),
    (b"10000000000000002\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"ffffffffffffffff\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"10001\r\n{}\r\n0\r\n\r\n", &[400]),
    (b"2;x=\0\r\n{}\r\n0\r\n\r\n", &[201]),
    (b"2;x=\n\r\n{}\r\n0\r\n\r\n", &[400]),
];

/// Bodies under a right length.
const BODIES: &[Line] = &[
    (b"\xef\xbb\xbf{}", &[400]),
    (b"\xff\xfe{\0}\0", &[400]),
    (b"\xfe\xff\0{\0}", &[400]),
    (b"{\0}\0", &[400]),
    (b"{\0\0\0}\0\0\0", &[400]),
    (b"\0", &[400]),
    (b"{}\0", &[400]),
    (b"{}\x1a", &[400]),
    (b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0C\xbf\xa6\xa3\x02\0\0\0", &[400]),
    (b"+ADw-script+AD4-", &[400]),
    (b"name=Studio", &[400]),
    (b"<name>Studio</name>", &[400]),
    (b"name: Studio", &[400]),
    (b"\x81\xa4name\xa6Studio", &[400]),
    (b"{\"name\":\"\xc0\x80\"}", &[400]),
    (b"{\"name\":\"\xed\xa0\x80\"}", &[400]),
    (b"{\"name\":\"\xf4\x90\x80\x80\"}", &[400]),
    (b"{\"name\":\"\xe2\x82\"}", &[400]),
    (b"{\"name\":\"\xe9\"}", &[400]),
    (br#"{"name":"\ud83c"}"#, &[400]),
    (br#"{"name":"\udfb8\ud83c"}"#, &[400]),
    (br#"{"name":"\u0000"}"#, &[400]),
    (br#"{"name":"\u12"}"#, &[400]),
    (br#"{"name":"\x41"}"#, &[400]),
    (br#"{"name":"A","\u006eame":"B"}"#, &[400]),
    (br#"{"__proto__":{"isAdmin":true},"constructor":1}"#, &[201]),
    (br#"{"name":"A",}"#, &[400]),
    (br#"{,"name":"A"}"#, &[400]),
    (br#"{"name":"A"/**/}"#, &[400]),
    (br#"{"name":"A"} //"#, &[400]),
    (br#"{name:"A"}"#, &[400]),
    (br#"{'name':'A'}"#, &[400]),
    (br#"{"name":undefined}"#, &[400]),
    (br#"{"name"}"#, &[400]),
    (br#"{"name":"A""account_id":null}"#, &[400]),
    (br#"{"x":NaN}"#, &[400]),
    (br#"{"x":Infinity}"#, &[400]),
    (br#"{"x":1e400}"#, &[400]),
    (br#"{"x":.5}"#, &[400]),
    (br#"{"x":0x10}"#, &[400]),
    (br#"{"x":18446744073709551616}"#, &[201]),
    (br#"[{"name":"A"}]"#, &[400]),
    (br#""{}""#, &[400]),
    (b"{}{}", &[400]),
    (b"{}\n{}", &[400]),
    (b"\x0c{}", &[400]),
    ("\u{a0}{}".as_bytes(), &[400]),
];

/// Returns all of them.
pub(super) fn cases(scene: &Parts) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |parts: &[&[u8]], statuses| {
        let bytes = scene.fill(&parts.concat());
        cases.push(Case { bytes, statuses });
    };
    let line = b"POST /api/workspaces HTTP/1.1\r\n".as_slice();
    let hosted = [line, b"Host: localhost\r\n"].concat();
    let head = [&hosted, b"x-api-key: KEY\r\n".as_slice()].concat();
    for (line, statuses) in LINES {
        add(&[line, b"\r\nHost: localhost\r\nx-api-key: KEY\r\nContent-Length: 2\r\n\r\n{}"], statuses);
    }
    for (header, statuses) in HEADERS {
        add(&[&head, header, b"\r\nContent-Length: 2\r\n\r\n{}"], statuses);
    }
    for (length, body, statuses) in LENGTHS {
        add(&[&head, length, b"\r\n\r\n", body], statuses);
    }
    for (chunks, statuses) in CHUNKS {
        add(&[&head, b"Transfer-Encoding: chunked\r\n\r\n", chunks], statuses);
    }
    for (body, statuses) in BODIES {
        add(&[&head, format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body], statuses);
    }
    let valid = [&head, b"Content-Length: 2\r\n\r\n{}".as_slice()].concat();
    let known = "Authorization: Bearer KEY\r\nContent-Length: 2\r\n\r\n{}";
    for (credential, statuses) in [
        ("Authorization: Bearer KEY", &[201]),
        ("Authorization: bearer  KEY", &[201]),
        ("Authorization: BearerKEY", &[401]),
        ("Authorization: KEY", &[401]),
        ("Authorization: Bearer", &[401]),
        ("Authorization: Bearer not.a.jwt", &[401]),
        ("Authorization: Bearer KEY, Bearer KEY", &[401]),
        ("Authorization: Bearer KEY\r\nAuthorization: Bearer KEY", &[401]),
        ("Proxy-Authorization: Bearer KEY", &[401]),
        ("x-api-key: KEYx", &[401]),
        ("x-api-key: \"KEY\"", &[401]),
        ("x-api-key: KEY, KEY", &[401]),
        ("x-api-key: recoup_sk_", &[401]),
        ("x_api_key: KEY", &[401]),
        ("Cookie: x-api-key=KEY", &[401]),
    ] {
        add(&[&hosted, credential.as_bytes(), b"\r\nContent-Length: 2\r\n\r\n{}"], statuses);
    }
    // Pipelined: as many answers as requests, and none after what can't be read.
    add(&[&valid, &valid, &valid], &[201, 201, 201]);
    add(&[&valid, b"\r\n\r\n", &valid], &[201, 201]);
    add(&[&valid, b"\0", &valid], &[201, 400]);
    add(&[&hosted, known.as_bytes(), &valid, &hosted, b"Content-Length: 2\r\n\r\n{}", &valid], &[201, 201, 401, 201]);
    // Too much of something.
    let many = |count: usize| (0..count).map(|index| format!("x-{index}: y\r\n")).collect::<String>();
    let filler = |length: usize| format!("x: {}\r\n", "y".repeat(length));
    let body = "Content-Length: 2\r\n\r\n{}";
    add(&[&head, many(97).as_bytes(), body.as_bytes()], &[201]);
    add(&[&head, many(98).as_bytes(), body.as_bytes()], &[431]);
    add(&[&head, many(3000).as_bytes(), body.as_bytes()], &[431]);
    add(&[&head, filler(30 << 10).as_bytes(), body.as_bytes()], &[201]);
    add(&[&head, filler(65 << 10).as_bytes(), body.as_bytes()], &[431]);
    add(&[&head, filler(1 << 20).as_bytes(), body.as_bytes()], &[431]);
    add(&["A".repeat(1000).as_bytes(), b" / HTTP/1.1\r\nHost: localhost\r\n\r\n"], &[405]);
    add(&["A".repeat(65 << 10).as_bytes()], &[431]);
    add(&[b"GET /", "%41".repeat(10_000).as_bytes(), b" HTTP/1.1\r\nHost: localhost\r\n\r\n"], &[404]);
    add(&[b"GET /", "%41".repeat(22_000).as_bytes(), b" HTTP/1.1\r\n\r\n"], &[431]);
    add(
        &[&head, b"Transfer-Encoding: chunked\r\n\r\n2;", "x".repeat(20 << 10).as_bytes(), b"\r\n{}\r\n0\r\n\r\n"],
        &[400],
    );
    add(&[&head, b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", many(200).as_bytes(), b"\r\n"], &[400]);
    let chunks = |count: usize| format!("400\r\n{}\r\n", " ".repeat(1 << 10)).repeat(count);
    let end = b"2\r\n{}\r\n0\r\n\r\n";
    add(&[&head, b"Transfer-Encoding: chunked\r\n\r\n", chunks(63).as_bytes(), end], &[201]);
    add(&[&head, b"Transfer-Encoding: chunked\r\n\r\n", chunks(64).as_bytes(), end], &[413]);
    add(&[&head, b"Transfer-Encoding: chunked\r\n\r\n", chunks(200).as_bytes(), end], &[413]);
    add(&[&head, b"Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n".repeat(2_000).as_bytes(), end], &[201]);
    cases
}
