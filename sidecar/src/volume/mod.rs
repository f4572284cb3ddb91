//! What a published volume shall be, out of what Kubernetes says of it.
//!
//! Owns the way from attributes, mount options, Secrets, tokens and access modes to the flags and
//! files of one `s3pod` process, and the key under which mounts are shared. Promises: pure, so
//! the same call gives the same answer; an error is a gRPC code and a sentence that names the
//! field; nothing secret stands in flags, messages or `Debug`. Must not know mounts, servers or
//! the wire.

pub(crate) mod access;
pub(crate) mod attributes;
pub(crate) mod credentials;
pub(crate) mod id;
pub(crate) mod pod;
pub(crate) mod refusal;
pub(crate) mod secret;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;

use s3pod::config::quote_mount_option;
use s3pod::telemetry::Secret;
use s3pod::units::ByteSize;

use access::AccessMode;
use attributes::{
    BUCKET, CA_CERTIFICATES, Description, HANDOFF, MOUNT_OPTIONS, OF_SIDECARS, OF_VOLUMES,
    ROLE_ARN, SERVER, STS_ENDPOINT_URL, Speaker, TOKEN_AUDIENCE,
};
use credentials::{Credentials, File, WebIdentity};
use id::{Hash, VolumeId};
use pod::Pod;
use refusal::Refusal;
use secret::{StoreSecret, check_pem};

/// Where the words of NodePublishVolume stand, as people write them.
const CONTEXT: &str = "volumeAttributes";
const SECRETS: &str = "nodePublishSecretRef";
const MOUNT_FLAGS: &str = "mountOptions";
const CAPABILITY: &str = "volume_capability";

/// Certificate authorities, for `--ca-bundle`.
const CA: &str = "ca.crt";

/// What NodePublishVolume says, beside its paths.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) volume_id: &'a str,
    pub(crate) context: &'a HashMap<String, String>,
    pub(crate) secrets: &'a HashMap<String, String>,
    /// `volume_capability.mount.mount_flags`.
    pub(crate) mount_flags: &'a [String],
    /// `volume_capability.mount.volume_mount_group`: the pod's fsGroup, or empty.
    pub(crate) mount_group: &'a str,
    /// `volume_capability.access_mode.mode`.
    pub(crate) access_mode: i32,
    pub(crate) read_only: bool,
}

/// Who serves a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// The node's own.
    Node,
    /// A container of the pod, which listens in the emptyDir of this name.
    Sidecar(String),
}

/// That emptyDir, where none is named.
const HANDOFF_DEFAULT: &str = "handoff";

/// The longest name of a pod's volume: a label of DNS.
const LABEL_MAX: usize = 63;

/// What shall be mounted, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) bucket: String,
    pub(crate) server: Server,
    pub(crate) access_mode: AccessMode,
    pub(crate) read_only: bool,
    /// Bytes of memory that its process shall have; none leaves it to the server.
    pub(crate) memory: Option<u64>,
    pub(crate) pod: Pod,
    /// True for a volume of a pod's own spec.
    pub(crate) is_inline: bool,
    /// Mounts are shared among calls with the same: 32 letters and digits.
    pub(crate) key: String,
    /// Whose volume it is where the controller made it.
    pub(crate) id: Option<VolumeId>,
    flags: Vec<(&'static str, String)>,
    credentials: Credentials,
    ca: Option<String>,
}

