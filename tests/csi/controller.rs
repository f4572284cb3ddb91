//! The Controller and Identity services as the public conformance suite asks them.
//!
//! Owns the calls of that suite that need no node; those that do are in [`crate::sanity`], and the
//! rules of placing and removing beside their code.

use std::collections::HashMap;

use futures::future::join_all;
use s3pod_testkit::csi::controller_client::ControllerClient;
use s3pod_testkit::csi::volume_capability::access_mode::Mode;
use s3pod_testkit::csi::{
    CapacityRange, Code, ControllerExpandVolumeRequest, ControllerGetCapabilitiesRequest,
    CreateVolumeRequest, DeleteVolumeRequest, GetPluginCapabilitiesRequest, GetPluginInfoRequest,
    ProbeRequest, Status, ValidateVolumeCapabilitiesRequest, Volume, VolumeContentSource,
};
use s3pod_testkit::{ServerOptions, TestServer};
use tonic::transport::Channel;

use crate::driver::Driver;
use crate::kubelet::{capability, refusal};
use crate::stand::own_mounts;

const BUCKET: &str = "volumes";
const GIB: i64 = 1 << 30;
/// One pod alone, and many: no volume is both.
const CONTRADICTION: [Mode; 2] = [Mode::SingleNodeSingleWriter, Mode::MultiNodeMultiWriter];
/// What the suite asks for.
const SIZE: i64 = 10 * GIB;

/// A driver and a store, and the calls with what the suite writes into them.
pub(crate) struct Suite {
    pub(crate) driver: Driver,
    pub(crate) store: TestServer,
    /// The StorageClass's parameters, which the suite reads from a file.
    pub(crate) parameters: HashMap<String, String>,
}

fn owned(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Suite {
    pub(crate) fn new(mode: &str, parameters: &[(&str, &str)]) -> Self {
        own_mounts();
        let store = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
        Self { driver: Driver::start(mode), store, parameters: owned(parameters) }
    }

    /// One whose parameters say where the store is, as those of any volume do.
    pub(crate) fn with_endpoint(mode: &str) -> Self {
        let mut suite = Self::new(mode, &[("bucket", BUCKET), ("forcePathStyle", "true")]);
        suite.parameters.insert("endpointUrl".to_owned(), suite.store.endpoint());
        suite.parameters.insert("region".to_owned(), suite.store.region().to_owned());
        suite
    }

    /// A Secret, which the suite has one of for each call.
    pub(crate) fn secrets(&self) -> HashMap<String, String> {
        let mut secrets = owned(&[
            ("accessKeyId", self.store.access_key()),
            ("secretAccessKey", self.store.secret_key()),
        ]);
        if !self.parameters.contains_key("endpointUrl") {
            secrets.insert("endpointUrl".to_owned(), self.store.endpoint());
            secrets.insert("region".to_owned(), self.store.region().to_owned());
        }
        secrets
    }

    fn client(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.driver.channel())
    }

    pub(crate) fn asked(&self, name: &str) -> CreateVolumeRequest {
        CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(CapacityRange { required_bytes: SIZE, limit_bytes: 0 }),
            volume_capabilities: vec![capability(Mode::SingleNodeWriter)],
            parameters: self.parameters.clone(),
            secrets: self.secrets(),
            ..CreateVolumeRequest::default()
        }
    }

    pub(crate) fn create(&self, asked: CreateVolumeRequest) -> Result<Volume, Status> {
        let mut client = self.client();
        let answer = self.driver.wait(client.create_volume(asked))?;
        Ok(answer.into_inner().volume.unwrap())
    }

    pub(crate) fn delete(&self, id: &str) -> Result<(), Status> {
        let (volume_id, secrets) = (id.to_owned(), self.secrets());
        let mut client = self.client();
        self.driver.wait(client.delete_volume(DeleteVolumeRequest { volume_id, secrets }))?;
        Ok(())
    }

    pub(crate) fn expand(&self, id: &str, to: Option<i64>) -> Result<i64, Status> {
        let range = |required_bytes| CapacityRange { required_bytes, limit_bytes: 0 };
        let asked = ControllerExpandVolumeRequest {
            volume_id: id.to_owned(),
            capacity_range: to.map(range),
            secrets: self.secrets(),
            ..ControllerExpandVolumeRequest::default()
        };
        let mut client = self.client();
        let answer = self.driver.wait(client.controller_expand_volume(asked))?.into_inner();
        assert!(!answer.node_expansion_required);
        Ok(answer.capacity_bytes)
    }

    fn validate(&self, id: &str, modes: &[Mode]) -> Result<usize, Status> {
        let asked = ValidateVolumeCapabilitiesRequest {
            volume_id: id.to_owned(),
            volume_capabilities: modes.iter().map(|mode| capability(*mode)).collect(),
            secrets: self.secrets(),
            ..ValidateVolumeCapabilitiesRequest::default()
        };
        let mut client = self.client();
        let answer = self.driver.wait(client.validate_volume_capabilities(asked))?.into_inner();
        Ok(answer.confirmed.map_or(0, |confirmed| confirmed.volume_capabilities.len()))
    }
}

