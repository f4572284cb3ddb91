//! Volumes on the testkit's server: what each call answers, and what is in the bucket then.

use s3pod::store::Properties;
use s3pod_testkit::{Fault, Op, ServerOptions, TestServer};

use super::*;

mod elsewhere;
mod rivals;

const BUCKET: &str = "data";

/// As the provisioner calls volumes.
const UUID: &str = "pvc-3f0c9a52-7d1e-4b6a-9c55-0a1b2c3d4e5f";

/// A server, and a provisioner whose Secret leads there.
struct Lab {
    server: TestServer,
    provisioner: Provisioner,
    secrets: HashMap<String, String>,
}

/// A claim's call, field by field.
#[derive(Clone)]
struct Call {
    name: String,
    range: Range,
    capabilities: Vec<Capability>,
    parameters: HashMap<String, String>,
    has_source: bool,
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn capability(mode: AccessMode) -> Capability {
    Capability { is_block: false, has_type: true, mode: mode as i32, mount_flags: Vec::new() }
}

/// The claim `team-a/NAME`, in the class that gives each claim its own prefix.
fn claim(name: &str, volume: &str) -> Call {
    Call {
        name: volume.to_owned(),
        range: Range { required: 1 << 30, limit: 0 },
        capabilities: vec![capability(AccessMode::MultiNodeMultiWriter)],
        parameters: map(&[
            ("bucket", BUCKET),
            ("pathPattern", "${pvc.namespace}/${pvc.name}"),
            ("metadataTtl", "5m"),
            ("csi.storage.k8s.io/pvc/namespace", "team-a"),
            ("csi.storage.k8s.io/pvc/name", name),
            ("csi.storage.k8s.io/pv/name", volume),
        ]),
        has_source: false,
    }
}

impl Call {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.parameters.insert(name.to_owned(), value.to_owned());
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.parameters.remove(name);
        self
    }
}

impl Lab {
    async fn new() -> Self {
        let server = TestServer::start(ServerOptions::with_bucket(BUCKET)).await.unwrap();
        let endpoint = server.endpoint();
        let secrets = map(&[
            ("accessKeyId", server.access_key()),
            ("secretAccessKey", server.secret_key()),
            ("endpointUrl", &endpoint),
            ("region", server.region()),
        ]);
        Self { server, provisioner: Provisioner::default(), secrets }
    }

    /// The process ends and begins anew.
    fn restart(&mut self) {
        self.provisioner = Provisioner::default();
    }

    async fn create(&self, call: &Call) -> Result<Volume, Refusal> {
        self.create_by(&self.provisioner, call).await
    }

    async fn create_by(&self, who: &Provisioner, call: &Call) -> Result<Volume, Refusal> {
        let asked = Create {
            name: &call.name,
            range: call.range,
            capabilities: &call.capabilities,
            parameters: &call.parameters,
            secrets: &self.secrets,
            has_source: call.has_source,
        };
        who.create(&asked).await
    }

    async fn delete(&self, id: &str) -> Result<(), Refusal> {
        self.provisioner.delete(id, &self.secrets).await
    }

    /// As the provisioner does: again, while it is told to.
    async fn delete_to_the_end(&self, id: &str) {
        while let Err(refusal) = self.delete(id).await {
            assert_eq!(refusal.code, Code::Aborted, "{refusal}");
        }
    }

    async fn has_bucket(&self, id: &str) -> bool {
        let id = VolumeId::read(id).unwrap();
        let bucket = self.provisioner.bucket_of(&id, &self.secrets).await.unwrap();
        bucket.bare.probe("").await.is_ok()
    }

    /// An upload that somebody begins in the bucket of a volume and never ends.
    async fn begin_upload(&self, id: &str, key: &str) {
        let id = VolumeId::read(id).unwrap();
        let bucket = self.provisioner.bucket_of(&id, &self.secrets).await.unwrap();
        bucket.store.create_upload(&key.into(), &Properties::default()).await.unwrap();
    }

