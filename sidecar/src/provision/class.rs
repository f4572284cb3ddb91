//! What a StorageClass asks for.
//!
//! Owns the reading of CreateVolume's parameters: options of s3pod that the volume will hand on
//! to whoever mounts it, and the words of provisioning. Promises: what a mount would refuse later
//! is refused here. Must not know what is in the store.

use std::collections::HashMap;

use s3pod::config::EndpointUrl;

use super::pattern::{self, Names};
use crate::volume::attributes::{
    self, ARCHIVE_ON_DELETE, BUCKET, CA_CERTIFICATES, Description, OF_CLASSES, OF_VOLUMES,
    ON_DELETE, PATH_PATTERN, STORE, Speaker,
};
use crate::volume::id;
use crate::volume::refusal::Refusal;
use crate::volume::{check_prefix, credentials, server};

const FIELD: &str = "parameters";
const NAMESPACE: &str = "csi.storage.k8s.io/pvc/namespace";
const CLAIM: &str = "csi.storage.k8s.io/pvc/name";
const VOLUME: &str = "csi.storage.k8s.io/pv/name";

/// The longest place of a volume: a key has 1 024 bytes, and files need some of them.
const PREFIX_MAX: usize = 512;

/// What becomes of a volume's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum OnDelete {
    /// They are deleted.
    Delete,
    /// They stay where they are, for whoever comes under the same name.
    Retain,
    /// They are moved aside.
    Archive,
}

/// Whose volume it is, as far as the provisioner says.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Owner {
    pub(super) namespace: Option<String>,
    pub(super) claim: Option<String>,
    pub(super) volume: String,
}

impl Owner {
    /// True for the same claim, under whatever volume. Nobody is the same as an unknown.
    pub(super) fn is_same_claim(&self, other: &Self) -> bool {
        self.claim.is_some() && (&self.namespace, &self.claim) == (&other.namespace, &other.claim)
    }

    /// Where this volume's objects are moved aside to.
    pub(super) fn archive(&self) -> String {
        match (&self.namespace, &self.claim) {
            (Some(namespace), Some(claim)) => {
                format!("archived-{namespace}-{claim}-{}/", self.volume)
            }
            _ => format!("archived-{}/", self.volume),
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.namespace, &self.claim) {
            (Some(namespace), Some(claim)) => {
                write!(f, "PersistentVolumeClaim {namespace}/{claim} (volume {})", self.volume)
            }
            _ => write!(f, "volume {}", self.volume),
        }
    }
}

/// A class, applied to one volume.
#[derive(Clone, Debug)]
pub(super) struct Class {
    /// The bucket that holds many volumes; none makes one for each.
    pub(super) bucket: Option<String>,
    /// Below which its volumes are: empty, or with a slash at its end.
    pub(super) base: String,
    /// Where below that, without slashes at its ends.
    pub(super) place: String,
    pub(super) owner: Owner,
    pub(super) on_delete: OnDelete,
    /// A store of the controller's table.
    pub(super) store: Option<String>,
    pub(super) endpoint_url: Option<String>,
    pub(super) region: Option<String>,
    /// What whoever mounts shall be told.
    pub(super) context: HashMap<String, String>,
}

impl Class {
    /// Reads the parameters for the volume `name`.
    pub(super) fn read(
        name: &str,
        parameters: &HashMap<String, String>,
        mount_flags: &[&str],
    ) -> Result<Self, Refusal> {
        let words: Vec<&'static str> = OF_VOLUMES.into_iter().chain(OF_CLASSES).collect();
        let said = attributes::read(FIELD, parameters, &words, Speaker::Owner)?;
        let mut with_flags = said.clone();
        let flags = mount_flags.iter().copied();
        attributes::add_mount_options(&mut with_flags, "mountOptions", flags, Speaker::Owner)?;
        credentials::check(FIELD, &said)?;
        server(FIELD, &said)?;
        no_authorities(&said)?;
        let owner = owner(name, parameters);
        let (base, place) = place(&said, &owner)?;
        let owned = |word: &str| said.word(word).map(str::to_owned);
        let option = |flag: &str| said.option(flag).map(str::to_owned);
        Ok(Self {
            bucket: bucket(&said)?,
            base,
            place,
            on_delete: on_delete(&said)?,
            store: store(owned(STORE))?,
            endpoint_url: option("endpoint-url").map(|url| without_slash(&url)),
            region: option("region"),
            context: context(parameters),
            owner,
        })
    }
}

