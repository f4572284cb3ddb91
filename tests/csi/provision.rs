//! Volumes made and removed through the driver's socket, on somebody else's store.
//!
//! Owns what the provisioner and the resizer see of it; every rule of placing and removing has
//! its test beside the code.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use s3pod::naming::Key;
use s3pod::store::s3::{Credentials, S3Settings, S3Store};
use s3pod::store::{
    Condition, GetPin, GetRequest, ListRequest, ObjectStore as _, Payload, Properties, PutRequest,
};
use s3pod_testkit::SeaweedFs;
use s3pod_testkit::csi::controller_client::ControllerClient;
use s3pod_testkit::csi::controller_service_capability::{self, rpc};
use s3pod_testkit::csi::volume_capability::access_mode::Mode;
use s3pod_testkit::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use s3pod_testkit::csi::{
    CapacityRange, ControllerExpandVolumeRequest, ControllerGetCapabilitiesRequest,
    CreateVolumeRequest, DeleteVolumeRequest, ValidateVolumeCapabilitiesRequest, Volume,
    VolumeCapability,
};
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::driver::Driver;

const GIB: i64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(60);

/// A driver in the controller's mode, and a store.
struct Cluster {
    driver: Driver,
    store: SeaweedFs,
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn capability(mode: Mode) -> VolumeCapability {
    let mount = MountVolume::default();
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(mount)),
    }
}

impl Cluster {
    fn new() -> Self {
        let store = SeaweedFs::spawn().unwrap();
        store.create_bucket("data").unwrap();
        Self { driver: Driver::start("controller"), store }
    }

