//! Public keys, out of a JWKS (RFC 7517) or a PEM file.

use std::ops::RangeInclusive;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    crypto::{self, rust_crypto},
};
use serde::Deserialize;
use serde_json::Value;

use crate::excerpt::excerpt;

/// A public key, and the one algorithm it verifies (RFC 8725, section 3.1).
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// Maximum number of keys of one set; a provider has a handful.
const MAX_KEYS: usize = 256;

/// Sizes of an RSA modulus that are taken, in bytes: 2,048 bits at least (RFC 7518, section 3.3), and no more
/// than the 4,096 that the crate `rsa` verifies with.
const RSA_BYTES: RangeInclusive<usize> = 256..=512;

/// Sizes of an RSA exponent that are taken, in bytes; nearly every key has 65,537.
const EXPONENT_BYTES: RangeInclusive<usize> = 1..=4;

/// Maximum length of the reason that names a wrong value of the provider's, in bytes.
const MAX_REASON: usize = 128;

/// Keys that were found in a text, and the reason for each that can't be used.
pub(super) struct Found {
    pub(super) keys: Vec<Key>,
    pub(super) skipped: Vec<String>,
}

/// Reads a JWKS, a single JWK, or PEM.
///
/// # Errors
///
/// The reason for which the text is none of them.
pub(super) fn read(text: &str) -> Result<Found, String> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.contains(PEM_BEGIN) {
        return read_pem(text);
    }
    let document: Value = serde_json::from_str(text).map_err(|_| "neither JSON nor PEM".to_owned())?;
    let entries = match &document {
        Value::Object(set) if set.get("keys").is_some_and(Value::is_array) => set["keys"].as_array(),
        Value::Object(key) if key.contains_key("kty") => None,
        _ => return Err("JSON, but neither a JWKS nor a JWK".into()),
    };
    let entries: Vec<_> = entries.map_or_else(|| vec![&document], |entries| entries.iter().collect());
    let mut found = Found { keys: Vec::new(), skipped: Vec::new() };
    for (number, entry) in (1..).zip(&entries) {
        match of_jwk(entry) {
            _ if number > MAX_KEYS => {}
            Ok(key) => found.keys.push(key),
            Err(reason) => found.skipped.push(format!("key {number}: {reason}")),
        }
    }
    if entries.len() > MAX_KEYS {
        found.skipped.push(format!("{} keys after the first {MAX_KEYS}", entries.len() - MAX_KEYS));
    }
    Ok(found)
}

/// The members of a JWK that matter here; others may have any form.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
}

fn of_jwk(entry: &Value) -> Result<Key, String> {
    let jwk = Jwk::deserialize(entry).map_err(|error| excerpt(&error.to_string(), MAX_REASON).into_owned())?;
    if entry.get("d").is_some() {
        return Err("a private key: publish its public half alone".into());
    }
    if jwk.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
        return Err("its use is not sig".into());
    }
    if jwk.key_ops.is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
        return Err("its key_ops have no verify".into());
    }
    let (own, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("EC", Some("P-256")) => (Algorithm::ES256, point(&jwk.x, &jwk.y, 32)?),
        ("EC", Some("P-384")) => (Algorithm::ES384, point(&jwk.x, &jwk.y, 48)?),
        ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, DecodingKey::from_ed_der(&bytes("x", &jwk.x, 32..=32)?)),
        ("RSA", _) => {
            let (n, e) = (bytes("n", &jwk.n, RSA_BYTES)?, bytes("e", &jwk.e, EXPONENT_BYTES)?);
            (Algorithm::RS256, DecodingKey::from_rsa_raw_components(&n, &e))
        }
        ("oct", _) => return Err("a shared secret, which whoever reads it can sign with".into()),
        ("EC" | "OKP", _) => return Err(format!("a curve that is not supported: {CURVES}")),
        _ => return Err(format!("a kty that is not supported: {CURVES}")),
    };
    let algorithm = match jwk.alg.as_deref() {
        None => own,
        // The one kind that signs in several ways.
        Some("RS384") if own == Algorithm::RS256 => Algorithm::RS384,
        Some("RS512") if own == Algorithm::RS256 => Algorithm::RS512,
        Some("PS256") if own == Algorithm::RS256 => Algorithm::PS256,
        Some("PS384") if own == Algorithm::RS256 => Algorithm::PS384,
        Some("PS512") if own == Algorithm::RS256 => Algorithm::PS512,
        Some("Ed25519") if own == Algorithm::EdDSA => own,
        Some(named) if named == format!("{own:?}") => own,
        Some(_) => return Err("an alg that does not fit it or is not supported".into()),
    };
    usable(Key { id: jwk.kid, algorithm, key })
}