fn owner(name: &str, parameters: &HashMap<String, String>) -> Owner {
    let said = |key: &str| parameters.get(key).filter(|text| !text.is_empty()).cloned();
    Owner {
        namespace: said(NAMESPACE),
        claim: said(CLAIM),
        volume: said(VOLUME).unwrap_or_else(|| name.to_owned()),
    }
}

fn place(said: &Description, owner: &Owner) -> Result<(String, String), Refusal> {
    let base = said.option("prefix").unwrap_or_default();
    check_prefix(&format!("{FIELD}.prefix"), base)?;
    let base = base.trim_matches('/');
    let names = Names {
        namespace: owner.namespace.as_deref(),
        claim: owner.claim.as_deref(),
        volume: &owner.volume,
    };
    let field = format!("{FIELD}.{PATH_PATTERN}");
    let refused = |reason: String| Refusal::field(&field, reason);
    let place = pattern::fill(said.word(PATH_PATTERN), names).map_err(refused)?;
    let place = place.trim_matches('/').to_owned();
    if place.is_empty() {
        return Err(refused("names no place; a volume has a prefix of its own".to_owned()));
    }
    let base = if base.is_empty() { String::new() } else { format!("{base}/") };
    check_prefix(&field, &format!("{base}{place}"))?;
    if base.len() + place.len() > PREFIX_MAX {
        return Err(refused(format!("the place of the volume is longer than {PREFIX_MAX} bytes")));
    }
    Ok((base, place))
}

fn bucket(said: &Description) -> Result<Option<String>, Refusal> {
    let Some(bucket) = said.word(BUCKET) else { return Ok(None) };
    if !id::is_bucket_name(bucket) {
        let reason = format!(
            "`{bucket}` is no name of a bucket: 3 to 63 lower-case letters, digits, dots and \
             dashes"
        );
        return Err(Refusal::field(format!("{FIELD}.{BUCKET}"), reason));
    }
    Ok(Some(bucket.to_owned()))
}

fn on_delete(said: &Description) -> Result<OnDelete, Refusal> {
    let field = format!("{FIELD}.{ON_DELETE}");
    let word = match said.word(ON_DELETE) {
        None => None,
        Some("delete") => Some(OnDelete::Delete),
        Some("retain") => Some(OnDelete::Retain),
        Some("archive") => Some(OnDelete::Archive),
        Some(other) => {
            let reason = format!("`{other}` is none of delete, retain and archive");
            return Err(Refusal::field(field, reason));
        }
    };
    let alias = match said.word(ARCHIVE_ON_DELETE) {
        None => None,
        Some("true") => Some(OnDelete::Archive),
        Some("false") => Some(OnDelete::Delete),
        Some(other) => {
            let reason = format!("`{other}` is neither true nor false");
            return Err(Refusal::field(format!("{FIELD}.{ARCHIVE_ON_DELETE}"), reason));
        }
    };
    match (word, alias) {
        (Some(word), Some(alias)) if word != alias => {
            let reason = format!("contradicts {ARCHIVE_ON_DELETE}; leave one of them out");
            Err(Refusal::field(field, reason))
        }
        (word, alias) => Ok(word.or(alias).unwrap_or(OnDelete::Delete)),
    }
}

fn store(name: Option<String>) -> Result<Option<String>, Refusal> {
    match name {
        Some(name) if !id::is_store_name(&name) => {
            let reason = format!(
                "`{name}` is no name of a store: up to {} lower-case letters, digits and dashes",
                id::STORE_MAX
            );
            Err(Refusal::field(format!("{FIELD}.{STORE}"), reason))
        }
        name => Ok(name),
    }
}

