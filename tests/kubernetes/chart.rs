//! The chart and the kustomize base in `sidecar/deploy/`: valid, alike, and right in what no
//! schema can say.
//!
//! Owns the rules of the driver's own pods, each with the reason it is one. The chart is rendered
//! by Helm's own library, the base by kubectl. Must not know how the driver works.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::documents::{containers, documents, invalid, list, pod, root, said, script, with};

const CHART: &str = "sidecar/deploy/chart";
const BASE: &str = "sidecar/deploy/kustomize/base";

/// The oldest Kubernetes that the chart is for; the newest is the validator's own.
const OLDEST: &str = "1.29";

/// What the base says otherwise than the chart does by itself.
fn values_of_the_base() -> Value {
    json!({
        // There is nobody else to make it.
        "namespace": {"create": true},
        // The base is one for all versions.
        "tokensInSecrets": false,
        // Only Helm has hooks.
        "uninstallCheck": {"enabled": false},
    })
}

/// Everything that can be switched on at once.
fn values_of_everything() -> Value {
    let secret = json!({"name": "${pvc.name}", "namespace": "${pvc.namespace}"});
    let parameters = json!({"bucket": "b", "forcePathStyle": true, "onDelete": "archive"});
    json!({
        "kubeletPath": "/var/lib/k0s/kubelet",
        "imageRegistry": "mirror.example.com",
        "imagePullSecrets": ["pull"],
        "image": {"digest": format!("sha256:{}", "a".repeat(64))},
        "credentials": {"secretName": "s3"},
        "extraCA": {"configMapName": "ca"},
        "proxy": {"url": "http://proxy:3128", "noProxy": ".svc"},
        "stores": {"minio": {"endpointUrl": "http://minio:9000", "region": "us-east-1"}},
        "storageClasses": [
            {"name": "a", "default": true, "secret": secret, "parameters": parameters,
             "mountOptions": ["metadata-ttl=5m"], "annotations": {"team": "x"},
             "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Retain"},
            {"name": "b", "allowVolumeExpansion": false, "secret": {"name": "keys"}},
        ],
        "node": {"seLinuxOptions": {"type": "super_t"}, "podLabels": {"a": "b"},
                 "podAnnotations": {"a": "b"}, "extraEnv": [{"name": "A", "value": "b"}]},
        "server": {"seLinuxOptions": {"type": "spc_t"}, "podLabels": {"a": "b"},
                   "serviceAccountAnnotations": {"eks.amazonaws.com/role-arn": "arn"},
                   "extraEnv": [{"name": "A", "value": "b"}]},
        "controller": {"replicas": 1, "secretNamespaces": ["x", "y"], "tolerations": [
            {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
            "podAnnotations": {"a": "b"}, "serviceAccountAnnotations": {"a": "b"}},
        "namespace": {"create": true},
    })
}

/// Templates by name, as text, and all that they make.
#[derive(Debug)]
struct Rendered {
    texts: BTreeMap<String, String>,
    documents: Vec<Value>,
}

/// The chart with these values on top of its own; or what Helm says against it.
fn render(values: &Value) -> Result<Rendered, String> {
    let text = "
import json, sys, yaml
import helm_python as helm
with helm.Chart.load(sys.argv[1]) as chart:
    values = json.loads(sys.argv[2])
    try:
        chart.validate_schema(values)
        texts = chart.render(values, name='s3pod', namespace='s3pod')
    except helm.HelmError as error:
        print(json.dumps({'error': str(error)}))
        sys.exit()
texts = {path.rsplit('/', 1)[1]: text for path, text in texts.items()}
manifests = [text for name, text in sorted(texts.items()) if name.endswith('.yaml')]
documents = [document for text in manifests for document in yaml.safe_load_all(text) if document]
print(json.dumps({'texts': texts, 'documents': documents}))
";
    let (chart, values) = (root().join(CHART), values.to_string());
    let rendered = script(text, &[chart.as_os_str(), OsStr::new(&values)]);
    if let Some(error) = rendered["error"].as_str() {
        return Err(error.to_owned());
    }
    let texts = serde_json::from_value(rendered["texts"].clone()).unwrap();
    Ok(Rendered { texts, documents: list(&rendered, "documents").to_vec() })
}

fn rendered(values: &Value) -> Vec<Value> {
    render(values).unwrap().documents
}

fn named<'v>(documents: &'v [Value], kind: &str, name: &str) -> &'v Value {
    let is_it = |one: &&Value| one["kind"] == kind && one["metadata"]["name"] == name;
    documents.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn container<'v>(spec: &'v Value, name: &str) -> &'v Value {
    containers(spec).into_iter().find(|one| one["name"] == name).unwrap()
}