impl Published {
    /// Reads a call.
    pub(crate) fn read(asked: &Asked<'_>) -> Result<Self, Refusal> {
        let is_inline = pod::is_inline(asked.context);
        let speaker = if is_inline { Speaker::Pod } else { Speaker::Owner };
        let access_mode = AccessMode::read(CAPABILITY, asked.access_mode)?;
        let mut said = describe(asked, speaker)?;
        let secret = StoreSecret::read(SECRETS, asked.secrets)?;
        for (flag, value) in [("endpoint-url", &secret.endpoint_url), ("region", &secret.region)] {
            value.iter().for_each(|value| said.or_say(flag, value.clone()));
        }
        let pod = Pod::read(asked.context);
        let (bucket, server) = (bucket(&said)?, server(CONTEXT, &said)?);
        let credentials = match server {
            Server::Node => credentials(asked, &said, &secret, &pod)?,
            Server::Sidecar(_) => credentials_of_sidecar(&said, &secret)?,
        };
        if is_inline && credentials == Credentials::Driver {
            return Err(no_credentials_of_its_own());
        }
        let id = own_id(asked.volume_id, &bucket)?;
        let ca = authorities(&said, &secret)?;
        let read_only = asked.read_only
            || access_mode.is_read_only()
            || said.take("read-only").is_some_and(|value| value == "true");
        let memory = said.take("memory-limit").and_then(|text| text.parse().ok());
        set_owners(&mut said, asked.mount_group)?;
        let key = key(asked, &credentials, &pod, &server, read_only)?;
        let mut flags: Vec<(&'static str, String)> =
            said.options.into_iter().map(|said| (said.option.flag, said.value)).collect();
        if read_only {
            flags.push(("read-only", "true".to_owned()));
        }
        // What was promised to the claim, and what it was made larger to.
        flags.extend(id.iter().map(|id| ("capacity-key", id.marker())));
        Ok(Self {
            bucket,
            server,
            access_mode,
            read_only,
            memory: memory.map(|ByteSize(bytes)| bytes),
            pod,
            is_inline,
            key,
            id,
            flags,
            credentials,
            ca,
        })
    }

    /// The options of `s3pod`, for a server that has the files of this volume in `folder`: all in
    /// the form `-o`, which takes switches that are off too.
    pub(crate) fn arguments(&self, folder: &Path) -> Vec<OsString> {
        let files = self.files(folder).into_iter().filter_map(|file| Some((file.flag?, file.name)));
        let files = files.map(|(flag, name)| (flag, folder.join(name).display().to_string()));
        let all: Vec<(&str, String)> = self.flags.iter().cloned().chain(files).collect();
        let mut arguments = Vec::new();
        for (flag, value) in all {
            arguments.push("-o".into());
            arguments.push(format!("{flag}={}", quote_mount_option(&value)).into());
        }
        arguments
    }

    /// True where the store is asked as whoever the server itself is.
    pub(crate) fn is_read_as_the_driver(&self) -> bool {
        self.credentials == Credentials::Driver
    }

    /// True where the store is asked in the same way as for another call, be it with other keys.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        self.credentials.identity() == other.credentials.identity()
    }

    /// What says as whom the store is asked, and what to do where it does not know him.
    pub(crate) const fn as_whom(&self) -> (&'static str, &'static str) {
        self.credentials.place_and_fix()
    }

    /// The files that those options and each other point to. They change where credentials are
    /// rotated; the flags do not.
    pub(crate) fn files(&self, folder: &Path) -> Vec<File> {
        let mut files = self.credentials.files(folder);
        files.extend(self.ca.as_ref().map(|pem| File {
            name: CA,
            flag: Some("ca-bundle"),
            content: Secret::new(pem.clone()),
        }));
        files
    }
}

fn describe(asked: &Asked<'_>, speaker: Speaker) -> Result<Description, Refusal> {
    let mut said = attributes::read(CONTEXT, asked.context, &OF_VOLUMES, speaker)?;
    if let Some(list) = said.words.get(MOUNT_OPTIONS).cloned() {
        let field = format!("{CONTEXT}.{MOUNT_OPTIONS}");
        attributes::add_mount_options(&mut said, &field, [list.as_str()], speaker)?;
    }
    let lists = asked.mount_flags.iter().map(String::as_str);
    attributes::add_mount_options(&mut said, MOUNT_FLAGS, lists, speaker)?;
    credentials::check(CONTEXT, &said)?;
    if let Some(prefix) = said.option("prefix") {
        check_prefix(&format!("{CONTEXT}.prefix"), prefix)?;
    }
    Ok(said)
}

