//! A store whose certificate nobody knows but the volume's Secret, or whoever set the driver up.

use std::fs;

use s3pod_testkit::csi::Code;
use s3pod_testkit::tls;

use crate::controller::Suite;
use crate::driver::Driver;
use crate::kubelet::{Kubelet, refusal};

#[test]
fn an_authority_of_the_secret_is_trusted_and_one_that_is_missing_is_named() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let mut call = kubelet.call("v", "pod-1");
    let port = tls::encrypted(kubelet.stand.store.address()).unwrap();
    call.volume_context.insert("endpointUrl".into(), format!("https://localhost:{port}"));
    let (code, said) = refusal(kubelet.publish(&call));
    assert_eq!(code, Code::InvalidArgument, "{said}");
    assert!(said.contains("caCertificates") || said.contains("ca.crt"), "{said}");
    kubelet.assert_gone();

    let authority = fs::read_to_string(tls::authority()).unwrap();
    call.secrets.insert("ca.crt".into(), authority.clone());
    kubelet.publish(&call).unwrap();
    let target = kubelet.target("pod-1");
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
    kubelet.unpublish("v", &target).unwrap();

    // One volume's authority is not another's, and an attribute is as good as a Secret.
    call.secrets.remove("ca.crt");
    assert_eq!(refusal(kubelet.publish(&call)).0, Code::InvalidArgument);
    call.volume_context.insert("caCertificates".into(), authority);
    kubelet.publish(&call).unwrap();
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
}

/// As the chart's `extraCA` gives it.
#[test]
fn a_controller_makes_volumes_where_its_own_environment_knows_the_authority() {
    let mut suite = Suite::new("controller", &[("bucket", "volumes")]);
    let bundle = tls::authority();
    let environment = [("AWS_CA_BUNDLE", bundle.to_str().unwrap())];
    suite.driver = Driver::start_in("controller", &environment);
    let port = tls::encrypted(suite.store.address()).unwrap();
    let mut asked = suite.asked("pvc-1");
    asked.secrets.insert("endpointUrl".into(), format!("https://localhost:{port}"));
    let volume = suite.create(asked).unwrap();
    assert!(suite.store.bucket("volumes").keys().iter().any(|key| key.contains("/volumes/")));
    suite.delete(&volume.volume_id).unwrap();
}
