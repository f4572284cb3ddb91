//! A pod's spec, as far as the runner understands it: the same words as in Kubernetes.
//!
//! Owns the types. Anything else in a manifest is ignored here; a validator judges it elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodSpec {
    #[serde(default)]
    pub(crate) init_containers: Vec<Container>,
    pub(crate) containers: Vec<Container>,
    #[serde(default)]
    pub(crate) volumes: Vec<Volume>,
    #[serde(default)]
    pub(crate) host_aliases: Vec<HostAlias>,
    #[serde(default = "thirty")]
    pub(crate) termination_grace_period_seconds: u64,
    #[serde(default = "always")]
    pub(crate) restart_policy: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct HostAlias {
    pub(crate) ip: String,
    pub(crate) hostnames: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Container {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) image: String,
    #[serde(default)]
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<Variable>,
    pub(crate) restart_policy: Option<String>,
    #[serde(default)]
    pub(crate) security_context: SecurityContext,
    #[serde(default)]
    pub(crate) resources: Resources,
    #[serde(default)]
    pub(crate) volume_mounts: Vec<VolumeMount>,
    pub(crate) startup_probe: Option<Probe>,
    pub(crate) readiness_probe: Option<Probe>,
    #[serde(default)]
    pub(crate) lifecycle: Lifecycle,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Variable {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SecurityContext {
    #[serde(default)]
    pub(crate) privileged: bool,
    pub(crate) run_as_user: Option<u32>,
    #[serde(default)]
    pub(crate) capabilities: Capabilities,
    pub(crate) seccomp_profile: Option<SeccompProfile>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SeccompProfile {
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Capabilities {
    #[serde(default)]
    pub(crate) add: Vec<String>,
    #[serde(default)]
    pub(crate) drop: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Resources {
    #[serde(default)]
    pub(crate) limits: Limits,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Limits {
    pub(crate) memory: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VolumeMount {
    pub(crate) name: String,
    pub(crate) mount_path: String,
    pub(crate) mount_propagation: Option<String>,
    pub(crate) sub_path: Option<String>,
    #[serde(default)]
    pub(crate) read_only: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Probe {
    pub(crate) exec: Exec,
    pub(crate) failure_threshold: Option<u32>,
    period_seconds: Option<u64>,
    timeout_seconds: Option<u64>,
}

impl Probe {
    pub(crate) fn period(&self) -> Duration {
        Duration::from_secs(self.period_seconds.unwrap_or(10))
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.unwrap_or(1))
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Exec {
    pub(crate) command: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lifecycle {
    pub(crate) pre_stop: Option<Hook>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Hook {
    pub(crate) exec: Exec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) empty_dir: Option<EmptyDir>,
    pub(crate) csi: Option<Csi>,
    pub(crate) config_map: Option<ConfigMap>,
    /// The same to the runner.
    pub(crate) secret: Option<ConfigMap>,
}

/// A ConfigMap as files; the runner is given the files themselves.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ConfigMap {
    #[serde(default)]
    pub(crate) data: BTreeMap<String, String>,
}

/// A volume that the node mounts and a sidecar of the pod serves.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Csi {
    pub(crate) volume_attributes: Attributes,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attributes {
    /// The emptyDir with the server's socket.
    pub(crate) handoff: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EmptyDir {
    pub(crate) medium: Option<String>,
    pub(crate) size_limit: Option<String>,
}

fn thirty() -> u64 {
    30
}

fn always() -> String {
    "Always".to_owned()
}

impl PodSpec {
    /// The spec of a Pod, or of the pods of a Job.
    pub(crate) fn read(manifest: &Value) -> Self {
        let spec = match manifest["kind"].as_str() {
            Some("Job" | "Deployment" | "StatefulSet") => &manifest["spec"]["template"]["spec"],
            _ => &manifest["spec"],
        };
        serde_json::from_value(spec.clone()).expect("a pod's spec")
    }
}

impl Container {
    /// A native sidecar: an init container that is not waited for.
    pub(crate) fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

/// `64Mi` in bytes.
pub(crate) fn bytes(quantity: &str) -> u64 {
    let units = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)];
    let unit = units.iter().find_map(|(unit, by)| Some((quantity.strip_suffix(unit)?, *by)));
    let (number, by) = unit.unwrap_or((quantity, 1));
    number.parse::<u64>().expect("a quantity") * by
}