/// Refuses a prefix that no path can lead to, or that looks as if it left its bucket.
pub(crate) fn check_prefix(field: &str, prefix: &str) -> Result<(), Refusal> {
    let is_odd = |part: &str| part.is_empty() || part == "." || part == "..";
    let trimmed = prefix.trim_matches('/');
    if !trimmed.is_empty() && trimmed.split('/').any(is_odd) {
        let reason = format!(
            "`{prefix}` has an empty part, `.` or `..` in it; write the whole prefix as it stands \
             in the bucket"
        );
        return Err(Refusal::field(field, reason));
    }
    if trimmed.contains('\0') {
        return Err(Refusal::field(field, "has a NUL in it; no file could have that name"));
    }
    if s3pod::naming::is_reserved(&format!("{trimmed}/")) {
        let reason = "`.s3pod` is where the driver keeps its own; choose another prefix";
        return Err(Refusal::field(field, reason));
    }
    Ok(())
}

fn bucket(said: &Description) -> Result<String, Refusal> {
    let field = format!("{CONTEXT}.{BUCKET}");
    let bucket = said.word(BUCKET).unwrap_or_default();
    if bucket.is_empty() {
        return Err(Refusal::field(field, "is missing; name the bucket to mount"));
    }
    let is_word = !bucket.contains(|c: char| c.is_whitespace() || c.is_control());
    if !is_word || bucket.starts_with('-') || (bucket.contains('/') && !bucket.starts_with("arn:"))
    {
        let reason = format!("{bucket:?} is no bucket's name; a path in it is `prefix`");
        return Err(Refusal::field(field, reason));
    }
    Ok(bucket.to_owned())
}

/// Whom to trust: what the Secret says, else the volume.
fn authorities(said: &Description, secret: &StoreSecret) -> Result<Option<String>, Refusal> {
    let field = format!("{CONTEXT}.{CA_CERTIFICATES}");
    let of_volume = said.word(CA_CERTIFICATES).map(|pem| check_pem(&field, pem)).transpose()?;
    Ok(secret.ca.clone().or(of_volume))
}

/// Who serves, by what a description in `field` says.
pub(crate) fn server(field: &str, said: &Description) -> Result<Server, Refusal> {
    let refused = |word, reason: String| Err(Refusal::field(format!("{field}.{word}"), reason));
    match (said.word(SERVER), said.word(HANDOFF)) {
        (None | Some("node"), None) => Ok(Server::Node),
        (None | Some("node"), Some(_)) => {
            refused(HANDOFF, "goes with `server: sidecar`; add that, or leave it out".to_owned())
        }
        (Some("sidecar"), name) => {
            let name = name.unwrap_or(HANDOFF_DEFAULT);
            if !is_label(name) {
                let reason = format!("`{name}` is no volume of a pod; name the sidecar's emptyDir");
                return refused(HANDOFF, reason);
            }
            Ok(Server::Sidecar(name.to_owned()))
        }
        (Some(other), _) => refused(SERVER, format!("`{other}` is neither `node` nor `sidecar`")),
    }
}

/// As a pod's volumes are called.
fn is_label(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=LABEL_MAX).contains(&name.len()) && name.chars().all(plain)
}

/// A sidecar has its own options and credentials; what is said to the driver would reach nobody.
fn credentials_of_sidecar(
    said: &Description,
    secret: &StoreSecret,
) -> Result<Credentials, Refusal> {
    let is_for_driver = |flag: &str| OF_SIDECARS.contains(&flag);
    if let Some(said) = said.options.iter().find(|said| !is_for_driver(said.option.flag)) {
        let flag = said.option.flag;
        let reason = format!("a sidecar has its own options; write --{flag} among its arguments");
        return Err(Refusal::field(&said.field, reason));
    }
    let word = [ROLE_ARN, STS_ENDPOINT_URL].into_iter().find(|word| said.word(word).is_some());
    let field = word.map(|word| format!("{CONTEXT}.{word}"));
    if let Some(field) = field.or_else(|| secret.keys.is_some().then(|| SECRETS.to_owned())) {
        let reason = "a sidecar has credentials of its own, which the driver need not know; give \
                      them to its container";
        return Err(Refusal::field(field, reason));
    }
    Ok(Credentials::Sidecar)
}

