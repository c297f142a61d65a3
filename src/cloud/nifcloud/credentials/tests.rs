use secrecy::ExposeSecret as _;

use super::*;

fn pair(credentials: &Credentials) -> Result<(String, String), CredentialError> {
    let keys = credentials.current()?;
    Ok((
        keys.access_key_id.clone(),
        keys.secret.expose_secret().to_owned(),
    ))
}

fn of_files(dir: &Path) -> Credentials {
    Credentials::new(
        KeySource::File(dir.join("id")),
        KeySource::File(dir.join("secret")),
    )
}

#[test]
fn a_trailing_newline_is_not_part_of_a_key() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("id"), "AKFAKE\n").unwrap();
    std::fs::write(dir.path().join("secret"), "s3/cr+et==\r\n").unwrap();
    assert_eq!(
        pair(&of_files(dir.path())),
        Ok(("AKFAKE".to_owned(), "s3/cr+et==".to_owned()))
    );
}

#[test]
fn a_replaced_file_is_read_again_and_a_missing_one_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        // As kubelet does it: a new file under the old name.
        let new = dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, dir.path().join(file)).unwrap();
    };
    write("id", "one");
    write("secret", "first");
    let credentials = of_files(dir.path());
    assert_eq!(pair(&credentials).unwrap().1, "first");
    let before = credentials.current().unwrap();
    assert!(Arc::ptr_eq(&before, &credentials.current().unwrap()));
    write("secret", "other");
    assert_eq!(pair(&credentials).unwrap().1, "other");
    std::fs::remove_file(dir.path().join("secret")).unwrap();
    assert!(matches!(
        pair(&credentials),
        Err(CredentialError::File { .. })
    ));
    write("secret", "third");
    assert_eq!(pair(&credentials).unwrap().1, "third");
}

#[test]
fn a_file_that_holds_no_key_says_so_without_showing_its_content() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "x").unwrap();
    for (content, expected) in [
        ("", "is empty"),
        (" \n", "is empty"),
        ("two words", "white space"),
        ("caf\u{e9}", "unprintable"),
        (&"k".repeat(5000), "larger than"),
    ] {
        std::fs::write(dir.path().join("id"), content).unwrap();
        let error = pair(&of_files(dir.path())).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("two words"), "{error}");
    }
    let error = pair(&Credentials::new(
        KeySource::File(dir.path().to_owned()),
        KeySource::Value("x".into()),
    ));
    assert!(error.unwrap_err().to_string().contains("regular file"));
}

#[test]
fn exactly_one_of_value_and_file_must_be_given() {
    let with = |pairs: &'static [(&str, &str)]| {
        Credentials::from_environment(|name| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| (*value).to_owned())
        })
    };
    let secret = (SECRET_ACCESS_KEY, "x");
    assert_eq!(
        with(&[(ACCESS_KEY_ID, "a"), ("NIFCLOUD_SECRET_ACCESS_KEY", "x")])
            .map(|c| pair(&c).unwrap().0)
            .unwrap(),
        "a"
    );
    assert_eq!(secret.1, "x");
    assert!(matches!(
        with(&[("NIFCLOUD_SECRET_ACCESS_KEY", "x")]),
        Err(CredentialError::Missing {
            name: "NIFCLOUD_ACCESS_KEY_ID"
        })
    ));
    assert!(matches!(
        with(&[(ACCESS_KEY_ID, ""), ("NIFCLOUD_SECRET_ACCESS_KEY", "x")]),
        Err(CredentialError::Missing { .. })
    ));
    assert!(matches!(
        with(&[(ACCESS_KEY_ID, "a"), ("NIFCLOUD_ACCESS_KEY_ID_FILE", "/a")]),
        Err(CredentialError::Both { .. })
    ));
}

#[test]
fn debug_never_shows_a_key() {
    let credentials = Credentials::from_values("AKVISIBLE", "TOPSECRET");
    let _ = credentials.current().unwrap();
    let shown = format!("{credentials:?} {:#?}", credentials.access_key_id);
    assert!(!shown.contains("AKVISIBLE"), "{shown}");
    assert!(!shown.contains("TOPSECRET"), "{shown}");
}
