//! Who the driver says it is.

use std::os::unix::fs::PermissionsExt as _;

use s3pod_testkit::csi::plugin_capability::{self, service, volume_expansion};
use s3pod_testkit::csi::{GetPluginCapabilitiesRequest, GetPluginInfoRequest};

use crate::driver::Driver;

#[test]
fn every_mode_says_who_it_is_and_the_same_of_what_it_can() {
    for kind in ["node", "controller", "all"] {
        let mut driver = Driver::start(kind);
        let mut identity = driver.identity();
        let info = driver.wait(identity.get_plugin_info(GetPluginInfoRequest {}));
        let info = info.unwrap().into_inner();
        assert_eq!(info.name, "csi.s3pod");
        assert_eq!(info.vendor_version, env!("CARGO_PKG_VERSION"));
        let asked = identity.get_plugin_capabilities(GetPluginCapabilitiesRequest {});
        let said = driver.wait(asked).unwrap().into_inner().capabilities;
        let said: Vec<_> = said.into_iter().filter_map(|one| one.r#type).collect();
        let service = service::Type::ControllerService.into();
        let online = volume_expansion::Type::Online.into();
        assert_eq!(
            said,
            [
                plugin_capability::Type::Service(plugin_capability::Service { r#type: service }),
                plugin_capability::Type::VolumeExpansion(plugin_capability::VolumeExpansion {
                    r#type: online
                }),
            ]
        );
        let mode = driver.socket().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "the socket is root's alone");
        assert!(driver.terminate());
        assert!(!driver.socket().exists(), "its socket goes with it");
    }
}
