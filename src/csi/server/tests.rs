use super::*;

#[test]
fn only_an_absolute_unix_path_is_an_endpoint() {
    for good in [
        "unix:///run/csi.sock",
        "unix:/run/csi.sock",
        "/run/csi.sock",
    ] {
        let endpoint = Endpoint::parse(good).unwrap();
        assert_eq!(endpoint.path(), Path::new("/run/csi.sock"), "{good}");
    }
    let long = format!("unix:///{}", "x".repeat(108));
    for bad in [
        "",
        "csi.sock",
        "unix://run/csi.sock",
        "unix://",
        "unix:///",
        "unix:///a/../b",
        "tcp://127.0.0.1:1",
        &long,
    ] {
        let error = Endpoint::parse(bad).unwrap_err().to_string();
        assert!(error.contains("unix:///absolute/path"), "{bad}: {error}");
    }
}

fn endpoint(dir: &tempfile::TempDir) -> Endpoint {
    Endpoint::parse(dir.path().join("csi.sock").to_str().unwrap()).unwrap()
}

#[tokio::test]
async fn the_last_directory_of_the_path_is_made_on_a_fresh_node() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path| Endpoint::parse(dir.path().join(path).to_str().unwrap()).unwrap();
    let bound = at("driver/csi.sock").bind(0o600).await.unwrap();
    assert!(bound.file.path.exists());
    let refused = at("typo/driver/csi.sock").bind(0o600).await.unwrap_err();
    assert!(matches!(refused, ServeError::Io { .. }));
}

#[tokio::test]
async fn a_regular_file_and_a_live_instance_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = endpoint(&dir);
    fs::write(at.path(), b"data").unwrap();
    let refused = at.bind(0o600).await.unwrap_err();
    assert!(matches!(refused, ServeError::NotASocket { .. }));
    assert_eq!(fs::read(at.path()).unwrap(), b"data");
    fs::remove_file(at.path()).unwrap();
    let first = at.bind(0o600).await.unwrap();
    let refused = at.bind(0o600).await.unwrap_err();
    assert!(matches!(refused, ServeError::InUse { .. }));
    assert!(UnixStream::connect(first.path()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_instances_that_start_at_the_same_moment_one_gets_the_socket() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let at = endpoint(&dir);
        drop(std::os::unix::net::UnixListener::bind(at.path()).unwrap());
        let mut starting = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let at = at.clone();
            starting.spawn(async move { at.bind(0o600).await });
        }
        let (bound, refused): (Vec<_>, Vec<_>) = starting
            .join_all()
            .await
            .into_iter()
            .partition(Result::is_ok);
        assert_eq!(bound.len(), 1);
        for refused in refused {
            assert!(matches!(refused, Err(ServeError::InUse { .. })));
        }
    }
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_the_mode_is_the_one_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let at = endpoint(&dir);
    drop(std::os::unix::net::UnixListener::bind(at.path()).unwrap());
    let bound = at.bind(0o660).await.unwrap();
    let mode = fs::metadata(at.path()).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o660);
    let names = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 1, "nothing else is left in the directory");
    drop(bound);
    assert!(!at.path().exists());
}

#[tokio::test]
async fn a_socket_that_another_instance_put_in_place_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let at = endpoint(&dir);
    let bound = at.bind(0o600).await.unwrap();
    fs::remove_file(at.path()).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(at.path()).unwrap();
    drop(bound);
    assert!(at.path().exists());
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_does_not_hold_the_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let at = endpoint(&dir);
    let bound = at.bind(0o600).await.unwrap();
    let _silent = UnixStream::connect(at.path()).await.unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(bound.serve(
        Routes::default(),
        Arc::new(super::super::layer::Unobserved),
        stop.clone(),
        Duration::from_secs(5),
    ));
    tokio::task::yield_now().await;
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(60), serving).await;
    assert!(matches!(ended, Ok(Ok(Ok(_)))), "{ended:?}");
    assert!(!at.path().exists());
}