fn in_a_bucket() -> Suite {
    Suite::new("controller", &[("bucket", BUCKET)])
}

#[test]
fn every_field_that_is_missing_is_named() {
    type Change = fn(&mut CreateVolumeRequest);
    let suite = in_a_bucket();
    let wrong: [(&str, Change); 9] = [
        ("name", |call| call.name.clear()),
        ("name", |call| call.name = "x".repeat(129)),
        ("volume_capabilities", |call| call.volume_capabilities.clear()),
        ("volume_capabilities", |call| call.volume_capabilities[0].access_type = None),
        ("volume_capabilities", |call| call.volume_capabilities[0].access_mode = None),
        ("volume_capabilities", |call| {
            call.volume_capabilities = CONTRADICTION.map(capability).to_vec();
        }),
        ("capacity_range", |call| {
            call.capacity_range = Some(CapacityRange { required_bytes: -1, limit_bytes: 0 });
        }),
        ("capacity_range", |call| {
            call.capacity_range = Some(CapacityRange { required_bytes: 2, limit_bytes: 1 });
        }),
        ("volume_content_source", |call| {
            call.volume_content_source = Some(VolumeContentSource::default());
        }),
    ];
    for (field, change) in wrong {
        let mut call = suite.asked("pvc-1");
        change(&mut call);
        let (code, said) = refusal(suite.create(call));
        assert_eq!(code, Code::InvalidArgument, "{field}: {said}");
        assert!(said.starts_with(field), "{field}: {said}");
    }
    let volume = suite.create(suite.asked("pvc-1")).unwrap();
    assert_eq!(suite.validate(&volume.volume_id, &CONTRADICTION).unwrap(), 0, "not confirmed");
    let none: &[Mode] = &[];
    for (code, said) in [
        refusal(suite.delete("")),
        refusal(suite.expand("", Some(SIZE))),
        refusal(suite.expand(&volume.volume_id, None)),
        refusal(suite.validate("", &[Mode::SingleNodeWriter])),
        refusal(suite.validate(&volume.volume_id, none)),
    ] {
        assert_eq!(code, Code::InvalidArgument, "{said}");
        assert!(said.contains("missing"), "{said}");
    }
    for unknown in ["fake-vol-id", "fake-vol-id-0123456789"] {
        assert_eq!(refusal(suite.validate(unknown, &[Mode::SingleNodeWriter])).0, Code::NotFound);
        assert_eq!(refusal(suite.expand(unknown, Some(SIZE))).0, Code::NotFound);
        suite.delete(unknown).unwrap();
    }
}

