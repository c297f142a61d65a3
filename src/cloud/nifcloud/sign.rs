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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REGION_HOST: &str = "jp-east-1.computing.api.nifcloud.com";
    const DOC_SECRET: &str = "FakeSecretKeyForDocs/Only+0123456789==";

    fn params(pairs: &[(&str, &str)]) -> Vec<Param> {
        pairs
            .iter()
            .map(|(name, value)| (Cow::Owned((*name).to_owned()), (*value).to_owned()))
            .collect()
    }

    fn doc_params(method: &str, extra: &[(&str, &str)]) -> Vec<Param> {
        let mut all = params(&[
            ("AccessKeyId", "AKFAKEEXAMPLE0000001"),
            ("SignatureVersion", "2"),
            ("SignatureMethod", method),
            ("Timestamp", "2026-01-02T03:04:05Z"),
            ("Version", "3.0"),
        ]);
        all.extend(params(extra));
        all
    }

    fn sha256(method: &str, host: &str, path: &str, params: &[Param], secret: &str) -> String {
        sign(
            method,
            host,
            path,
            &canonical_query(params),
            secret.as_bytes(),
            Algorithm::HmacSha256,
        )
    }

    const LIST: [(&str, &str); 3] = [
        ("Action", "DescribeVolumes"),
        ("VolumeId.1", "pvc0001"),
        ("VolumeId.2", "pvc0002"),
    ];

    #[test]
    fn a_get_request_is_signed_as_other_clients_sign_it() {
        let numbered: Vec<(String, String)> = (1..=10)
            .map(|i| {
                let value = match i {
                    1 => 10,
                    10 => 1,
                    i => i,
                };
                (format!("param{i}"), format!("value{value}"))
            })
            .collect();
        let numbered: Vec<(&str, &str)> = numbered
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[], "dyt4KTzu1bCyj2YXl085hkfuFdM2l8EdQtxh5Q6SmMw="),
            (
                &[
                    ("param1", "value1"),
                    ("param2", "value2"),
                    ("param3", "value3"),
                ],
                "tlrQX3I07ZDfnIfxeV3Qsn1iwJod9tLc4IJakOz7gqw=",
            ),
            (&numbered, "WDWtj0KhB2Eo5nFhtIP/IgzLWxTtybj9pl5ZXDjKg3g="),
            (
                &[("Nonce", "+ +")],
                "Z9OD4EuFPrQHc3byR0SMDsJ+oFdsysIIBHMG6mjs7qk=",
            ),
        ];
        for (extra, expected) in cases {
            let mut all = params(&[
                ("AccessKeyId", "user"),
                ("SignatureVersion", "2"),
                ("SignatureMethod", "HmacSHA256"),
            ]);
            all.extend(params(extra));
            assert_eq!(
                sha256("GET", "localhost", "/path", &all, "secret"),
                expected
            );
        }
    }

    #[test]
    fn a_get_of_the_root_with_a_time_zone_is_signed_as_other_clients_sign_it() {
        let all = params(&[
            ("AccessKeyId", "access"),
            ("SignatureVersion", "2"),
            ("SignatureMethod", "HmacSHA256"),
            ("Timestamp", "2009-02-01T12:53:20+00:00"),
            ("Version", "2007-11-07"),
            ("Action", "ListDomains"),
        ]);
        let expected = "i/oJBLCLE8wMI0zo/wuPyih5lMF2GTHEuovLffiMueY=";
        assert_eq!(
            sha256("GET", "sdb.nifty.com", "/", &all, "secret"),
            expected
        );
        assert_eq!(sha256("GET", "sdb.nifty.com", "", &all, "secret"), expected);
    }

    #[test]
    fn the_vendors_ansible_examples_are_signed_alike() {
        const KEY: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        let mut all = params(&[
            ("Action", "DescribeInstances"),
            ("InstanceId", "test001"),
            ("AccessKeyId", KEY),
            ("SignatureMethod", "HmacSHA256"),
            ("SignatureVersion", "2"),
        ]);
        let host = "west-1.cp.cloud.nifty.com";
        assert_eq!(
            sha256("GET", host, "/api/", &all, KEY),
            "Y7/0nc3dCK9UNkp+w5sh08ybJLQjh69mXOgcxJijDEU="
        );
        all.extend(params(&[("Description", "/")]));
        assert_eq!(
            sha256("GET", host, "/api/", &all, KEY),
            "dHOoGcBgO14Roaioryic9IdFPg7G+lihZ8Wyoa25ok4="
        );
    }

    #[test]
    fn the_worked_examples_of_describe_volumes_are_signed_alike() {
        let all = doc_params("HmacSHA256", &LIST);
        assert_eq!(
            canonical_query(&all),
            "AccessKeyId=AKFAKEEXAMPLE0000001&Action=DescribeVolumes&SignatureMethod=HmacSHA256\
             &SignatureVersion=2&Timestamp=2026-01-02T03%3A04%3A05Z&Version=3.0\
             &VolumeId.1=pvc0001&VolumeId.2=pvc0002"
        );
        for (method, host, expected) in [
            (
                "POST",
                REGION_HOST,
                "IeXpG/AIllgvN/Se9wtj0k4p08X/aT482+hdvKsBeXA=",
            ),
            (
                "GET",
                REGION_HOST,
                "HJpAdaLM2zt4kyTEWzIZJ300+jc5p6TBuaQ8XamHfFQ=",
            ),
            (
                "POST",
                "127.0.0.1:8080",
                "z3FrjQwMJQPYoAc+cKPUZtoVxc452g+pxPJuMnT3uOo=",
            ),
        ] {
            assert_eq!(
                sha256(method, host, "/api/", &all, DOC_SECRET),
                expected,
                "{method} {host}"
            );
        }
    }

    #[test]
    fn hmac_sha1_is_signed_as_documented() {
        let all = doc_params(Algorithm::HmacSha1.name(), &LIST);
        let signature = sign(
            "POST",
            REGION_HOST,
            "/api/",
            &canonical_query(&all),
            DOC_SECRET.as_bytes(),
            Algorithm::HmacSha1,
        );
        assert_eq!(signature, "l/OahtiSRS46A31OcfDzyFgT00k=");
    }

    #[test]
    fn special_characters_are_escaped_as_rfc_3986_says() {
        let all = doc_params(
            "HmacSHA256",
            &[
                ("Action", "CreateVolume"),
                ("AccountingType", "2"),
                ("Description", "a b+c/é~*"),
                ("DiskType", "6"),
                ("InstanceId", "node01"),
                ("Size", "100"),
                ("VolumeId", "pvc0001"),
            ],
        );
        assert!(canonical_query(&all).contains("Description=a%20b%2Bc%2F%C3%A9~%2A&"));
        assert_eq!(
            sha256("POST", REGION_HOST, "/api/", &all, DOC_SECRET),
            "OVc38ummcTYkjBlFou1WTn5Vtr/b1lIOIIlxSzLWNJE="
        );
    }

    #[test]
    fn ten_sorts_before_two_because_names_are_compared_as_bytes() {
        let names: Vec<(String, String)> = (1..=11)
            .map(|i| (format!("VolumeId.{i}"), format!("v{i}")))
            .collect();
        let mut extra: Vec<(&str, &str)> = names
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        extra.push(("Action", "DescribeVolumes"));
        assert_eq!(
            sha256(
                "POST",
                REGION_HOST,
                "/api/",
                &doc_params("HmacSHA256", &extra),
                DOC_SECRET
            ),
            "xA9s9JoAOtgMF5iSym2iI5GRTGqazekddRn5s4vebxU="
        );
    }

    #[test]
    fn the_signature_is_never_signed_and_the_body_is_what_was_signed() {
        let mut all = doc_params("HmacSHA256", &LIST);
        let body = signed_form(REGION_HOST, "/api/", &all, DOC_SECRET.as_bytes());
        assert_eq!(
            body,
            format!(
                "{}&Signature=IeXpG%2FAIllgvN%2FSe9wtj0k4p08X%2FaT482%2BhdvKsBeXA%3D",
                canonical_query(&all)
            )
        );
        all.extend(params(&[("Signature", "stale")]));
        assert_eq!(
            body,
            signed_form(REGION_HOST, "/api/", &all, DOC_SECRET.as_bytes())
        );
    }

    proptest! {
        #[test]
        fn the_canonical_query_agrees_with_a_naive_one(
            pairs in proptest::collection::btree_map("\\PC{0,12}", "(?s).{0,24}", 0..12)
        ) {
            let all: Vec<Param> =
                pairs.iter().rev().map(|(n, v)| (Cow::Owned(n.clone()), v.clone())).collect();
            prop_assert_eq!(canonical_query(&all), crate::cloud::nifcloud::fuzzing::naive_query(&pairs));
        }
    }
}
