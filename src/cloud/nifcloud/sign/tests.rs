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