    fn client(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.driver.channel())
    }

    fn secrets(&self) -> HashMap<String, String> {
        map(&[
            ("accessKeyId", self.store.access_key()),
            ("secretAccessKey", self.store.secret_key()),
            ("endpointUrl", &self.store.endpoint()),
            ("region", self.store.region()),
        ])
    }

    /// A claim's call as the external-provisioner makes it.
    fn asked(&self, name: &str, parameters: &[(&str, &str)]) -> CreateVolumeRequest {
        let always = [
            ("csi.storage.k8s.io/pvc/namespace", "team-a"),
            ("csi.storage.k8s.io/pvc/name", "web"),
            ("csi.storage.k8s.io/pv/name", name),
        ];
        let parameters: Vec<(&str, &str)> =
            always.into_iter().chain(parameters.iter().copied()).collect();
        CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(CapacityRange { required_bytes: GIB, limit_bytes: 0 }),
            volume_capabilities: vec![capability(Mode::MultiNodeMultiWriter)],
            parameters: map(&parameters),
            secrets: self.secrets(),
            ..CreateVolumeRequest::default()
        }
    }

    fn create(&self, asked: CreateVolumeRequest) -> Result<Volume, Status> {
        let mut client = self.client();
        let answer = self.driver.wait(client.create_volume(asked))?;
        Ok(answer.into_inner().volume.unwrap())
    }

    fn delete(&self, id: &str) -> Result<(), Status> {
        let (volume_id, secrets) = (id.to_owned(), self.secrets());
        let mut client = self.client();
        self.driver.wait(client.delete_volume(DeleteVolumeRequest { volume_id, secrets }))?;
        Ok(())
    }

    /// As the provisioner does: again, while it is told to.
    fn delete_to_the_end(&self, id: &str) {
        let begin = Instant::now();
        while let Err(status) = self.delete(id) {
            assert_eq!(status.code(), Code::Aborted, "{status}");
            assert!(begin.elapsed() < PATIENCE, "the removal does not end");
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn expand(&self, id: &str, required_bytes: i64) -> Result<i64, Status> {
        let asked = ControllerExpandVolumeRequest {
            volume_id: id.to_owned(),
            capacity_range: Some(CapacityRange { required_bytes, limit_bytes: 0 }),
            secrets: self.secrets(),
            ..ControllerExpandVolumeRequest::default()
        };
        let mut client = self.client();
        let answer = self.driver.wait(client.controller_expand_volume(asked))?.into_inner();
        assert!(!answer.node_expansion_required, "servers find out by themselves");
        Ok(answer.capacity_bytes)
    }

    fn confirms(&self, id: &str, one: VolumeCapability) -> Result<bool, Status> {
        let asked = ValidateVolumeCapabilitiesRequest {
            volume_id: id.to_owned(),
            volume_capabilities: vec![one],
            secrets: self.secrets(),
            ..ValidateVolumeCapabilitiesRequest::default()
        };
        let mut client = self.client();
        let answer = self.driver.wait(client.validate_volume_capabilities(asked))?.into_inner();
        assert_eq!(answer.confirmed.is_none(), !answer.message.is_empty());
        Ok(answer.confirmed.is_some())
    }
}

/// What is in the bucket, by somebody who writes to it: each object holds its own key.
struct Objects {
    runtime: Runtime,
    store: S3Store,
}

impl Objects {
    fn of(cluster: &Cluster) -> Self {
        let runtime = Runtime::new().unwrap();
        let settings = S3Settings {
            endpoint_url: Some(cluster.store.endpoint()),
            region: Some(cluster.store.region().to_owned()),
            force_path_style: true,
            credentials: Some(Credentials {
                access_key_id: cluster.store.access_key().to_owned(),
                secret_access_key: cluster.store.secret_key().to_owned(),
                session_token: None,
            }),
            ..S3Settings::new("data")
        };
        let store = runtime.block_on(S3Store::connect(settings)).unwrap();
        Self { runtime, store }
    }

    fn put(&self, keys: &[String]) {
        let puts = keys.iter().map(|key| async {
            let (properties, condition) = (Properties::default(), Condition::None);
            let request = PutRequest { key: Key::new(key.as_str()), properties, condition };
            let payload = Payload::Bytes(key.clone().into());
            self.store.put(&request, &payload).await.unwrap();
        });
        let puts: Vec<_> = puts.collect();
        let all = futures::stream::iter(puts).buffer_unordered(16).collect::<Vec<()>>();
        self.runtime.block_on(all);
    }

    fn get(&self, key: &str) -> String {
        let request = GetRequest { pin: GetPin::Latest(Key::new(key)), range: None };
        self.runtime.block_on(async {
            let answer = self.store.get(&request).await.unwrap();
            let body: Vec<bytes::Bytes> = answer.body.try_collect().await.unwrap();
            String::from_utf8(body.concat()).unwrap()
        })
    }

    /// The first thousand keys that are nobody's but people's.
    fn keys(&self) -> Vec<String> {
        let page = self.runtime.block_on(self.store.list(&ListRequest::default())).unwrap();
        let keys = page.lines.iter().map(|line| line.key().to_owned());
        keys.filter(|key| !key.starts_with(".s3pod/")).collect()
    }
}

#[test]
fn a_volume_is_made_grown_and_removed() {
    let cluster = Cluster::new();
    let place = [("bucket", "data"), ("pathPattern", "${pvc.namespace}/${pvc.name}")];
    let volume = cluster.create(cluster.asked("pvc-1", &place)).unwrap();
    assert_eq!(volume.capacity_bytes, GIB);
    assert!(volume.volume_id.starts_with("v1/-/data/"), "{}", volume.volume_id);
    assert_eq!(volume.volume_context["prefix"], "team-a/web");
    for _ in 0..10 {
        assert_eq!(cluster.create(cluster.asked("pvc-1", &place)).as_ref().unwrap(), &volume);
    }
    let second = cluster.create(cluster.asked("pvc-2", &place)).unwrap_err();
    assert_eq!(second.code(), Code::FailedPrecondition);
    assert!(second.message().contains("PersistentVolumeClaim team-a/web"), "{second}");
    for _ in 0..10 {
        assert_eq!(cluster.expand(&volume.volume_id, 2 * GIB).unwrap(), 2 * GIB);
    }
    assert!(cluster.confirms(&volume.volume_id, capability(Mode::SingleNodeWriter)).unwrap());
    let block = VolumeCapability {
        access_type: Some(AccessType::Block(BlockVolume {})),
        ..capability(Mode::SingleNodeWriter)
    };
    assert!(!cluster.confirms(&volume.volume_id, block).unwrap());
    cluster.delete_to_the_end(&volume.volume_id);
    for _ in 0..10 {
        assert!(cluster.delete(&volume.volume_id).is_ok());
    }
    let gone = cluster.expand(&volume.volume_id, 4 * GIB).unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[test]
fn what_is_in_a_volume_goes_is_moved_aside_or_waits_for_its_claim() {
    let cluster = Cluster::new();
    let objects = Objects::of(&cluster);
    let place = [("bucket", "data"), ("pathPattern", "${pvc.namespace}/${pvc.name}")];
    let of = |name: &str, on_delete: &str| {
        let class: Vec<(&str, &str)> = place.into_iter().chain([("onDelete", on_delete)]).collect();
        cluster.create(cluster.asked(name, &class)).unwrap()
    };
    // More than a page of a listing, and of a removal.
    let volume = of("pvc-1", "delete");
    let many: Vec<String> = (0..1100).map(|number| format!("team-a/web/{number}")).collect();
    objects.put(&many);
    objects.put(&["team-a/web2/kept".to_owned()]);
    cluster.delete_to_the_end(&volume.volume_id);
    assert_eq!(objects.keys(), ["team-a/web2/kept"]);

    let volume = of("pvc-2", "archive");
    objects.put(&["team-a/web/a".to_owned(), "team-a/web/b/c".to_owned()]);
    cluster.delete_to_the_end(&volume.volume_id);
    let moved = ["archived-team-a-web-pvc-2/a", "archived-team-a-web-pvc-2/b/c"];
    assert_eq!(objects.keys(), [moved[0], moved[1], "team-a/web2/kept"]);
    for (now, before) in moved.into_iter().zip(["team-a/web/a", "team-a/web/b/c"]) {
        assert_eq!(objects.get(now), before, "the bytes are those of the object");
    }

    let volume = of("pvc-3", "retain");
    objects.put(&["team-a/web/a".to_owned()]);
    cluster.delete_to_the_end(&volume.volume_id);
    assert_eq!(objects.get("team-a/web/a"), "team-a/web/a");
    let mut of_another = cluster.asked("pvc-4", &place);
    of_another.parameters.insert("csi.storage.k8s.io/pvc/name".into(), "other".into());
    of_another.parameters.insert("pathPattern".into(), "team-a/web".into());
    assert_eq!(cluster.create(of_another).unwrap_err().code(), Code::FailedPrecondition);
    let heir = of("pvc-5", "delete");
    assert_eq!(objects.get("team-a/web/a"), "team-a/web/a", "the claim has what it left");
    cluster.delete_to_the_end(&heir.volume_id);
    assert_eq!(objects.keys(), [moved[0], moved[1], "team-a/web2/kept"]);
}

#[test]
fn a_bucket_of_its_own_comes_and_goes_under_the_longest_name() {
    let cluster = Cluster::new();
    let name = "x".repeat(128);
    let volume = cluster.create(cluster.asked(&name, &[])).unwrap();
    assert!(volume.volume_id.len() <= 128, "{}", volume.volume_id);
    let again = cluster.create(cluster.asked(&name, &[])).unwrap();
    assert_eq!(again, volume);
    let mut larger = cluster.asked(&name, &[]);
    larger.capacity_range = Some(CapacityRange { required_bytes: 2 * GIB, limit_bytes: 0 });
    assert_eq!(cluster.create(larger).unwrap_err().code(), Code::AlreadyExists);
    cluster.delete_to_the_end(&volume.volume_id);
    assert!(cluster.delete(&volume.volume_id).is_ok());
}

#[test]
fn a_call_that_cannot_be_is_refused_on_the_wire() {
    let cluster = Cluster::new();
    let nameless = cluster.asked("", &[]);
    let mut without_capabilities = cluster.asked("pvc-1", &[]);
    without_capabilities.volume_capabilities.clear();
    let mut without_mode = cluster.asked("pvc-1", &[]);
    without_mode.volume_capabilities[0].access_mode = None;
    let unknown = cluster.asked("pvc-1", &[("buket", "data")]);
    for (asked, field) in [
        (nameless, "name: "),
        (without_capabilities, "volume_capabilities: "),
        (without_mode, "volume_capabilities.access_mode.mode: "),
        (unknown, "parameters.buket: "),
    ] {
        let status = cluster.create(asked).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().starts_with(field), "{status}");
        assert!(status.details().is_empty());
    }
    let mut keyless = cluster.asked("pvc-1", &[]);
    keyless.secrets.remove("secretAccessKey");
    assert_eq!(cluster.create(keyless).unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(cluster.delete("").unwrap_err().code(), Code::InvalidArgument);
    assert!(cluster.delete("some-volume").is_ok());
    let one = capability(Mode::SingleNodeWriter);
    assert_eq!(cluster.confirms("some-volume", one).unwrap_err().code(), Code::NotFound);
    let mut client = cluster.client();
    let asked = client.controller_get_capabilities(ControllerGetCapabilitiesRequest {});
    let said = cluster.driver.wait(asked).unwrap().into_inner().capabilities;
    let kinds = said.into_iter().filter_map(|one| match one.r#type? {
        controller_service_capability::Type::Rpc(rpc) => Some(rpc.r#type()),
    });
    let kinds: Vec<rpc::Type> = kinds.collect();
    let all =
        [rpc::Type::CreateDeleteVolume, rpc::Type::ExpandVolume, rpc::Type::SingleNodeMultiWriter];
    assert_eq!(kinds, all);
}
