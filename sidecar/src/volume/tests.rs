//! What calls become, as tables.

use super::refusal::Code;
use super::*;

/// A call that can be changed field by field.
#[derive(Clone)]
struct Call {
    volume_id: String,
    context: HashMap<String, String>,
    secrets: HashMap<String, String>,
    mount_flags: Vec<String>,
    mount_group: String,
    access_mode: i32,
    read_only: bool,
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const TOKENS: &str = r#"{"sts.amazonaws.com": {"token": "t0k3n", "expirationTimestamp": "x"}}"#;

/// A pod's PersistentVolume with a Secret.
fn call() -> Call {
    Call {
        volume_id: "photos".to_owned(),
        context: map(&[
            ("bucket", "photos"),
            ("csi.storage.k8s.io/pod.name", "web-0"),
            ("csi.storage.k8s.io/pod.namespace", "team-a"),
            ("csi.storage.k8s.io/pod.uid", "u-1"),
            ("csi.storage.k8s.io/serviceAccount.name", "web"),
            ("csi.storage.k8s.io/ephemeral", "false"),
            ("storage.kubernetes.io/csiProvisionerIdentity", "x"),
        ]),
        secrets: map(&[("accessKeyId", "AKIA"), ("secretAccessKey", "s3cr3t")]),
        mount_flags: Vec::new(),
        mount_group: String::new(),
        access_mode: AccessMode::MultiNodeMultiWriter as i32,
        read_only: false,
    }
}

impl Call {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.context.insert(name.to_owned(), value.to_owned());
        self
    }

    fn inline(self) -> Self {
        self.with("csi.storage.k8s.io/ephemeral", "true")
    }

    /// Served by the pod's own sidecar.
    fn of_sidecar(mut self) -> Self {
        self.secrets.clear();
        self.with("server", "sidecar")
    }

    fn of_pod(mut self) -> Self {
        self.secrets.clear();
        self.with("roleArn", "arn:aws:iam::123456789012:role/web")
            .with("csi.storage.k8s.io/serviceAccount.tokens", TOKENS)
    }

    fn flags(mut self, flags: &[&str]) -> Self {
        self.mount_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self
    }

    fn read(&self) -> Result<Published, Refusal> {
        Published::read(&Asked {
            volume_id: &self.volume_id,
            context: &self.context,
            secrets: &self.secrets,
            mount_flags: &self.mount_flags,
            mount_group: &self.mount_group,
            access_mode: self.access_mode,
            read_only: self.read_only,
        })
    }

    fn key(&self) -> String {
        self.read().unwrap().key
    }

    fn options(&self) -> Vec<String> {
        let published = self.read().unwrap();
        let all = published.arguments(Path::new("/v"));
        let all = all.into_iter().filter(|text| text != "-o");
        all.map(|text| text.into_string().unwrap()).collect()
    }

    #[track_caller]
    fn refused(&self, code: Code, words: &[&str]) {
        let refusal = self.read().unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
        for word in words {
            assert!(refusal.message.contains(word), "{word}: {refusal}");
        }
        assert!(!refusal.message.contains("s3cr3t"), "{refusal}");
        assert!(!refusal.message.contains("t0k3n"), "{refusal}");
    }
}

#[test]
fn a_volume_with_a_secret_is_flags_and_a_file() {
    let published = call().read().unwrap();
    assert_eq!(published.bucket, "photos");
    assert_eq!((&published.server, published.is_inline), (&Server::Node, false));
    assert_eq!(published.pod.name, "web-0");
    assert_eq!(published.key.len(), 32);
    let files: Vec<&str> = published.files(Path::new("/v")).iter().map(|file| file.name).collect();
    assert_eq!(files, ["credentials"]);
    assert_eq!(
        call().options(),
        ["dir-mode=0777", "file-mode=0666", "uid=0", "gid=0", "credentials-file=/v/credentials",]
    );
    assert!(!format!("{published:?}").contains("s3cr3t"));
}

