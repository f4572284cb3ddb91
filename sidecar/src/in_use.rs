//! `s3pod-sidecar in-use`: whether a pod still uses a volume of the driver.
//!
//! Asked before the driver is uninstalled: a pod whose volume nobody can unmount hangs in
//! Terminating. Owns the question, put to the cluster's API, and the answer in words. Promises:
//! it only reads, and its token is shown to nobody. Must not know how volumes are mounted.

mod api;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use s3pod::mount::Failure;
use serde::Deserialize;

use api::Api;

/// The subcommand's name.
pub(super) const NAME: &str = "in-use";

const DRIVER_NAME: &str = "driver-name";
const API: &str = "api";
const TOKEN_FILE: &str = "token-file";
const CA_FILE: &str = "ca-file";

/// Where Kubernetes puts a pod's own token.
const OWN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// For all questions together. The hook's Job has two minutes.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many pods are named; who has more knows enough.
const NAMED_MAX: usize = 20;

/// The subcommand.
pub(super) fn command() -> Command {
    let path = |name: &'static str, file: &str| {
        Arg::new(name)
            .long(name)
            .value_name("FILE")
            .default_value(format!("{OWN}/{file}"))
            .value_parser(clap::value_parser!(PathBuf))
    };
    Command::new(NAME)
        .about("Fail, and name them, as long as pods use volumes of the driver")
        .arg(Arg::new(DRIVER_NAME).long(DRIVER_NAME).default_value("csi.s3pod").help("The driver"))
        .arg(
            Arg::new(API)
                .long(API)
                .value_name("URL")
                .default_value("https://kubernetes.default.svc")
                .help("The cluster's API; http://127.0.0.1:8001 beside `kubectl proxy`"),
        )
        .arg(path(TOKEN_FILE, "token").help("A ServiceAccount's token, for an https API"))
        .arg(path(CA_FILE, "ca.crt").help("Who signed the API's certificate, for an https API"))
}

/// Asks, and fails where there is such a pod.
pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let text = |name| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let path = |name| matches.get_one::<PathBuf>(name).cloned().unwrap_or_default();
    let api = Api::new(&text(API), &path(TOKEN_FILE), &path(CA_FILE))?;
    let driver = text(DRIVER_NAME);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::passing(format!("the runtime does not start: {error}")))?;
    let asked =
        runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(&api, &driver)).await });
    let users = asked.map_err(|_| {
        Failure::passing(format!("{} has not answered within {PATIENCE:?}", text(API)))
    })??;
    if users.is_empty() {
        crate::say(format_args!("no pod uses a volume of {driver}"));
        return Ok(());
    }
    Err(Failure::passing(refusal(&driver, &users)))
}

/// The pods, each with what it uses.
async fn ask(api: &Api, driver: &str) -> Result<Vec<String>, Failure> {
    let volumes: Vec<PersistentVolume> = api.list("/api/v1/persistentvolumes").await?;
    let claims: BTreeSet<Claim> = volumes
        .into_iter()
        .filter(|volume| volume.spec.csi.as_ref().is_some_and(|csi| csi.driver == driver))
        .filter_map(|volume| volume.spec.claim_ref)
        .collect();
    let pods: Vec<Pod> = api.list("/api/v1/pods").await?;
    Ok(pods.iter().filter_map(|pod| pod.uses(driver, &claims)).collect())
}

fn refusal(driver: &str, users: &[String]) -> String {
    let named = users.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    let more = users.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "{} pods use volumes of {driver}, and would hang in Terminating without it: {named}{more}; \
         delete them or scale them down first",
        users.len()
    )
}

