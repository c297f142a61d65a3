//! The driver registers itself: what the kubelet asks, and what becomes of its answer.

use std::path::Path;
use std::sync::Arc;

use additional_storage_csi::csi::registration::{Registration, RegistrationState, socket_path};
use additional_storage_csi::proto::pluginregistration::registration_server::Registration as _;
use additional_storage_csi::proto::pluginregistration::{InfoRequest, RegistrationStatus};
use tonic::Request;

const SOCKET: &str = "/var/lib/kubelet/plugins/additional-storage.csi.nifcloud.com/csi.sock";

#[tokio::test]
async fn the_kubelet_gets_the_endpoint_as_it_sees_it_and_a_refusal_shows_in_liveness() {
    let path = socket_path(Path::new("/var/lib/kubelet/plugins_registry"));
    assert_eq!(
        path,
        Path::new("/var/lib/kubelet/plugins_registry/additional-storage.csi.nifcloud.com@reg.sock")
    );
    let state = Arc::new(RegistrationState::default());
    let service = Registration::new(Path::new(SOCKET), Arc::clone(&state));
    assert_eq!(state.check(), Ok(false));
    let info = service.get_info(Request::new(InfoRequest {})).await;
    let info = info.unwrap().into_inner();
    assert_eq!(
        (
            info.r#type.as_str(),
            info.name.as_str(),
            info.endpoint.as_str()
        ),
        ("CSIPlugin", "additional-storage.csi.nifcloud.com", SOCKET)
    );
    assert_eq!(info.supported_versions, ["1.0.0"]);
    let tell = |plugin_registered, error: &str| {
        Request::new(RegistrationStatus {
            plugin_registered,
            error: error.to_owned(),
        })
    };
    let refusal = tell(false, "node not found");
    service.notify_registration_status(refusal).await.unwrap();
    assert!(state.check().unwrap_err().contains("node not found"));
    assert_eq!((state.asked(), state.failures()), (1, 1));
    service
        .notify_registration_status(tell(true, ""))
        .await
        .unwrap();
    assert_eq!(state.check(), Ok(true));
}

/// What grpc-go's `encodeAuthority` makes of a socket's path, as the kubelet sends it.
fn authority(path: &Path) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]@".contains(c);
    let encode = |c: char| match kept(c) {
        true => c.to_string(),
        false => format!("%{:02X}", u32::from(c)),
    };
    path.display().to_string().chars().map(encode).collect()
}

#[test]
fn the_authority_that_the_kubelet_makes_of_the_socket_path_is_one_that_the_server_accepts() {
    let registry = Path::new("/var/lib/kubelet/plugins_registry");
    let ours = authority(&socket_path(registry));
    assert!(
        http::uri::Authority::try_from(ours.as_str()).is_ok(),
        "{ours}"
    );
    // The registrar sidecar's name for it, which a server of this HTTP library cannot have.
    let usual = authority(&registry.join("additional-storage.csi.nifcloud.com-reg.sock"));
    assert!(http::uri::Authority::try_from(usual.as_str()).is_err());
}