#[test]
fn every_call_may_come_ten_times_under_the_longest_name() {
    for parameters in [&[("bucket", BUCKET)][..], &[]] {
        let suite = Suite::new("controller", parameters);
        let name = "n".repeat(128);
        let volume = suite.create(suite.asked(&name)).unwrap();
        assert_eq!(volume.capacity_bytes, SIZE);
        assert!(volume.volume_id.len() <= 128, "{}", volume.volume_id);
        for _ in 0..10 {
            assert_eq!(suite.create(suite.asked(&name)).unwrap(), volume);
            let both = [Mode::SingleNodeWriter, Mode::MultiNodeMultiWriter];
            assert_eq!(suite.validate(&volume.volume_id, &both).unwrap(), 2);
        }
        for _ in 0..10 {
            let grown = suite.expand(&volume.volume_id, Some(SIZE + GIB)).unwrap();
            assert_eq!(grown, SIZE + GIB, "what was asked for, to the byte");
        }
        for _ in 0..10 {
            suite.delete(&volume.volume_id).unwrap();
        }
        assert_eq!(refusal(suite.expand(&volume.volume_id, Some(SIZE))).0, Code::NotFound);
        suite.create(suite.asked(&name)).unwrap();
    }
}

#[test]
fn one_name_with_two_sizes_is_two_volumes_that_cannot_be() {
    let suite = in_a_bucket();
    let of = |bytes: i64| CreateVolumeRequest {
        capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: bytes }),
        ..suite.asked("twice")
    };
    assert_eq!(suite.create(of(SIZE)).unwrap().capacity_bytes, SIZE);
    let (code, said) = refusal(suite.create(of(2 * SIZE)));
    assert_eq!(code, Code::AlreadyExists, "{said}");
    let other = CreateVolumeRequest { name: "other".to_owned(), ..of(2 * SIZE) };
    assert_eq!(suite.create(other).unwrap().capacity_bytes, 2 * SIZE);
}

#[test]
fn many_volumes_are_made_and_removed_at_once() {
    const COUNT: usize = 50;
    let suite = in_a_bucket();
    let made = join_all((0..COUNT).map(|number| {
        let (mut client, asked) = (suite.client(), suite.asked(&format!("pvc-{number}")));
        async move { client.create_volume(asked).await }
    }));
    let made = suite.driver.wait(made).into_iter();
    let ids: Vec<String> =
        made.map(|answer| answer.unwrap().into_inner().volume.unwrap().volume_id).collect();
    let different: std::collections::HashSet<&String> = ids.iter().collect();
    assert_eq!(different.len(), COUNT);
    let removed = join_all(ids.iter().map(|id| {
        let (volume_id, secrets) = (id.clone(), suite.secrets());
        let mut client = suite.client();
        async move { client.delete_volume(DeleteVolumeRequest { volume_id, secrets }).await }
    }));
    for answer in suite.driver.wait(removed) {
        answer.unwrap();
    }
    let left: Vec<String> = suite.store.bucket(BUCKET).keys();
    assert!(!left.iter().any(|key| key.starts_with(".s3pod/volumes/")), "{left:?}");
}

#[test]
fn who_it_is_and_what_it_can_is_answered_as_often_as_it_is_asked() {
    let suite = in_a_bucket();
    let mut identity = suite.driver.identity();
    let mut client = suite.client();
    for _ in 0..10 {
        let info = suite.driver.wait(identity.get_plugin_info(GetPluginInfoRequest {}));
        assert_eq!(info.unwrap().into_inner().name, "csi.s3pod");
        let asked = identity.get_plugin_capabilities(GetPluginCapabilitiesRequest {});
        assert_eq!(suite.driver.wait(asked).unwrap().into_inner().capabilities.len(), 2);
        let probe = suite.driver.wait(identity.probe(ProbeRequest {})).unwrap().into_inner();
        assert_eq!(probe.ready, Some(true));
        let asked = client.controller_get_capabilities(ControllerGetCapabilitiesRequest {});
        let said = suite.driver.wait(asked).unwrap().into_inner().capabilities;
        assert_eq!(said.len(), 3);
    }
}