/// The folder of the node that a container has at `name`, and where.
fn host_paths<'v>(spec: &'v Value, container: &'v Value) -> Vec<(&'v str, &'v str)> {
    let path_of = |name: &Value| {
        let volume = list(spec, "volumes").iter().find(|volume| volume["name"] == *name);
        volume.and_then(|volume| volume["hostPath"]["path"].as_str())
    };
    let mounts = list(container, "volumeMounts").iter();
    mounts
        .filter_map(|mount| Some((path_of(&mount["name"])?, mount["mountPath"].as_str()?)))
        .collect()
}

/// The value of `--flag=value` among a container's arguments.
fn argument<'v>(container: &'v Value, flag: &str) -> &'v str {
    let arguments = list(container, "args").iter().filter_map(Value::as_str);
    let mut values = arguments.filter_map(|one| one.strip_prefix(flag)?.strip_prefix('='));
    values.next().unwrap_or_else(|| panic!("no {flag} in {container}"))
}

/// What is wrong with what the chart makes, in words.
fn faults(documents: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    for document in documents {
        let Some((metadata, spec)) = pod(document) else { continue };
        let place = document["metadata"]["name"].as_str().unwrap_or_default();
        let mut found = faults_of_pod(metadata, spec);
        for container in containers(spec) {
            found.extend(faults_of_container(spec, container));
        }
        faults.extend(found.into_iter().map(|fault| format!("{place}: {fault}")));
    }
    faults.extend(faults_of_folders(documents));
    for document in documents {
        let is_rights = matches!(document["kind"].as_str(), Some("Role" | "ClusterRole"));
        if is_rights && document.to_string().contains('*') {
            faults.push(format!("{}: a right to everything", document["metadata"]["name"]));
        }
    }
    faults
}

fn faults_of_pod(metadata: &Value, spec: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut wrong = |is_wrong: bool, what: &str| {
        if is_wrong {
            faults.push(what.to_owned());
        }
    };
    let component = metadata["labels"]["app.kubernetes.io/component"].as_str();
    let asks_nobody = matches!(component, Some("node" | "server"));
    wrong(
        asks_nobody && spec["automountServiceAccountToken"] != false,
        "has a token for the API and no use for it",
    );
    let evicted = "cluster-autoscaler.kubernetes.io/enable-ds-eviction";
    wrong(
        asks_nobody && metadata["annotations"][evicted] != "false",
        "the autoscaler evicts it before the pods that need it",
    );
    let is_node = component == Some("node");
    wrong(
        ["hostNetwork", "hostIPC"].iter().any(|what| spec[what] == true)
            || (spec["hostPID"] == true && !is_node),
        "shares a namespace with the node",
    );
    wrong(is_node && spec["hostPID"] != true, "cannot tell a pod's sidecar from a stranger");
    wrong(
        component != Some("node") && spec["securityContext"]["runAsNonRoot"] != true,
        "may run as root",
    );
    wrong(spec["securityContext"]["seccompProfile"]["type"] != "RuntimeDefault", "no seccomp");
    wrong(spec["nodeSelector"]["kubernetes.io/os"] != "linux", "may be put on Windows");
    wrong(spec["priorityClassName"].is_null(), "may be evicted before what depends on it");
    faults
}