    fn put(&self, keys: &[&str]) {
        keys.iter().for_each(|key| drop(self.server.bucket(BUCKET).put(key, key.to_string())));
    }

    fn keys(&self) -> Vec<String> {
        let keys = self.server.bucket(BUCKET).keys();
        keys.into_iter().filter(|key| !key.starts_with(".s3pod/")).collect()
    }

    fn markers(&self) -> usize {
        let keys = self.server.bucket(BUCKET).keys();
        keys.iter().filter(|key| key.starts_with(".s3pod/volumes/")).count()
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>, code: Code, words: &[&str]) {
    let refusal = result.unwrap_err();
    assert_eq!(refusal.code, code, "{refusal}");
    for word in words {
        assert!(refusal.message.contains(word), "{word}: {refusal}");
    }
}

#[tokio::test]
async fn a_claim_gets_a_prefix_and_the_mount_is_told_where_it_is() {
    let lab = Lab::new().await;
    let volume = lab.create(&claim("web", "pvc-1")).await.unwrap();
    assert_eq!(volume.capacity, 1 << 30);
    let id = VolumeId::read(&volume.id).unwrap();
    assert_eq!((id.store, id.bucket.as_str()), (None, BUCKET));
    assert_eq!(
        volume.context,
        map(&[
            ("bucket", BUCKET),
            ("prefix", "team-a/web"),
            ("metadataTtl", "5m"),
            ("endpointUrl", &lab.server.endpoint()),
            ("region", lab.server.region()),
        ])
    );
    assert_eq!(lab.markers(), 1);
    for _ in 0..10 {
        assert_eq!(lab.create(&claim("web", "pvc-1")).await.as_ref(), Ok(&volume));
    }
    assert_eq!(lab.markers(), 1);
}

#[tokio::test]
async fn a_volume_with_a_bucket_of_its_own_takes_it_along() {
    let lab = Lab::new().await;
    let call = claim("web", "pvc-7e57").without("bucket").without("pathPattern");
    let volume = lab.create(&call).await.unwrap();
    assert_eq!(volume.context["bucket"], "pvc-7e57");
    assert_eq!(volume.context.get("prefix"), None);
    assert_eq!(lab.create(&call).await.as_ref(), Ok(&volume));
    lab.server.bucket("pvc-7e57").put("a", "a");
    lab.delete_to_the_end(&volume.id).await;
    let again = lab.delete(&volume.id).await;
    assert_eq!(again, Ok(()));
    assert!(!lab.has_bucket(&volume.id).await);
    let long = "x".repeat(128);
    let volume = lab.create(&Call { name: long.clone(), ..call }).await.unwrap();
    assert!(volume.id.len() <= 128, "{}", volume.id);
    assert!(volume.context["bucket"].starts_with("s3pod-"), "{:?}", volume.context);
    let volume = lab.create(&Call { name: long, ..claim("other", "pvc-2") }).await.unwrap();
    assert!(volume.id.len() <= 128, "{}", volume.id);
}

#[tokio::test]
async fn a_bucket_that_somebody_uses_is_nobodys_volume() {
    let lab = Lab::new().await;
    let call = Call { name: UUID.to_owned(), ..claim("web", "x") };
    let call = call.without("bucket").without("pathPattern");
    let fault = lab.server.faults().add(Fault::status(403, "AccessDenied").on(Op::Put).always());
    refused(lab.create(&call).await, Code::PermissionDenied, &["PutObject"]);
    fault.remove();
    lab.server.bucket(UUID).put("precious", "1");
    refused(lab.create(&call).await, Code::FailedPrecondition, &["precious", UUID]);
    let hash = Hash::of(UUID);
    let id = VolumeId { store: None, bucket: UUID.to_owned(), hash }.to_string();
    assert_eq!(lab.delete(&id).await, Ok(()));
    let left = lab.server.bucket(UUID).keys();
    assert_eq!(left, ["precious"], "the refused volume left nothing");
}

#[tokio::test]
async fn an_empty_bucket_of_somebody_else_is_neither_taken_nor_removed() {
    let lab = Lab::new().await;
    let call = Call { name: BUCKET.to_owned(), ..claim("web", "x") };
    let call = call.without("bucket").without("pathPattern");
    let words = ["parameters.bucket", BUCKET, "was not made for it"];
    refused(lab.create(&call).await, Code::FailedPrecondition, &words);
    let hash = Hash::of(BUCKET);
    let id = VolumeId { store: None, bucket: BUCKET.to_owned(), hash }.to_string();
    assert_eq!(lab.delete(&id).await, Ok(()));
    assert!(lab.has_bucket(&id).await);
}

#[tokio::test]
async fn a_bucket_that_was_made_and_got_no_marker_is_the_next_calls() {
    let mut lab = Lab::new().await;
    for name in [UUID, "Not_A_Bucket"] {
        let call = Call { name: name.to_owned(), ..claim("web", "x") };
        let call = call.without("bucket").without("pathPattern");
        let fault =
            lab.server.faults().add(Fault::status(403, "AccessDenied").on(Op::Put).always());
        refused(lab.create(&call).await, Code::PermissionDenied, &["PutObject"]);
        fault.remove();
        lab.restart();
        let volume = lab.create(&call).await.unwrap();
        assert_eq!(lab.create(&call).await.as_ref(), Ok(&volume));
        lab.delete_to_the_end(&volume.id).await;
        assert!(!lab.has_bucket(&volume.id).await);
    }
    for other in
        ["pvc-1", "s3pod-cafe", "3f0c9a52-7d1e-4b6a-9c55", "my-data-2024-0101-0000-backups"]
    {
        assert!(!is_own_name(other), "{other}");
    }
}

#[tokio::test]
async fn a_marker_that_was_copied_is_no_licence_to_delete() {
    let lab = Lab::new().await;
    let volume = lab.create(&claim("web", "pvc-1")).await.unwrap();
    lab.put(&["team-a/web/a"]);
    let bucket = lab.server.bucket(BUCKET);
    let marker = bucket.get(&VolumeId::read(&volume.id).unwrap().marker()).unwrap();
    let copy = VolumeId { hash: Hash::of("other"), ..VolumeId::read(&volume.id).unwrap() };
    bucket.put(&copy.marker(), marker);
    let said = lab.delete(&copy.to_string()).await;
    refused(said, Code::FailedPrecondition, &["marker", "another volume"]);
    assert_eq!(lab.keys(), ["team-a/web/a"]);
    assert_eq!(lab.markers(), 2);
}

#[tokio::test]
async fn the_same_name_with_another_wish_is_another_volume() {
    let lab = Lab::new().await;
    lab.create(&claim("web", "pvc-1")).await.unwrap();
    let mut larger = claim("web", "pvc-1");
    larger.range = Range { required: 2 << 30, limit: 2 << 30 };
    refused(lab.create(&larger).await, Code::AlreadyExists, &["1073741824 bytes"]);
    let mut smaller = claim("web", "pvc-1");
    smaller.range = Range { required: 1, limit: 2 << 30 };
    assert_eq!(lab.create(&smaller).await.unwrap().capacity, 1 << 30);
    let other = claim("other", "pvc-1");
    refused(lab.create(&other).await, Code::AlreadyExists, &["team-a/web/"]);
    let other = claim("web", "pvc-1").with("onDelete", "retain");
    refused(lab.create(&other).await, Code::AlreadyExists, &["onDelete"]);
}

#[tokio::test]
async fn no_volume_is_where_another_is() {
    let lab = Lab::new().await;
    lab.create(&claim("web", "pvc-1")).await.unwrap();
    for (pattern, words) in [
        ("${pvc.namespace}/web", "is the place"),
        ("${pvc.namespace}/web/inner", "is inside the place"),
        ("${pvc.namespace}", "holds the place"),
    ] {
        let call = claim("other", "pvc-2").with("pathPattern", pattern);
        let words = [words, "PersistentVolumeClaim team-a/web", "pathPattern"];
        refused(lab.create(&call).await, Code::FailedPrecondition, &words);
    }
    assert_eq!(lab.markers(), 1);
    lab.put(&["team-b/old"]);
    let call = claim("other", "pvc-2").with("pathPattern", "team-b");
    refused(lab.create(&call).await, Code::FailedPrecondition, &["team-b/old", "by hand"]);
    lab.create(&claim("web2", "pvc-2")).await.unwrap();
}

#[tokio::test]
async fn a_deleted_volume_takes_its_objects_and_nobody_elses() {
    let lab = Lab::new().await;
    let volume = lab.create(&claim("web", "pvc-1")).await.unwrap();
    lab.create(&claim("web-2", "pvc-2")).await.unwrap();
    lab.put(&["team-a/web/", "team-a/web/a", "team-a/web/b/c", "team-a/web-2/x", "z"]);
    lab.delete_to_the_end(&volume.id).await;
    assert_eq!(lab.keys(), ["team-a/web-2/x", "z"]);
    assert_eq!(lab.markers(), 1);
    for _ in 0..10 {
        assert_eq!(lab.delete(&volume.id).await, Ok(()));
    }
    assert_eq!(lab.keys(), ["team-a/web-2/x", "z"]);
    lab.create(&claim("web", "pvc-3")).await.unwrap();
}

#[tokio::test]
async fn a_removed_volume_leaves_no_unfinished_upload_and_its_bucket_no_version() {
    let lab = Lab::new().await;
    let volume = lab.create(&claim("web", "pvc-1")).await.unwrap();
    lab.begin_upload(&volume.id, "team-a/web/half").await;
    lab.begin_upload(&volume.id, "team-a/other/half").await;
    lab.delete_to_the_end(&volume.id).await;
    let left = lab.server.bucket(BUCKET).uploads();
    assert_eq!(left.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), ["team-a/other/half"]);
    let call = claim("web", "pvc-7e57").without("bucket").without("pathPattern");
    let volume = lab.create(&call).await.unwrap();
    let bucket = lab.server.bucket("pvc-7e57");
    bucket.enable_versioning();
    for n in 0..1100 {
        bucket.put(&format!("a/{n}"), "1");
    }
    bucket.put("a/7", "2");
    bucket.delete("a/8");
    lab.begin_upload(&volume.id, "half").await;
    lab.delete_to_the_end(&volume.id).await;
    assert!(!lab.has_bucket(&volume.id).await);
}