#[derive(Deserialize)]
struct PersistentVolume {
    spec: PersistentVolumeSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PersistentVolumeSpec {
    csi: Option<Csi>,
    claim_ref: Option<Claim>,
}

#[derive(Deserialize)]
struct Csi {
    driver: String,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    spec: PodSpec,
    status: Option<PodStatus>,
}

#[derive(Deserialize)]
struct Metadata {
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<String>,
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    name: String,
    csi: Option<Csi>,
    persistent_volume_claim: Option<ClaimSource>,
    ephemeral: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaimSource {
    claim_name: String,
}

#[derive(Deserialize)]
struct PodStatus {
    phase: Option<String>,
}

impl Pod {
    /// The pod and the first of the driver's volumes that a node has mounted for it.
    fn uses(&self, driver: &str, claims: &BTreeSet<Claim>) -> Option<String> {
        // Without a node nothing is mounted, and of a pod that has ended nothing is any more.
        self.spec.node_name.as_ref()?;
        let phase = self.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let Metadata { namespace, name } = &self.metadata;
        let is_ours = |volume: &&Volume| match &volume.csi {
            Some(csi) => csi.driver == driver,
            None => self.claim_of(volume).is_some_and(|claim| claims.contains(&claim)),
        };
        let volume = self.spec.volumes.iter().find(is_ours)?;
        Some(format!("{namespace}/{name} (volume {})", volume.name))
    }

    fn claim_of(&self, volume: &Volume) -> Option<Claim> {
        let name = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => source.claim_name.clone(),
            // The name that Kubernetes gives a generic ephemeral volume's claim.
            (None, Some(_)) => format!("{}-{}", self.metadata.name, volume.name),
            (None, None) => return None,
        };
        Some(Claim { namespace: self.metadata.namespace.clone(), name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> BTreeSet<Claim> {
        let claim = |name: &str| Claim { namespace: "team".to_owned(), name: name.to_owned() };
        [claim("data"), claim("web-0-scratch")].into_iter().collect()
    }

    fn uses(volume: &str, rest: &str) -> Option<String> {
        let text = format!(
            r#"{{"metadata": {{"namespace": "team", "name": "web-0"}},
                 "spec": {{"volumes": [{{"name": "other", "emptyDir": {{}}}}, {volume}] {rest}}}"#
        );
        let pod: Pod = serde_json::from_str(&text).unwrap();
        pod.uses("csi.s3pod", &claims())
    }

    const RUNS: &str = r#", "nodeName": "n"}, "status": {"phase": "Running"}"#;

    #[test]
    fn a_claim_an_inline_volume_and_a_generic_one_are_uses() {
        for volume in [
            r#"{"name": "a", "persistentVolumeClaim": {"claimName": "data"}}"#,
            r#"{"name": "a", "csi": {"driver": "csi.s3pod"}}"#,
            r#"{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}}"#,
        ] {
            let said = uses(volume, RUNS).unwrap();
            assert!(said.starts_with("team/web-0 (volume "), "{said}");
        }
        for volume in [
            r#"{"name": "a", "persistentVolumeClaim": {"claimName": "other"}}"#,
            r#"{"name": "a", "csi": {"driver": "ebs.csi.aws.com"}}"#,
            r#"{"name": "a", "ephemeral": {"volumeClaimTemplate": {}}}"#,
        ] {
            assert_eq!(uses(volume, RUNS), None, "{volume}");
        }
    }

    #[test]
    fn a_pod_without_a_node_or_at_its_end_uses_nothing() {
        let volume = r#"{"name": "a", "csi": {"driver": "csi.s3pod"}}"#;
        for rest in [
            "}",
            r#"}, "status": {"phase": "Pending"}"#,
            r#", "nodeName": "n"}, "status": {"phase": "Succeeded"}"#,
            r#", "nodeName": "n"}, "status": {"phase": "Failed"}"#,
        ] {
            assert_eq!(uses(volume, rest), None, "{rest}");
        }
        assert!(uses(volume, r#", "nodeName": "n"}"#).is_some());
    }

    #[test]
    fn not_more_are_named_than_a_person_reads() {
        let users: Vec<String> = (0..25).map(|n| format!("team/web-{n}")).collect();
        let said = refusal("csi.s3pod", &users);
        assert!(said.starts_with("25 pods") && said.contains("web-19 and 5 more"), "{said}");
        assert!(!said.contains("web-20"), "{said}");
    }
}