const CURVES: &str = "P-256, P-384, Ed25519 and RSA of 2048 to 4096 bits are, P-521 is not";

/// Returns an elliptic curve's point in its uncompressed form (SEC 1, section 2.3.3).
fn point(x: &str, y: &str, size: usize) -> Result<DecodingKey, String> {
    let (x, y) = (bytes("x", x, size..=size)?, bytes("y", y, size..=size)?);
    Ok(DecodingKey::from_ec_der(&[&[4], x.as_slice(), &y].concat()))
}

fn bytes(name: &str, text: &str, sizes: RangeInclusive<usize>) -> Result<Vec<u8>, String> {
    // Some providers pad, which RFC 7515, section 2, does not.
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
    let bytes = bytes.map_err(|_| format!("its {name} is not base64url"))?;
    match sizes.contains(&bytes.len()) {
        true => Ok(bytes),
        false => Err(format!("its {name} has {} bytes; {CURVES}", bytes.len())),
    }
}

/// Returns the key where signatures can be verified with it.
fn usable(key: Key) -> Result<Key, String> {
    // An error, and not false, where it is no point of its curve.
    match crypto::verify("AA", b"", &key.key, key.algorithm) {
        Ok(_) => Ok(key),
        Err(_) => Err(format!("no point of its curve; {CURVES}")),
    }
}

const PEM_BEGIN: &str = "-----BEGIN ";

/// Reads every block of a PEM file. One that can't be used makes the file unusable: it is the operator's own.
fn read_pem(text: &str) -> Result<Found, String> {
    let mut keys = Vec::new();
    for (number, rest) in (1..).zip(text.split(PEM_BEGIN).skip(1)) {
        let key = of_pem(rest).map_err(|reason| format!("key {number}: {reason}"))?;
        keys.push(key);
    }
    Ok(Found { keys, skipped: Vec::new() })
}

