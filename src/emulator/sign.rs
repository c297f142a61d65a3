//! Verifies signature version 2. Written apart from the driver's client on purpose: each checks the other.

use std::collections::BTreeMap;

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};

/// Parameters of a request, decoded, sorted by name in byte order.
pub(super) type Params = BTreeMap<String, String>;

/// Decodes a form body or query; the first value of a repeated name counts.
pub(super) fn decode_form(text: &str) -> Params {
    let mut params = Params::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        params.entry(decode(name)).or_insert_with(|| decode(value));
    }
    params
}

fn decode(text: &str) -> String {
    let plain = text.replace('+', " ");
    percent_encoding::percent_decode_str(&plain)
        .decode_utf8_lossy()
        .into_owned()
}

fn encode(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// The signature that this request must carry, or `None` for an unknown method or version.
pub(super) fn expected(
    method: &str,
    host: &str,
    path: &str,
    params: &Params,
    secret: &str,
) -> Option<String> {
    if params.get("SignatureVersion").map(String::as_str) != Some("2") {
        return None;
    }
    let mut text = format!("{method}\n{host}\n{path}\n");
    let mut first = true;
    for (name, value) in params.iter().filter(|(name, _)| *name != "Signature") {
        if !std::mem::take(&mut first) {
            text.push('&');
        }
        encode(name, &mut text);
        text.push('=');
        encode(value, &mut text);
    }
    let digest = match params.get("SignatureMethod").map(String::as_str) {
        Some("HmacSHA256") => {
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).ok()?;
            mac.update(text.as_bytes());
            mac.finalize().into_bytes().to_vec()
        }
        Some("HmacSHA1") => {
            let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).ok()?;
            mac.update(text.as_bytes());
            mac.finalize().into_bytes().to_vec()
        }
        _ => return None,
    };
    Some(base64::engine::general_purpose::STANDARD.encode(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_with_a_port_and_both_methods_match() {
        let form = "AccessKeyId=AKFAKEEXAMPLE0000001&Action=DescribeVolumes&SignatureMethod=HmacSHA256&SignatureVersion=2\
                    &Timestamp=2026-01-02T03%3A04%3A05Z&Version=3.0&VolumeId.1=pvc0001&VolumeId.2=pvc0002";
        let secret = "FakeSecretKeyForDocs/Only+0123456789==";
        let mut params = decode_form(form);
        let signed = |host: &str, params: &Params| expected("POST", host, "/api/", params, secret);
        assert_eq!(
            signed("127.0.0.1:8080", &params).as_deref(),
            Some("z3FrjQwMJQPYoAc+cKPUZtoVxc452g+pxPJuMnT3uOo=")
        );
        params.insert("SignatureMethod".into(), "HmacSHA1".into());
        assert_eq!(
            signed("jp-east-1.computing.api.nifcloud.com", &params).as_deref(),
            Some("l/OahtiSRS46A31OcfDzyFgT00k=")
        );
    }
}