fn faults_of_container(spec: &Value, container: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut wrong = |is_wrong: bool, what: &str| {
        if is_wrong {
            faults.push(format!("{}: {what}", container["name"]));
        }
    };
    let (requests, context) = (&container["resources"]["requests"], &container["securityContext"]);
    wrong(
        requests["cpu"].is_null() || requests["memory"].is_null(),
        "requests neither CPU nor memory",
    );
    wrong(context["readOnlyRootFilesystem"] != true, "may write to its image");
    let mounts = list(container, "volumeMounts");
    let is_shared = mounts.iter().any(|mount| mount["mountPropagation"] == "Bidirectional");
    wrong(
        (context["privileged"] == true) != is_shared,
        "privileged for nothing, or Bidirectional without it",
    );
    let is_confined =
        context["allowPrivilegeEscalation"] == false && context["capabilities"]["drop"][0] == "ALL";
    wrong(context["privileged"] != true && !is_confined, "keeps capabilities");
    for (host, _) in host_paths(spec, container).into_iter().filter(|_| !is_shared) {
        // Whoever mounts a folder with mounts below it gets a copy of each, which outlives the
        // unmount.
        let above_mounts = ["/", "/var", "/var/lib"].contains(&host) || host.ends_with("/kubelet");
        wrong(above_mounts || host.ends_with("/state"), "has a copy of every bucket");
    }
    faults
}

/// What driver and server, or driver and kubelet, have to see alike.
fn faults_of_folders(documents: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    let [node, server] =
        ["s3pod-node", "s3pod-server"].map(|name| named(documents, "DaemonSet", name));
    let (node, rest) = (&node["spec"]["template"]["spec"], &server["spec"]["template"]["spec"]);
    let (driver, registrar) = (container(node, "driver"), container(node, "registrar"));
    let [seen, served] = [host_paths(node, driver), host_paths(rest, container(rest, "server"))];
    let prepared = host_paths(node, container(node, "prepare"));
    for pair in &served {
        // The driver finds sockets and cached files there; what is not sent is none of its own.
        let is_seen = seen.contains(pair) != pair.0.ends_with("/journal");
        if !is_seen || !prepared.contains(pair) {
            faults.push(format!("the driver has no {pair:?}, which it prepares for the servers"));
        }
    }
    for flag in ["--socket-dir", "--cache-dir"] {
        let path = argument(container(rest, "server"), flag);
        let is_prepared = list(container(node, "prepare"), "args").iter().any(|one| one == path);
        if !served.contains(&(path, path)) || !is_prepared {
            faults.push(format!("{path} is no folder of the node, or nobody prepares it"));
        }
    }
    let kubelet = argument(driver, "--kubelet-dir");
    if !seen.contains(&(kubelet, kubelet)) {
        faults.push("kubelet's folder has another name in the driver".to_owned());
    }
    for flag in ["--socket-dir", "--cache-dir"] {
        if argument(driver, flag) != argument(container(rest, "server"), flag) {
            faults.push(format!("the driver looks for the servers' {flag} elsewhere"));
        }
    }
    let state = argument(driver, "--state-dir");
    if !state.starts_with(&format!("{kubelet}/plugins/")) {
        faults.push("the mounts are not below kubelet's folder".to_owned());
    }
    let registered = argument(registrar, "--kubelet-registration-path");
    let socket = argument(driver, "--endpoint").trim_start_matches("unix://");
    let is_there = |(host, inside): &(&str, &str)| {
        registered.strip_prefix(host).is_some_and(|rest| socket == format!("{inside}{rest}"))
    };
    if !seen.iter().any(is_there) {
        faults.push(format!("kubelet looks for the socket at {registered}, it is at {socket}"));
    }
    if server["spec"]["updateStrategy"]["type"] != "OnDelete" {
        faults.push("an upgrade would end the mounts of every node".to_owned());
    }
    faults
}