#[test]
fn every_flag_is_one_that_s3pod_takes() {
    let call = call()
        .with("noProxy", "a,b")
        .with("prefix", "team \"a\", b\\c")
        .with("forcePathStyle", "false")
        .flags(&["ro,metadata-ttl=5m", "cache-size=1GiB"]);
    let lists = call.options();
    let parsed = s3pod::config::parse_mount_options(lists.iter().map(String::as_str)).unwrap();
    let value = |flag: &str| parsed.iter().find(|(option, _)| option.flag == flag).unwrap();
    assert_eq!(value("no-proxy").1, "a,b");
    assert_eq!(value("prefix").1, "team \"a\", b\\c");
    assert_eq!(value("force-path-style").1, "false");
    assert_eq!(value("read-only").1, "true");
    assert_eq!(value("metadata-ttl").1, "5m");
    assert_eq!(parsed.len(), lists.len());
}

#[test]
fn whoever_says_read_only_is_believed() {
    let mut by_call = call();
    by_call.read_only = true;
    let mut by_mode = call();
    by_mode.access_mode = AccessMode::MultiNodeReaderOnly as i32;
    let by_attribute = call().with("readOnly", "true");
    let by_flag = call().flags(&["ro"]);
    for call in [by_call.clone(), by_mode, by_attribute, by_flag] {
        assert!(call.read().unwrap().read_only);
        assert!(call.options().contains(&"read-only=true".to_owned()));
    }
    by_call.mount_flags = vec!["rw".to_owned()];
    assert!(by_call.read().unwrap().read_only, "`rw` gives nobody what was not given");
    assert!(!call().with("readOnly", "false").read().unwrap().read_only);
}

#[test]
fn a_group_owns_what_nobody_was_named_for() {
    let mut grouped = call();
    grouped.mount_group = "2000".to_owned();
    let options = grouped.options();
    for option in ["gid=2000", "dir-mode=2775", "file-mode=0664", "uid=0"] {
        assert!(options.contains(&option.to_owned()), "{options:?}");
    }
    let options = grouped.clone().with("gid", "7").with("fileMode", "0600").options();
    for option in ["gid=7", "dir-mode=2775", "file-mode=0600"] {
        assert!(options.contains(&option.to_owned()), "{options:?}");
    }
    let options = call().with("uid", "1000").options();
    assert!(!options.iter().any(|option| option.starts_with("dir-mode")), "{options:?}");
    grouped.mount_group = "staff".to_owned();
    grouped.refused(Code::InvalidArgument, &["volume_mount_group", "staff"]);
}

#[test]
fn memory_is_for_the_server_to_give() {
    let call = call().with("memoryLimit", "256MiB");
    assert_eq!(call.read().unwrap().memory, Some(256 << 20));
    assert!(!call.options().iter().any(|option| option.starts_with("memory-limit")));
}

#[test]
fn a_pods_own_identity_is_a_token_in_a_file() {
    let by_context = call().of_pod();
    let mut by_secrets = by_context.clone();
    let tokens = by_secrets.context.remove("csi.storage.k8s.io/serviceAccount.tokens").unwrap();
    by_secrets.secrets.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), tokens);
    assert_eq!(by_context.read(), by_secrets.read());
    let files = by_context.read().unwrap().files(Path::new("/v"));
    assert_eq!((files[0].name, files[0].content.expose()), ("token", "t0k3n"));
    assert!(files[1].content.expose().contains("role_session_name = team-a-web-0\n"));
    let minio = call().of_pod().with("stsEndpointUrl", "http://minio:9000");
    let files = minio.read().unwrap().files(Path::new("/v"));
    assert!(files[1].content.expose().contains("endpoint_url = http://minio:9000\n"));
}