/// The id, where the controller wrote it. Other volumes are called as their owners like.
fn own_id(volume_id: &str, bucket: &str) -> Result<Option<VolumeId>, Refusal> {
    if volume_id.is_empty() {
        return Err(Refusal::field("volume_id", "is missing"));
    }
    match VolumeId::read(volume_id) {
        Some(id) if id.bucket != bucket => {
            let reason = format!(
                "`{bucket}` is not the bucket of the volume ({}); a volumeHandle of your own must \
                 not begin with `v1/`",
                id.bucket
            );
            Err(Refusal::field(format!("{CONTEXT}.{BUCKET}"), reason))
        }
        id => Ok(id),
    }
}

fn credentials(
    asked: &Asked<'_>,
    said: &Description,
    secret: &StoreSecret,
    pod: &Pod,
) -> Result<Credentials, Refusal> {
    let is_anonymous = said.option("no-sign-request") == Some("true");
    let wants_pod = credentials::wants_pod(said);
    let both = |one: &str, other: &str| {
        let reason = format!("{other} says as whom to ask the store too; leave one of them out");
        Err(Refusal::field(one, reason))
    };
    match (&secret.keys, wants_pod, is_anonymous) {
        (Some(_), true, _) => both("volumeAttributes.roleArn", SECRETS),
        (Some(_), _, true) => both("volumeAttributes.noSignRequest", SECRETS),
        (None, true, true) => both("volumeAttributes.noSignRequest", "roleArn"),
        (Some(keys), false, false) => Ok(Credentials::Keys(keys.clone())),
        (None, false, true) => Ok(Credentials::Anonymous),
        (None, false, false) => Ok(Credentials::Driver),
        (None, true, false) => {
            pod.uid()?;
            let owned = |word| said.word(word).map(str::to_owned);
            Ok(Credentials::Pod(WebIdentity {
                role_arn: owned(ROLE_ARN),
                sts_endpoint_url: owned(STS_ENDPOINT_URL),
                token: pod::token(asked.context, asked.secrets, said.word(TOKEN_AUDIENCE))?,
                session_name: pod.session_name(),
            }))
        }
    }
}

fn no_credentials_of_its_own() -> Refusal {
    Refusal::denied(
        SECRETS,
        "an inline volume is not read with the driver's own credentials; name a Secret of its \
         namespace, or roleArn, or noSignRequest: \"true\"",
    )
}

/// Who owns what says nothing of an owner: the pod's fsGroup, who was named, or everybody who has
/// the volume at all.
fn set_owners(said: &mut Description, group: &str) -> Result<(), Refusal> {
    if !group.is_empty() {
        let field = format!("{CAPABILITY}.mount.volume_mount_group");
        let gid: u32 = group.parse().map_err(|_| {
            Refusal::field(field, format!("`{group}` is not the number of a group"))
        })?;
        said.or_say("gid", gid.to_string());
        said.or_say("dir-mode", "2775");
        said.or_say("file-mode", "0664");
    } else if said.option("uid").is_none() && said.option("gid").is_none() {
        said.or_say("dir-mode", "0777");
        said.or_say("file-mode", "0666");
    }
    // The server's own uid means nothing to anybody.
    said.or_say("uid", "0");
    said.or_say("gid", "0");
    Ok(())
}

/// What a mount is shared under. Only what was said, and nothing that follows from it, so that a
/// release with other defaults finds its mounts again.
fn key(
    asked: &Asked<'_>,
    credentials: &Credentials,
    pod: &Pod,
    server: &Server,
    read_only: bool,
) -> Result<String, Refusal> {
    let is_own = pod::is_inline(asked.context)
        || matches!(credentials, Credentials::Pod(_))
        || matches!(server, Server::Sidecar(_));
    let mut words: Vec<(&str, &str)> = asked
        .context
        .iter()
        .filter(|(name, _)| !name.contains('/'))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    words.sort_unstable();
    let mut mount_flags: Vec<&str> = asked.mount_flags.iter().map(String::as_str).collect();
    mount_flags.sort_unstable();
    let parts = (
        asked.volume_id,
        credentials.identity(),
        asked.mount_group,
        read_only,
        mount_flags,
        words,
        if is_own { pod.uid()? } else { "" },
    );
    // Debug quotes and escapes, so no two descriptions run into one text.
    Ok(Hash::of(&format!("{parts:?}")).to_string())
}

#[cfg(test)]
mod tests;
