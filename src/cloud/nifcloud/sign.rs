//! Signature version 2: the only one that the computing API documents (manual, "authenticate").
//!
//! ```text
//! POST \n host[:port] \n /api/ \n A=1&B=x%20y ...   --HMAC(secret)--> Base64 --> Signature=
//! ```
//!
//! Parameters are sorted by their raw names, byte by byte, and escaped as RFC 3986 says: a space is `%20`, never
//! `+`. Headers are not signed. The request body is the canonical query itself plus the signature, so what is
//! signed is what is sent.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;

/// One request parameter: name and value, not escaped.
pub(crate) type Param = (Cow<'static, str>, String);

/// Everything but `A-Z a-z 0-9 - _ . ~` is escaped.
const ESCAPED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// The parameter that carries the signature; never signed itself.
const SIGNATURE: &str = "Signature";

/// `SignatureMethod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// `HmacSHA256`: what the official clients send.
    HmacSha256,
    /// `HmacSHA1`: documented, never sent by this client; here to check the published examples.
    #[cfg(test)]
    HmacSha1,
}

impl Algorithm {
    /// The value of `SignatureMethod`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HmacSha256 => "HmacSHA256",
            #[cfg(test)]
            Self::HmacSha1 => "HmacSHA1",
        }
    }

    fn mac(self, secret: &[u8], text: &[u8]) -> Vec<u8> {
        match self {
            Self::HmacSha256 => keyed::<Hmac<Sha256>>(secret, text),
            #[cfg(test)]
            Self::HmacSha1 => keyed::<Hmac<sha1::Sha1>>(secret, text),
        }
    }
}

fn keyed<M: Mac + KeyInit>(secret: &[u8], text: &[u8]) -> Vec<u8> {
    // HMAC takes keys of any length; the error belongs to other constructions behind the same trait.
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(secret) else {
        return Vec::new();
    };
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

/// The parameters in canonical form: sorted by raw name, escaped, joined; `Signature` left out.
pub(crate) fn canonical_query(params: &[Param]) -> String {
    let mut sorted: Vec<&Param> = params
        .iter()
        .filter(|(name, _)| name != SIGNATURE)
        .collect();
    sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    let mut query = String::new();
    for (name, value) in sorted {
        if !query.is_empty() {
            query.push('&');
        }
        query.extend(utf8_percent_encode(name, &ESCAPED));
        query.push('=');
        query.extend(utf8_percent_encode(value, &ESCAPED));
    }
    query
}

/// The Base64 signature of one request. `host` is written as in the URL: with the port where it is not the
/// scheme's own.
fn sign(
    method: &str,
    host: &str,
    path: &str,
    query: &str,
    secret: &[u8],
    algorithm: Algorithm,
) -> String {
    let path = if path.is_empty() { "/" } else { path };
    let text = format!("{method}\n{host}\n{path}\n{query}");
    STANDARD.encode(algorithm.mac(secret, text.as_bytes()))
}

/// The body of a signed POST: the canonical query and the signature.
pub(crate) fn signed_form(host: &str, path: &str, params: &[Param], secret: &[u8]) -> String {
    let mut body = canonical_query(params);
    let signature = sign("POST", host, path, &body, secret, Algorithm::HmacSha256);
    body.push('&');
    body.push_str(SIGNATURE);
    body.push('=');
    body.extend(utf8_percent_encode(&signature, &ESCAPED));
    body
}

#[cfg(test)]
mod tests;