#[test]
fn a_secret_says_where_the_store_is_unless_the_volume_does() {
    let mut by_secret = call();
    by_secret.secrets.insert("endpointUrl".to_owned(), "http://minio:9000".to_owned());
    by_secret.secrets.insert("region".to_owned(), "home".to_owned());
    let options = by_secret.options();
    assert!(options.contains(&"endpoint-url=http://minio:9000".to_owned()), "{options:?}");
    assert!(options.contains(&"region=home".to_owned()), "{options:?}");
    let options = by_secret.with("endpointUrl", "http://other:9000").options();
    assert!(options.contains(&"endpoint-url=http://other:9000".to_owned()), "{options:?}");
    let mut with_ca = call();
    let pem = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n";
    with_ca.secrets.insert("ca.crt".to_owned(), pem.to_owned());
    assert!(with_ca.options().contains(&"ca-bundle=/v/ca.crt".to_owned()));
    let by_volume = call().with("caCertificates", pem);
    assert!(by_volume.options().contains(&"ca-bundle=/v/ca.crt".to_owned()));
    call().with("caCertificates", "DER").refused(Code::InvalidArgument, &["caCertificates", "PEM"]);
}

#[test]
fn an_inline_volume_brings_its_own_credentials() {
    assert!(call().inline().read().unwrap().is_inline);
    assert!(call().inline().of_pod().read().is_ok());
    let mut bare = call().inline();
    bare.secrets.clear();
    bare.refused(Code::PermissionDenied, &["nodePublishSecretRef", "noSignRequest"]);
    assert!(bare.clone().with("noSignRequest", "true").read().is_ok());
    let greedy = call().inline().with("mountOptions", "cache-size=1TiB");
    greedy.refused(Code::PermissionDenied, &["volumeAttributes.mountOptions", "cache-size"]);
    call().with("mountOptions", "cache-size=1GiB").read().unwrap();
}

#[test]
fn mounts_are_shared_by_what_was_said_and_not_by_what_is_rotated() {
    let key = call().key();
    let mut rotated = call();
    rotated.secrets.insert("secretAccessKey".to_owned(), "n3w".to_owned());
    rotated.secrets.insert("accessKeyId".to_owned(), "AKIB".to_owned());
    assert_eq!(rotated.key(), key);
    let other_pod = call().with("csi.storage.k8s.io/pod.uid", "u-2");
    assert_eq!(other_pod.key(), key, "pods share a PersistentVolume's mount");
    let mut seen = vec![key];
    let mut changed = call();
    changed.volume_id = "more".to_owned();
    seen.push(changed.key());
    let mut changed = call();
    changed.mount_group = "7".to_owned();
    seen.push(changed.key());
    let mut changed = call();
    changed.read_only = true;
    seen.push(changed.key());
    let mut changed = call();
    changed.secrets.clear();
    seen.push(changed.key());
    seen.push(call().with("prefix", "a").key());
    seen.push(call().flags(&["metadata-ttl=5m"]).key());
    seen.push(call().flags(&["metadata-ttl=6m"]).key());
    seen.push(call().of_pod().key());
    seen.push(call().of_pod().with("csi.storage.k8s.io/pod.uid", "u-2").key());
    seen.push(call().inline().key());
    seen.push(call().inline().with("csi.storage.k8s.io/pod.uid", "u-2").key());
    seen.push(call().of_sidecar().key());
    seen.push(call().of_sidecar().with("csi.storage.k8s.io/pod.uid", "u-2").key());
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count);
    let order = call().flags(&["ro", "metadata-ttl=5m"]).key();
    assert_eq!(call().flags(&["metadata-ttl=5m", "ro"]).key(), order);
}

#[test]
fn a_volume_of_the_controllers_own_is_known_by_its_id() {
    let id = VolumeId { store: None, bucket: "photos".to_owned(), hash: Hash::of("x") };
    let mut own = call();
    own.volume_id = id.to_string();
    assert!(own.options().contains(&format!("capacity-key={}", id.marker())));
    assert_eq!(own.read().unwrap().id, Some(id));
    assert_eq!(call().read().unwrap().id, None);
    own.with("bucket", "other").refused(Code::InvalidArgument, &["volumeAttributes.bucket", "v1/"]);
}