/// The files of the base, made of the templates.
fn base() -> BTreeMap<String, String> {
    let rendered = render(&values_of_the_base()).unwrap();
    let is_helms =
        |line: &str| line.contains("helm.sh/chart:") || line.contains("managed-by: Helm");
    let mut files = BTreeMap::new();
    for (name, text) in rendered.texts {
        let lines = text.lines().filter(|line| !is_helms(line));
        let text = lines.map(|line| format!("{line}\n")).collect::<String>();
        let text = text.trim_start_matches("---\n").trim();
        if name.ends_with(".yaml") && !text.is_empty() {
            files.insert(name, format!("{text}\n"));
        }
    }
    files
}

/// The same documents, whatever their order.
fn sorted(mut documents: Vec<Value>) -> Vec<Value> {
    documents.sort_by_key(|one| format!("{} {}", one["kind"], one["metadata"]["name"]));
    documents
}

fn written(documents: &[Value]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rendered.yaml");
    // The validator knows nothing of OpenShift's kinds.
    let known = documents.iter().filter(|one| one["kind"] != "SecurityContextConstraints");
    let text: String = known.map(|one| format!("---\n{one}\n")).collect();
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn helm_finds_no_fault_with_the_chart() {
    let text = "import json,sys; import helm_python as helm; \
                print(json.dumps(helm.lint(sys.argv[1], strict=True)))";
    let found = script(text, &[root().join(CHART).as_os_str()]);
    // 1 is advice: there is no icon.
    let worse = list(&found, "messages").iter().filter(|one| one["severity"].as_i64() > Some(1));
    assert_eq!(worse.collect::<Vec<_>>(), Vec::<&Value>::new());
}

#[test]
fn what_the_chart_makes_is_valid_in_the_oldest_and_the_newest_kubernetes() {
    for values in [json!({}), values_of_everything(), json!({"openshift": {"enabled": true}})] {
        let newest = rendered(&with(&values, "/tokensInSecrets", json!(true)));
        let oldest = rendered(&with(&values, "/tokensInSecrets", json!(false)));
        assert!(named(&newest, "CSIDriver", "csi.s3pod").to_string().contains("InSecrets"));
        let (_folder, newest) = written(&newest);
        assert_eq!(invalid(&[newest], None), None);
        let (_folder, oldest) = written(&oldest);
        assert_eq!(invalid(&[oldest], Some(OLDEST)), None);
    }
}

#[test]
fn the_drivers_pods_keep_the_rules() {
    for values in [json!({}), values_of_everything(), json!({"openshift": {"enabled": true}})] {
        assert_eq!(faults(&rendered(&values)), Vec::<String>::new(), "{values}");
    }
}

#[test]
fn a_chart_that_breaks_a_rule_is_noticed() {
    let documents = rendered(&json!({}));
    let pod = "/spec/template/spec";
    let first = format!("{pod}/containers/0");
    let broken: [(&str, String, Value); 18] = [
        ("s3pod-server", "/spec/updateStrategy/type".to_owned(), json!("RollingUpdate")),
        ("s3pod-server", format!("{pod}/automountServiceAccountToken"), Value::Null),
        ("s3pod-server", format!("{pod}/securityContext/runAsNonRoot"), Value::Null),
        ("s3pod-server", format!("{first}/securityContext/privileged"), json!(true)),
        ("s3pod-server", format!("{first}/securityContext/capabilities"), Value::Null),
        ("s3pod-server", format!("{pod}/volumes/0/hostPath/path"), json!("/elsewhere")),
        ("s3pod-node", "/spec/template/metadata/annotations".to_owned(), Value::Null),
        ("s3pod-server", format!("{pod}/hostPID"), json!(true)),
        ("s3pod-node", format!("{pod}/hostNetwork"), json!(true)),
        ("s3pod-node", format!("{pod}/hostPID"), Value::Null),
        ("s3pod-node", format!("{pod}/initContainers/0/args/2"), json!("/elsewhere")),
        ("s3pod-node", format!("{pod}/volumes/2/hostPath/path"), json!("/var/lib/kubelet")),
        ("s3pod-node", format!("{first}/securityContext/readOnlyRootFilesystem"), Value::Null),
        ("s3pod-node", format!("{first}/volumeMounts/0/mountPropagation"), Value::Null),
        ("s3pod-node", format!("{first}/resources/requests/cpu"), Value::Null),
        ("s3pod-node", format!("{first}/args/5"), json!("--state-dir=/var/lib/other")),
        ("s3pod-node", format!("{first}/args/6"), json!("--socket-dir=/run/other")),
        (
            "s3pod-node",
            format!("{pod}/containers/1/args/1"),
            json!("--kubelet-registration-path=/var/lib/kubelet/plugins/csi.s3pod/csi.sock"),
        ),
    ];
    for (name, place, value) in broken {
        let break_it = |one: &Value| {
            let is_it = one["kind"] == "DaemonSet" && one["metadata"]["name"] == name;
            if is_it { with(one, &place, value.clone()) } else { one.clone() }
        };
        let documents: Vec<Value> = documents.iter().map(break_it).collect();
        assert!(!faults(&documents).is_empty(), "{name}{place}");
    }
}

#[test]
fn the_driver_is_what_kubelet_needs_it_to_be() {
    let documents = rendered(&json!({}));
    let spec = &named(&documents, "CSIDriver", "csi.s3pod")["spec"];
    // The first three can never be changed on a cluster that has them.
    for (field, value) in [
        ("attachRequired", json!(false)),
        ("volumeLifecycleModes", json!(["Persistent", "Ephemeral"])),
        ("fsGroupPolicy", json!("None")),
        ("podInfoOnMount", json!(true)),
        ("requiresRepublish", json!(true)),
        ("seLinuxMount", json!(false)),
        ("storageCapacity", json!(false)),
    ] {
        assert_eq!(spec[field], value, "{field}");
    }
    assert_eq!(spec["tokenRequests"][0]["audience"], "sts.amazonaws.com");
    let without = rendered(&json!({"tokenRequests": []}));
    let spec = &named(&without, "CSIDriver", "csi.s3pod")["spec"];
    assert!(spec["tokenRequests"].is_null() && spec["serviceAccountTokenInSecrets"].is_null());
}

#[test]
fn an_upgrade_of_the_driver_leaves_the_servers_as_they_are() {
    let changes = json!({"image": {"tag": "9.9.9"}, "node": {"podLabels": {"a": "b"}},
        "controller": {"podAnnotations": {"a": "b"}}});
    let (before, after) = (rendered(&json!({})), rendered(&changes));
    let of = |documents: &[Value], name| named(documents, "DaemonSet", name).clone();
    assert_eq!(of(&before, "s3pod-server"), of(&after, "s3pod-server"));
    assert_ne!(of(&before, "s3pod-node"), of(&after, "s3pod-node"));
    let servers = rendered(&json!({"server": {"image": {"tag": "9.9.9"}}}));
    assert_eq!(of(&before, "s3pod-node"), of(&servers, "s3pod-node"), "nor the other way round");
}

#[test]
fn an_uninstall_is_stopped_by_a_job_that_may_look_and_no_more() {
    let documents = rendered(&json!({"driverName": "s3.example.com"}));
    let hooks: Vec<&Value> = documents
        .iter()
        .filter(|one| one["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete")
        .collect();
    let kinds: Vec<&str> = hooks.iter().filter_map(|one| one["kind"].as_str()).collect();
    assert_eq!(kinds, ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Job"]);
    let weight = |one: &Value| {
        one["metadata"]["annotations"]["helm.sh/hook-weight"].as_str()?.parse::<i32>().ok()
    };
    let (job, before) = hooks.split_last().unwrap();
    assert!(before.iter().all(|one| weight(one) < weight(job)), "rights first");
    let rules = json!([{"apiGroups": [""], "resources": ["pods", "persistentvolumes"],
        "verbs": ["list"]}]);
    assert_eq!(hooks[1]["rules"], rules);
    assert_eq!(hooks[2]["subjects"][0]["name"], hooks[0]["metadata"]["name"]);
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], hooks[0]["metadata"]["name"]);
    assert_eq!((&job["spec"]["backoffLimit"], &pod["restartPolicy"]), (&json!(0), &json!("Never")));
    let arguments = json!(["in-use", "--driver-name=s3.example.com"]);
    assert_eq!(pod["containers"][0]["args"], arguments);
    // One that found pods stays, and names them in its log.
    let kept = &job["metadata"]["annotations"]["helm.sh/hook-delete-policy"];
    assert!(!kept.as_str().unwrap().contains("hook-failed"), "{kept}");
    let without = rendered(&json!({"uninstallCheck": {"enabled": false}}));
    assert!(!without.iter().any(|one| one.to_string().contains("pre-delete")));
}

#[test]
fn openshift_lets_the_servers_do_what_they_need_and_the_driver_alone_be_privileged() {
    let documents = rendered(&json!({"openshift": {"enabled": true}}));
    let own = named(&documents, "SecurityContextConstraints", "s3pod-server");
    for forbidden in [
        "allowPrivilegedContainer",
        "allowPrivilegeEscalation",
        "allowHostPID",
        "allowHostIPC",
        "allowHostNetwork",
        "allowHostPorts",
    ] {
        assert_eq!(own[forbidden], false, "{forbidden}");
    }
    assert_eq!(own["requiredDropCapabilities"], json!(["ALL"]));
    assert_eq!(own["allowHostDirVolumePlugin"], true);
    for (account, constraints) in [("s3pod-server", "s3pod-server"), ("s3pod-node", "privileged")] {
        let name = format!("{account}-scc");
        let rules = &named(&documents, "Role", &name)["rules"];
        assert_eq!(rules[0]["resourceNames"], json!([constraints]));
        let binding = named(&documents, "RoleBinding", &name);
        assert_eq!(binding["subjects"][0]["name"], account);
    }
    let count = |kind: &str| documents.iter().filter(|one| one["kind"] == kind).count();
    assert_eq!(count("SecurityContextConstraints"), 1);
}

#[test]
fn nothing_is_added_to_the_api() {
    let known = [
        "CSIDriver",
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
        "Deployment",
        "Job",
        "Namespace",
        "ResourceQuota",
        "Role",
        "RoleBinding",
        "ServiceAccount",
        "StorageClass",
    ];
    for document in rendered(&values_of_everything()) {
        let kind = document["kind"].as_str().unwrap();
        assert!(known.contains(&kind), "{kind}");
    }
}

#[test]
fn values_that_mean_nothing_are_refused_by_name() {
    let classes = json!([{"name": "a", "default": true}, {"name": "b", "default": true}]);
    for (values, said) in [
        (json!({"kubletPath": "/var/lib/kubelet"}), "kubletPath"),
        (json!({"kubeletPath": "/var/lib/kubelet/"}), "kubeletPath"),
        (json!({"driverName": "csi_s3pod"}), "driverName"),
        (json!({"image": {"digest": "latest"}}), "digest"),
        (json!({"log": {"level": "loud"}}), "level"),
        (json!({"tokenRequests": [{"expirationSeconds": 600}]}), "audience"),
        (json!({"storageClasses": [{"default": true}]}), "name"),
        (json!({"storageClasses": [{"name": "a", "reclaimPolicy": "Archive"}]}), "reclaimPolicy"),
        (json!({"storageClasses": classes}), "a, b are all the default; only one can be"),
        (json!({"server": {"updateStrategy": {"type": "RollingUpdate"}}}), "updateStrategy"),
        (json!({"server": {"paths": {"cache": "cache"}}}), "cache"),
        (json!({"node": {"resources": {"requests": null}}}), "requests"),
    ] {
        let error = render(&values).unwrap_err();
        assert!(error.contains(said), "{values}: {error}");
    }
}

#[test]
fn everything_that_can_be_set_is_set() {
    let documents = rendered(&values_of_everything());
    let text = json!(documents).to_string();
    for word in [
        "mirror.example.com/s3pod/s3pod:0.1.0@sha256:aaaa",
        "mirror.example.com/sig-storage/csi-provisioner",
        "/var/lib/k0s/kubelet/plugins/csi.s3pod/socket/csi.sock",
        "storageclass.kubernetes.io/is-default-class",
        "\"imagePullSecrets\":[{\"name\":\"pull\"}]",
        "\"value\":\"/etc/s3pod/ca/ca.crt\"",
        "\"name\":\"HTTPS_PROXY\",\"value\":\"http://proxy:3128\"",
        "csi.storage.k8s.io/node-publish-secret-namespace\":\"${pvc.namespace}",
        "csi.storage.k8s.io/provisioner-secret-namespace\":\"s3pod",
        "\"forcePathStyle\":\"true\"",
        "\"eks.amazonaws.com/role-arn\":\"arn\"",
        "\"seLinuxOptions\":{\"type\":\"super_t\"}",
        "pod-security.kubernetes.io/enforce",
        r#"\"endpointUrl\": \"http://minio:9000\""#,
    ] {
        assert!(text.contains(word), "{word} is nowhere in {text}");
    }
    // The keys of two namespaces alone.
    let role = named(&documents, "ClusterRole", "s3pod-controller").to_string();
    assert!(!role.contains("secrets"), "{role}");
    let roles = documents.iter().filter(|one| one["metadata"]["name"] == "s3pod-secrets");
    assert_eq!(roles.count(), 4);
}

#[test]
fn our_programs_take_the_arguments_that_stand_there() {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_s3pod")).with_file_name("s3pod-sidecar");
    let mut verbs = BTreeSet::new();
    for values in [json!({}), values_of_everything()] {
        for document in rendered(&values) {
            let Some((_, spec)) = pod(&document) else { continue };
            let is_ours = |one: &&Value| one["image"].as_str().unwrap().contains("/s3pod:");
            for container in containers(spec).into_iter().filter(is_ours) {
                let words = list(container, "args").iter().map(|one| one.as_str().unwrap());
                let words: Vec<&str> = words.collect();
                verbs.insert(words[0].to_owned());
                // What is wrong before it is said first.
                let output = Command::new(&program).args(&words).arg("--help").output().unwrap();
                assert!(output.status.success(), "{words:?}: {}", said(&output));
            }
        }
    }
    let all = ["csi", "in-use", "prepare", "server"].map(str::to_owned);
    assert_eq!(verbs, BTreeSet::from(all));
}

#[test]
fn the_kustomize_base_is_the_chart() {
    let folder = root().join(BASE);
    let made = base();
    #[expect(clippy::disallowed_methods, reason = "how every generated file is written anew")]
    let shall_write = std::env::var_os("UPDATE").is_some();
    if shall_write {
        for (name, text) in &made {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
    let kustomization = documents(&folder.join("kustomization.yaml"));
    let resources = list(&kustomization[0], "resources").iter();
    let listed: Vec<&str> = resources.map(|one| one.as_str().unwrap()).collect();
    assert_eq!(listed, made.keys().map(String::as_str).collect::<Vec<_>>());
    for (name, text) in &made {
        let stands = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(stands == *text, "{BASE}/{name} is not what the chart makes; UPDATE=1 writes it");
    }
}

#[test]
fn kubectl_makes_of_the_base_what_stands_there() {
    let folder = root().join(BASE);
    let output = Command::new("kubectl").arg("kustomize").arg(&folder).output();
    let output = output.expect("kubectl is installed; run `make setup`");
    assert!(output.status.success(), "{}", said(&output));
    let text = "import json,sys,yaml; print(json.dumps(list(yaml.safe_load_all(sys.argv[1]))))";
    let built = String::from_utf8(output.stdout).unwrap();
    let built = script(text, &[OsStr::new(&built)]).as_array().unwrap().clone();
    let files = base().into_keys().map(|name| documents(&folder.join(name)));
    let stands: Vec<Value> = files.flatten().collect();
    assert_eq!(sorted(built), sorted(stands));
    let (_folder, path) = written(&documents(&folder.join("node.yaml")));
    assert_eq!(invalid(&[path], None), None);
}
