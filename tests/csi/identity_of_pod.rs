//! As whom a volume asks its store: the pod by its token, the servers themselves, or a Secret.

use std::fs;
use std::time::Duration;

use s3pod_testkit::TokenService;
use s3pod_testkit::csi::{Code, NodePublishVolumeRequest};

use crate::kubelet::{Kubelet, MEMORY, refusal};
use crate::stand::{BUCKET, until};

const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
const ROLE: &str = "arn:aws:iam::123456789012:role/web";

/// The SDK asks again some seconds before the end.
const LIFETIME: Duration = Duration::from_secs(12);

/// Where kubelet writes tokens: clusters of today into the Secrets, those before into the context.
#[derive(Clone, Copy)]
enum Place {
    Secrets,
    Context,
}

fn service(kubelet: &Kubelet, token: &str) -> TokenService {
    let endpoint = kubelet.stand.store.s3_endpoint(BUCKET);
    TokenService::spawn((&endpoint.access_key, &endpoint.secret_key), token, LIFETIME).unwrap()
}

/// A call without a Secret, for a volume that is read as its pod.
fn call(
    kubelet: &Kubelet,
    service: &TokenService,
    pod: &str,
    token: &str,
    place: Place,
) -> NodePublishVolumeRequest {
    let mut call = kubelet.call("v", pod);
    call.secrets.clear();
    call.volume_context.insert("roleArn".into(), ROLE.into());
    call.volume_context.insert("stsEndpointUrl".into(), service.endpoint());
    let expires = "2033-01-01T00:00:00Z";
    let tokens = serde_json::json!({
        "sts.amazonaws.com": {"token": token, "expirationTimestamp": expires},
        "vault": {"token": "an0ther", "expirationTimestamp": expires},
    });
    let map = match place {
        Place::Secrets => &mut call.secrets,
        Place::Context => &mut call.volume_context,
    };
    map.insert(TOKENS.into(), tokens.to_string());
    call
}

#[test]
fn each_pod_is_who_its_token_says_and_a_rotated_token_is_exchanged_again() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let service = service(&kubelet, "f1rst");
    for pod in ["pod-1", "pod-2"] {
        kubelet.publish(&call(&kubelet, &service, pod, "f1rst", Place::Secrets)).unwrap();
        assert_eq!(fs::read_to_string(kubelet.target(pod).join("a")).unwrap(), "hello");
    }
    assert_eq!(kubelet.mounts().len(), 4, "a mount for each of them");
    let asked = service.asked();
    for session in ["default-pod-1", "default-pod-2"] {
        let asked = asked.iter().find(|asked| asked.session == session).unwrap();
        assert_eq!((asked.role.as_str(), asked.token.as_str()), (ROLE, "f1rst"));
    }
    kubelet.unpublish("v", &kubelet.target("pod-2")).unwrap();

    service.expect("sec0nd");
    let rotated = call(&kubelet, &service, "pod-1", "sec0nd", Place::Context);
    kubelet.publish(&rotated).unwrap();
    let mut number = 0;
    until("the second token is exchanged", || {
        number += 1;
        // A question to the store, for which somebody must be asked.
        let _ = fs::metadata(kubelet.target("pod-1").join(format!("none-{number}")));
        service.asked().last().is_some_and(|asked| asked.token == "sec0nd")
    });
    fs::write(kubelet.target("pod-1").join("b"), "by the second").unwrap();
    assert_eq!(kubelet.stand.bucket().get("b").unwrap(), "by the second");
    kubelet.unpublish("v", &kubelet.target("pod-1")).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_token_that_is_missing_or_not_taken_is_named_and_never_shown() {
    let kubelet = Kubelet::with(MEMORY, &["--log-level", "trace"]);
    let service = service(&kubelet, "r1ght");
    let stolen = call(&kubelet, &service, "pod-1", "st0len", Place::Secrets);
    let (code, said) = refusal(kubelet.publish(&stolen));
    assert!(
        code == Code::Unauthenticated && said.starts_with("volumeAttributes.roleArn: "),
        "{said}"
    );
    let mut without = call(&kubelet, &service, "pod-1", "r1ght", Place::Secrets);
    without.secrets.clear();
    let (code, said_without) = refusal(kubelet.publish(&without));
    assert!(
        code == Code::Unauthenticated && said_without.contains("tokenRequests"),
        "{said_without}"
    );
    assert!(!kubelet.target("pod-1").exists());
    // MinIO takes a token without a role.
    let mut roleless = call(&kubelet, &service, "pod-1", "r1ght", Place::Context);
    roleless.volume_context.remove("roleArn");
    kubelet.publish(&roleless).unwrap();
    assert_eq!(service.asked().last().unwrap().role, "");
    let log = kubelet.log();
    assert!(log.contains("\"TRACE\"") || log.contains("\"DEBUG\""), "it would show");
    let of_servers = kubelet.stand.log();
    for token in ["st0len", "r1ght", "an0ther"] {
        let lines = log.lines().chain(of_servers.lines()).chain([said.as_str()]);
        let shown: Vec<&str> = lines.filter(|line| line.contains(token)).collect();
        assert!(shown.is_empty(), "{token}: {shown:?}");
    }
}

#[test]
fn whoever_names_nobody_is_the_servers_and_an_inline_volume_is_not() {
    let mut kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let mut call = kubelet.call("v", "pod-1");
    call.secrets.clear();
    let (code, said) = refusal(kubelet.publish(&call));
    assert!(code == Code::Unauthenticated && said.contains("name a Secret"), "{said}");

    let endpoint = kubelet.stand.store.s3_endpoint(BUCKET);
    kubelet.stand.end(nix::sys::signal::Signal::SIGTERM);
    kubelet.stand.identity = (endpoint.access_key, endpoint.secret_key);
    kubelet.stand.start(MEMORY);
    kubelet.publish(&call).unwrap();
    assert_eq!(fs::read_to_string(kubelet.target("pod-1").join("a")).unwrap(), "hello");
    let mut inline = kubelet.call("w", "pod-2");
    inline.secrets.clear();
    inline.volume_context.insert("csi.storage.k8s.io/ephemeral".into(), "true".into());
    let (code, said) = refusal(kubelet.publish(&inline));
    assert!(code == Code::PermissionDenied && said.contains("nodePublishSecretRef"), "{said}");
    assert!(!kubelet.target("pod-2").exists());
}