#[test]
fn what_cannot_be_is_refused_by_field_and_with_the_fix() {
    use Code::{InvalidArgument, PermissionDenied, Unauthenticated};
    let without = |name: &str| {
        let mut call = call();
        call.context.remove(name);
        call
    };
    without("bucket").refused(InvalidArgument, &["volumeAttributes.bucket", "missing"]);
    call().with("bucket", "a/b").refused(InvalidArgument, &["volumeAttributes.bucket", "prefix"]);
    for prefix in ["../other", "a/../b", "a//b", "a/."] {
        call().with("prefix", prefix).refused(InvalidArgument, &["volumeAttributes.prefix"]);
    }
    call().with("prefix", ".s3pod/volumes").refused(InvalidArgument, &["volumeAttributes.prefix"]);
    call().with("server", "pod").refused(InvalidArgument, &["volumeAttributes.server", "sidecar"]);
    call().with("cacheDir", "/etc").refused(PermissionDenied, &["volumeAttributes.cacheDir"]);
    call().with("onDelete", "retain").refused(InvalidArgument, &["StorageClass"]);
    call().flags(&["noexec"]).refused(InvalidArgument, &["mountOptions", "noexec"]);
    let mut nameless = call();
    nameless.volume_id.clear();
    nameless.refused(InvalidArgument, &["volume_id"]);
    let mut modeless = call();
    modeless.access_mode = 0;
    modeless.refused(InvalidArgument, &["volume_capability.access_mode.mode"]);
    let mut half = call();
    half.secrets.remove("secretAccessKey");
    half.refused(Unauthenticated, &["nodePublishSecretRef", "secretAccessKey"]);
    let mut without_token = call().of_pod();
    without_token.context.remove("csi.storage.k8s.io/serviceAccount.tokens");
    without_token.refused(Unauthenticated, &["tokenRequests"]);
    call().of_pod().with("roleArn", "admin").refused(InvalidArgument, &["roleArn", "arn:aws"]);
    call().of_pod().with("stsEndpointUrl", "minio").refused(InvalidArgument, &["stsEndpointUrl"]);
    call().with("tokenAudience", "a").refused(InvalidArgument, &["tokenAudience", "roleArn"]);
    let mut both = call().of_pod();
    both.secrets = call().secrets;
    both.refused(InvalidArgument, &["roleArn", "nodePublishSecretRef"]);
    call().with("noSignRequest", "true").refused(InvalidArgument, &["noSignRequest"]);
    for own in [call().inline(), call().of_sidecar(), call().of_pod()] {
        let mut unknown = own;
        unknown.context.remove("csi.storage.k8s.io/pod.uid");
        unknown.refused(InvalidArgument, &["podInfoOnMount"]);
    }
}

#[test]
fn a_volume_with_a_sidecar_tells_the_driver_where_it_listens_and_no_more() {
    let server = |call: Call| call.read().unwrap().server;
    let named = |name: &str| Server::Sidecar(name.to_owned());
    assert_eq!(server(call().of_sidecar()), named("handoff"));
    assert_eq!(server(call().of_sidecar().with("handoff", "one")), named("one"));
    let inline = call().of_sidecar().inline().with("prefix", "in").with("readOnly", "true");
    assert!(inline.read().unwrap().read_only);
    let denied = Code::InvalidArgument;
    let named = |name: &str| call().of_sidecar().with("handoff", name);
    for name in ["", "..", "a/b", "Upper"] {
        named(name).refused(denied, &["volumeAttributes.handoff: "]);
    }
    call().with("handoff", "one").refused(denied, &["volumeAttributes.handoff: ", "sidecar"]);
    let told = call().of_sidecar().with("metadataTtl", "5m");
    told.refused(denied, &["volumeAttributes.metadataTtl: ", "--metadata-ttl"]);
    call().with("server", "sidecar").refused(denied, &["nodePublishSecretRef: ", "container"]);
    let as_pod = call().of_pod().with("server", "sidecar");
    as_pod.refused(denied, &["volumeAttributes.roleArn: ", "container"]);
}