/// Who deletes a volume is told its id and its Secret, and trusts whom those name.
fn no_authorities(said: &Description) -> Result<(), Refusal> {
    if said.word(CA_CERTIFICATES).is_none() {
        return Ok(());
    }
    let reason = "put them into the provisioner's Secret as ca.crt, or into the store's line of \
                  the controller's table as caBundle";
    Err(Refusal::field(format!("{FIELD}.{CA_CERTIFICATES}"), reason))
}

fn without_slash(url: &str) -> String {
    let parsed = url.parse::<EndpointUrl>();
    parsed.map_or_else(|_| url.to_owned(), |url| url.as_str().to_owned())
}

/// The parameters that say something to a mount.
fn context(parameters: &HashMap<String, String>) -> HashMap<String, String> {
    let is_kept = |name: &str| !name.contains('/') && name != STORE && !OF_CLASSES.contains(&name);
    let kept = parameters.iter().filter(|(name, _)| is_kept(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::refusal::Code;

    fn read(pairs: &[(&str, &str)]) -> Result<Class, Refusal> {
        let always = [(NAMESPACE, "team-a"), (CLAIM, "web"), (VOLUME, "pvc-1")];
        let all = always.iter().chain(pairs);
        let map = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Class::read("pvc-1", &map, &["metadata-ttl=5m"])
    }

    #[test]
    fn a_class_is_a_place_and_what_the_mount_is_told() {
        let class = read(&[
            ("bucket", "data"),
            ("prefix", "/volumes/"),
            ("pathPattern", "${pvc.namespace}/${pvc.name}"),
            ("onDelete", "archive"),
            ("metadataTtl", "5m"),
            ("region", "eu-west-1"),
        ])
        .unwrap();
        assert_eq!((class.base.as_str(), class.place.as_str()), ("volumes/", "team-a/web"));
        assert_eq!(class.on_delete, OnDelete::Archive);
        assert_eq!(class.owner.archive(), "archived-team-a-web-pvc-1/");
        let mut told: Vec<&str> = class.context.keys().map(String::as_str).collect();
        told.sort_unstable();
        assert_eq!(told, ["bucket", "metadataTtl", "prefix", "region"]);
        let bare = read(&[]).unwrap();
        assert_eq!((bare.bucket, bare.on_delete), (None, OnDelete::Delete));
        assert_eq!(bare.place, "team-a-web-pvc-1");
        assert_eq!(read(&[("archiveOnDelete", "true")]).unwrap().on_delete, OnDelete::Archive);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_parameter() {
        for (name, value) in [
            ("bucket", "My_Bucket"),
            ("prefix", "a/../b"),
            ("pathPattern", "../${pvc.name}"),
            ("pathPattern", "${pvc.uid}"),
            ("pathPattern", "/"),
            ("pathPattern", ".s3pod/volumes"),
            ("onDelete", "keep"),
            ("archiveOnDelete", "maybe"),
            ("store", "My Store"),
            ("server", "pod"),
            ("metadataTtl", "soon"),
            ("roleArn", "admin"),
            ("buket", "data"),
        ] {
            let refusal = read(&[(name, value)]).unwrap_err();
            assert_eq!(refusal.code, Code::InvalidArgument, "{refusal}");
            assert!(refusal.message.starts_with(&format!("parameters.{name}: ")), "{refusal}");
        }
        let refusal = read(&[("cacheDir", "/")]).unwrap_err();
        assert_eq!(refusal.code, Code::PermissionDenied);
        let both = [("onDelete", "retain"), ("archiveOnDelete", "true")];
        assert!(read(&both).unwrap_err().message.contains("archiveOnDelete"));
        assert!(read(&[("metadataTtl", "6m")]).unwrap_err().message.contains("mountOptions"));
        assert!(read(&[("pathPattern", &"x".repeat(600))]).is_err());
    }
}