#[tokio::test]
async fn where_versions_are_kept_a_deleted_volume_keeps_them() {
    let lab = Lab::new().await;
    lab.server.bucket(BUCKET).enable_versioning();
    let volume = lab.create(&claim("web", "pvc-1")).await.unwrap();
    lab.put(&["team-a/web/a"]);
    lab.delete_to_the_end(&volume.id).await;
    assert_eq!(lab.keys(), Vec::<String>::new());
    let kept = lab.server.bucket(BUCKET).versions("team-a/web/a");
    assert_eq!(kept.iter().map(|(_, is_marker)| *is_marker).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn what_is_retained_waits_for_the_same_claim_alone() {
    let lab = Lab::new().await;
    let retained = |name: &str, volume: &str| claim(name, volume).with("onDelete", "retain");
    let volume = lab.create(&retained("web", "pvc-1")).await.unwrap();
    lab.put(&["team-a/web/a"]);
    for _ in 0..3 {
        assert_eq!(lab.delete(&volume.id).await, Ok(()));
    }
    assert_eq!(lab.keys(), ["team-a/web/a"]);
    let thief = retained("other", "pvc-2").with("pathPattern", "team-a/web");
    refused(lab.create(&thief).await, Code::FailedPrecondition, &["team-a/web (volume pvc-1)"]);
    let heir = lab.create(&retained("web", "pvc-3")).await.unwrap();
    assert_ne!(heir.id, volume.id);
    assert_eq!(lab.markers(), 1, "the marker of the former volume went");
    assert_eq!(lab.delete(&volume.id).await, Ok(()));
    assert_eq!(lab.keys(), ["team-a/web/a"]);
}

#[tokio::test]
async fn what_is_archived_is_moved_aside_whole() {
    let lab = Lab::new().await;
    let call = claim("web", "pvc-1").with("onDelete", "archive").with("prefix", "volumes");
    let volume = lab.create(&call).await.unwrap();
    lab.put(&["volumes/team-a/web/a", "volumes/team-a/web/b/c", "other"]);
    lab.delete_to_the_end(&volume.id).await;
    let moved = "volumes/archived-team-a-web-pvc-1";
    assert_eq!(lab.keys(), ["other".to_owned(), format!("{moved}/a"), format!("{moved}/b/c")]);
    let body = lab.server.bucket(BUCKET).get(&format!("{moved}/a")).unwrap();
    assert_eq!(body, "volumes/team-a/web/a", "the bytes are those of the object");
    assert_eq!(lab.markers(), 0);
    let whole = claim("web", "pvc-whole").without("bucket").without("pathPattern");
    let volume = lab.create(&whole.with("archiveOnDelete", "true")).await.unwrap();
    lab.server.bucket("pvc-whole").put("a", "a");
    lab.delete_to_the_end(&volume.id).await;
    assert_eq!(lab.delete(&volume.id).await, Ok(()));
    let keys = lab.server.bucket("pvc-whole").keys();
    assert_eq!(keys, ["archived-team-a-web-pvc-whole/a"], "the bucket stays for what is in it");
}

#[tokio::test]
async fn a_removal_that_was_cut_off_goes_on_where_it_stopped() {
    let mut lab = Lab::new().await;
    for on_delete in ["delete", "archive"] {
        let volume =
            lab.create(&claim("web", on_delete).with("onDelete", on_delete)).await.unwrap();
        let names: Vec<String> = (0..2_500).map(|n| format!("team-a/web/{n:05}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        lab.put(&names);
        // The second page cannot be deleted.
        let fault = Fault::status(403, "AccessDenied").on(Op::DeleteMany).skip(1);
        let fault = lab.server.faults().add(fault.always());
        refused(lab.delete(&volume.id).await, Code::PermissionDenied, &["DeleteObjects"]);
        fault.remove();
        lab.restart();
        assert!(lab.keys().iter().any(|key| key == "team-a/web/02499"));
        lab.server.log().clear();
        lab.delete_to_the_end(&volume.id).await;
        assert!(!lab.keys().iter().any(|key| key.starts_with("team-a/web/")));
        assert_eq!(lab.markers(), 0);
        // 1 500 were left, a page at a time.
        assert_eq!(lab.server.log().count(Op::DeleteMany), 2, "{on_delete}");
    }
    let archived = lab.keys().iter().filter(|key| key.contains("archived-")).count();
    assert_eq!(archived, 2_500);
}

#[tokio::test]
async fn whoever_asks_while_a_removal_runs_is_told_so() {
    let lab = Lab::new().await;
    let volume = lab.create(&claim("web", "pvc-1")).await.unwrap();
    lab.put(&["team-a/web/a"]);
    let held = lab.server.faults().hold(Op::DeleteMany, "");
    let (one, other) = tokio::join!(lab.delete(&volume.id), lab.delete(&volume.id));
    refused(one, Code::Aborted, &["removed"]);
    refused(other, Code::Aborted, &["under way"]);
    refused(lab.create(&claim("web", "pvc-1")).await, Code::Aborted, &["being removed"]);
    let grown = lab.provisioner.expand(
        &volume.id,
        Some(Range { required: 2 << 30, limit: 0 }),
        &lab.secrets,
    );
    refused(grown.await, Code::FailedPrecondition, &["removed"]);
    held.release();
    lab.delete_to_the_end(&volume.id).await;
    assert_eq!(lab.keys(), [""; 0]);
}

#[tokio::test]
async fn volumes_that_are_made_at_once_do_not_meet() {
    let lab = Lab::new().await;
    let calls: Vec<Call> =
        (0..20).map(|n| claim(&format!("web-{}", n % 10), &format!("pvc-{n}"))).collect();
    let made = futures::future::join_all(calls.iter().map(|call| lab.create(call))).await;
    let ids: HashSet<String> = made.iter().flatten().map(|volume| volume.id.clone()).collect();
    assert_eq!(ids.len(), 10, "of two claims for one place one gets it");
    for refusal in made.into_iter().filter_map(Result::err) {
        assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal}");
    }
    let same = claim("one", "pvc-one");
    let made = futures::future::join_all((0..10).map(|_| lab.create(&same))).await;
    let (made, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    assert!(!made.is_empty());
    assert!(refused.into_iter().all(|result| result.unwrap_err().code == Code::Aborted));
}

#[tokio::test]
async fn a_volume_that_was_half_made_is_finished_by_the_next_call() {
    let mut lab = Lab::new().await;
    // The marker is written, and then nothing more comes through.
    let fault = Fault::status(403, "AccessDenied").on(Op::List).skip(2);
    let fault = lab.server.faults().add(fault.always());
    refused(lab.create(&claim("web", "pvc-1")).await, Code::PermissionDenied, &["ListObjectsV2"]);
    fault.remove();
    lab.restart();
    let volume = lab.create(&claim("web", "pvc-1")).await.unwrap();
    assert_eq!(lab.markers(), 1);
    lab.delete_to_the_end(&volume.id).await;
    assert_eq!(lab.markers(), 0);
}

#[tokio::test]
async fn a_volume_grows_and_never_shrinks() {
    let lab = Lab::new().await;
    let volume = lab.create(&claim("web", "pvc-1")).await.unwrap();
    let expand = |required: i64, limit: i64| {
        let range = Some(Range { required, limit });
        let (provisioner, id, secrets) = (&lab.provisioner, volume.id.clone(), &lab.secrets);
        async move { provisioner.expand(&id, range, secrets).await }
    };
    for _ in 0..10 {
        assert_eq!(expand(2 << 30, 0).await, Ok(2 << 30));
    }
    assert_eq!(expand(1 << 30, 0).await, Ok(2 << 30));
    refused(expand(0, 1 << 30).await, Code::OutOfRange, &["capacity_range"]);
    refused(expand(-1, 0).await, Code::InvalidArgument, &["capacity_range"]);
    let none = lab.provisioner.expand(&volume.id, None, &lab.secrets).await;
    refused(none, Code::InvalidArgument, &["capacity_range"]);
    let marker = lab.server.bucket(BUCKET).keys().into_iter().find(|key| key.contains("volumes/"));
    let text = lab.server.bucket(BUCKET).get(&marker.unwrap()).unwrap();
    assert!(String::from_utf8_lossy(&text).contains("\"capacity\": 2147483648"), "{text:?}");
}

#[tokio::test]
async fn what_was_never_made_is_unknown_and_gone() {
    let lab = Lab::new().await;
    lab.put(&["a"]);
    let hash = Hash::of("x");
    let of = |bucket: &str| VolumeId { store: None, bucket: bucket.to_owned(), hash }.to_string();
    let capabilities = [capability(AccessMode::SingleNodeWriter)];
    for id in ["pvc-1", "bucket/prefix", &of(BUCKET), &of("no-such-bucket")] {
        assert_eq!(lab.delete(id).await, Ok(()), "{id}");
        let said = lab.provisioner.validate(id, &capabilities, &lab.secrets).await;
        refused(said, Code::NotFound, &[]);
        let range = Some(Range { required: 1, limit: 0 });
        let said = lab.provisioner.expand(id, range, &lab.secrets).await;
        refused(said, Code::NotFound, &[]);
    }
    refused(lab.delete("").await, Code::InvalidArgument, &["volume_id"]);
    let lost = VolumeId { store: Some("lost".to_owned()), bucket: BUCKET.to_owned(), hash };
    refused(lab.delete(&lost.to_string()).await, Code::FailedPrecondition, &["`lost`", "table"]);
    assert_eq!(lab.keys(), ["a"]);
    lab.server.bucket(BUCKET).put(&format!(".s3pod/volumes/{hash}"), "not a marker");
    refused(lab.delete(&of(BUCKET)).await, Code::FailedPrecondition, &["marker"]);
}

#[tokio::test]
async fn a_volume_is_confirmed_for_what_it_can_do() {
    let lab = Lab::new().await;
    let volume = lab.create(&claim("web", "pvc-1")).await.unwrap();
    let validate = async |capabilities: &[Capability]| {
        lab.provisioner.validate(&volume.id, capabilities, &lab.secrets).await
    };
    for mode in 1..=7 {
        let one = Capability { mode, ..capability(AccessMode::SingleNodeWriter) };
        assert_eq!(validate(&[one]).await, Ok(Ok(())));
    }
    let block = Capability { is_block: true, ..capability(AccessMode::SingleNodeWriter) };
    let said = validate(&[block]).await.unwrap().unwrap_err();
    assert!(said.contains("no block device"), "{said}");
    refused(validate(&[]).await, Code::InvalidArgument, &["volume_capabilities"]);
}

#[tokio::test]
async fn a_call_that_cannot_be_is_refused_by_its_field_and_leaves_nothing() {
    let lab = Lab::new().await;
    let good = || claim("web", "pvc-1");
    let with = |change: &dyn Fn(&mut Call)| {
        let mut call = good();
        change(&mut call);
        call
    };
    let calls = [
        (with(&|call| call.name.clear()), "name"),
        (with(&|call| call.name = "x".repeat(129)), "name"),
        (with(&|call| call.name = "a\nb".to_owned()), "name"),
        (with(&|call| call.capabilities.clear()), "volume_capabilities"),
        (with(&|call| call.capabilities[0].is_block = true), "volume_capabilities"),
        (with(&|call| call.capabilities[0].has_type = false), "volume_capabilities"),
        (with(&|call| call.capabilities[0].mode = 0), "volume_capabilities.access_mode.mode"),
        (
            with(&|call| call.capabilities.push(capability(AccessMode::SingleNodeSingleWriter))),
            "volume_capabilities",
        ),
        (with(&|call| call.capabilities[0].mount_flags.push("no".to_owned())), "mountOptions"),
        (with(&|call| call.range.required = -1), "capacity_range"),
        (with(&|call| call.range.limit = 1), "capacity_range"),
        (with(&|call| call.has_source = true), "volume_content_source"),
        (good().with("bucket", "no-such-bucket"), "parameters.bucket"),
        (good().with("store", "minio"), "parameters.store"),
        (good().with("endpointUrl", "http://127.0.0.1:1"), "parameters.endpointUrl"),
        (good().with("pathPattern", "a/../b"), "parameters.pathPattern"),
        (good().with("onDelete", "keep"), "parameters.onDelete"),
    ];
    for (call, field) in calls {
        let refusal = lab.create(&call).await.unwrap_err();
        assert_eq!(refusal.code, Code::InvalidArgument, "{refusal}");
        assert!(refusal.message.starts_with(&format!("{field}: ")), "{field}: {refusal}");
    }
    assert_eq!(lab.markers(), 0);
}

#[tokio::test]
async fn a_secret_without_rights_is_answered_as_such() {
    let mut lab = Lab::new().await;
    lab.secrets.remove("secretAccessKey");
    let said = lab.create(&claim("web", "pvc-1")).await;
    refused(said, Code::Unauthenticated, &["provisioner-secret", "secretAccessKey"]);
    lab.secrets.insert("secretAccessKey".to_owned(), "wrong".to_owned());
    let said = lab.create(&claim("web", "pvc-1")).await;
    let refusal = said.unwrap_err();
    let codes = [Code::Unauthenticated, Code::PermissionDenied];
    assert!(codes.contains(&refusal.code), "{refusal}");
    assert!(!refusal.message.contains("wrong"), "{refusal}");
}