/// Reads the block that begins with its label.
fn of_pem(block: &str) -> Result<Key, String> {
    let label = block.split_once("-----").map_or("", |(label, _)| label);
    match label {
        "PUBLIC KEY" | "RSA PUBLIC KEY" | "CERTIFICATE" => {}
        label if label.ends_with("PRIVATE KEY") => {
            return Err("a private key: give its public half alone (openssl pkey -pubout)".into());
        }
        _ => return Err("neither a public key nor a certificate".into()),
    }
    let end = format!("-----END {label}-----");
    let body = block.find(&end).ok_or("it ends early")? + end.len();
    let pem = format!("{PEM_BEGIN}{}", &block[..body]);
    /// Lengths of an uncompressed point: a byte, and two coordinates.
    const P256_POINT: usize = 1 + 2 * 32;
    const P384_POINT: usize = 1 + 2 * 48;
    let size = |key: &DecodingKey| key.try_get_as_bytes().map_or(0, <[u8]>::len);
    let (algorithm, key) = if let Ok(key) = DecodingKey::from_ec_pem(pem.as_bytes()) {
        match size(&key) {
            P256_POINT => (Algorithm::ES256, key),
            P384_POINT => (Algorithm::ES384, key),
            _ => return Err(format!("a curve that is not supported: {CURVES}")),
        }
    } else if let Ok(key) = DecodingKey::from_ed_pem(pem.as_bytes()) {
        (Algorithm::EdDSA, key)
    } else if let Ok(key) = DecodingKey::from_rsa_pem(pem.as_bytes()) {
        let components = rust_crypto::DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key;
        match key.try_get_as_bytes().and_then(components) {
            Ok((n, e)) if RSA_BYTES.contains(&n.len()) && EXPONENT_BYTES.contains(&e.len()) => (Algorithm::RS256, key),
            _ => return Err(format!("an RSA key of another size: {CURVES}")),
        }
    } else {
        return Err(format!("a kind that is not supported: {CURVES}"));
    };
    usable(Key { id: None, algorithm, key })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fuzz::fuzz;

    /// Returns the key of RFC 7517, appendix A.1.
    fn p256() -> Value {
        json!({"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "use": "sig", "kid": "1"})
    }

    fn changed(member: &str, value: Value) -> Value {
        let mut key = p256();
        key[member] = value;
        key
    }

    #[test]
    fn what_cannot_be_used_is_skipped_and_the_rest_stays() -> Result<(), String> {
        let odd = [
            changed("kid", json!(7)),
            changed("kid", json!(["a"])),
            changed("use", json!("enc")),
            changed("use", json!(1)),
            changed("key_ops", json!([])),
            changed("key_ops", json!(["sign"])),
            changed("key_ops", json!("verify")),
            changed("alg", json!("ES384")),
            changed("alg", json!("none")),
            changed("alg", json!(256)),
            changed("crv", json!("P-521")),
            changed("crv", json!("secp256k1")),
            changed("x", json!("MKBC")),
            changed("x", json!("!")),
            changed("y", json!("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4")),
            changed("d", json!("870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE")),
            changed("kty", json!("oct")),
            changed("kty", json!("AKP")),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([255; 513]), "e": "AQAB"}),
            json!({"kty": "OKP", "crv": "X25519", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"}),
            json!({}),
            json!(null),
            json!("key"),
            json!([]),
        ];
        for odd in &odd {
            let found = read(&json!({"keys": [odd, p256(), odd]}).to_string())?;
            assert_eq!((found.keys.len(), found.skipped.len()), (1, 2), "{odd}");
        }
        Ok(())
    }

    #[test]
    fn documents_of_every_form_are_read() -> Result<(), String> {
        let odd_members = changed("x5c", json!("none"));
        for (text, keys) in [
            (json!({"keys": [p256(), changed("key_ops", json!(["verify"]))]}).to_string(), 2),
            (json!({"keys": [changed("kid", Value::Null), changed("use", Value::Null)]}).to_string(), 2),
            (
                json!({"keys": [odd_members, changed("x", json!("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4="))]})
                    .to_string(),
                2,
            ),
            (p256().to_string(), 1),
            (format!("\u{feff}{}", json!({"keys": [p256()]})), 1),
            (json!({"keys": []}).to_string(), 0),
            (json!({"keys": vec![p256(); MAX_KEYS + 5]}).to_string(), MAX_KEYS),
        ] {
            assert_eq!(read(&text)?.keys.len(), keys, "{text}");
        }
        for text in ["", "<html>", "[]", "{}", r#"{"keys": {}}"#, "null", "7"] {
            assert!(read(text).is_err(), "{text}");
        }
        Ok(())
    }

    #[test]
    fn fuzzed_jwks_are_read_or_refused() {
        let set = json!({"keys": [p256()]}).to_string();
        let seeds: [&[u8]; 3] = [
            set.as_bytes(),
            br#"{"keys":[null,{"kty":"oct","k":"AA"}]}"#,
            b"-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n",
        ];
        fuzz(&seeds, |input| {
            if let Ok(found) = std::str::from_utf8(input).map_err(drop).and_then(|text| read(text).map_err(drop)) {
                assert!(found.keys.len() + found.skipped.len() > 0 || input.len() < 200);
            }
        });
    }
}
