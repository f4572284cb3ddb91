//! The words in which a volume is described: attributes, parameters and mount options.
//!
//! Owns how they relate to s3pod's options (the camelCase of the flag) and who may say what, by
//! the authority that the table of options gives each. Promises: what is unknown is refused with
//! the nearest word that is known. Must not know what the words make of a mount.

use std::collections::{BTreeMap, HashMap};

use s3pod::config::{Authority, Category, Definition, OPTIONS, Options, parse_mount_options};

use super::refusal::Refusal;

/// The bucket.
pub(crate) const BUCKET: &str = "bucket";
/// Who serves: the node's own server, or the pod's sidecar.
pub(crate) const SERVER: &str = "server";
/// The emptyDir in which that sidecar listens.
pub(crate) const HANDOFF: &str = "handoff";
/// Options in the grammar of mount(8), for where a volume has no mountOptions of its own.
pub(crate) const MOUNT_OPTIONS: &str = "mountOptions";
/// The role that a pod's token is exchanged for.
pub(crate) const ROLE_ARN: &str = "roleArn";
/// Where it is exchanged.
pub(crate) const STS_ENDPOINT_URL: &str = "stsEndpointUrl";
/// Which of the pod's tokens.
pub(crate) const TOKEN_AUDIENCE: &str = "tokenAudience";
/// Certificate authorities to trust, as PEM: for a store with its own.
pub(crate) const CA_CERTIFICATES: &str = "caCertificates";
/// A store by its name in the controller's table.
pub(crate) const STORE: &str = "store";
/// Where in a bucket a new volume goes.
pub(crate) const PATH_PATTERN: &str = "pathPattern";
/// What happens to a volume's data when the volume goes.
pub(crate) const ON_DELETE: &str = "onDelete";
/// The NFS provisioner's word for `onDelete: archive`.
pub(crate) const ARCHIVE_ON_DELETE: &str = "archiveOnDelete";

/// Words of a volume that are no flags.
pub(crate) const OF_VOLUMES: [&str; 9] = [
    BUCKET,
    SERVER,
    HANDOFF,
    MOUNT_OPTIONS,
    ROLE_ARN,
    STS_ENDPOINT_URL,
    TOKEN_AUDIENCE,
    CA_CERTIFICATES,
    STORE,
];

/// Words of a StorageClass beside those.
pub(crate) const OF_CLASSES: [&str; 3] = [PATH_PATTERN, ON_DELETE, ARCHIVE_ON_DELETE];

/// Holds for every volume anyhow, and stands in many people's mountOptions.
const ALWAYS: &str = "allow-other";

/// What of the operator's a pod may say too, beside everything about the bucket: it has to bring
/// credentials of its own, so it reaches with them what it reaches without.
const OF_OWN_OBJECTS: [&str; 5] =
    ["no-sign-request", "storage-class", "sse", "sse-kms-key-id", "checksums"];

/// Flags that a volume may name whose sidecar has its own: they say which bucket it is, or are the
/// kernel's too.
pub(crate) const OF_SIDECARS: [&str; 5] =
    ["prefix", "endpoint-url", "region", "force-path-style", "read-only"];

/// Who described the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    /// Who may make PersistentVolumes and StorageClasses.
    Owner,
    /// Who may make pods, by an inline volume.
    Pod,
}

/// An option that was said, and where.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) option: &'static Definition,
    pub(crate) value: String,
    pub(crate) field: String,
}

/// A description, taken apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Description {
    /// Options of s3pod, each once.
    pub(crate) options: Vec<Said>,
    /// What is none, by its word.
    pub(crate) words: BTreeMap<&'static str, String>,
}

impl Description {
    /// The value behind a word that is no flag.
    pub(crate) fn word(&self, word: &str) -> Option<&str> {
        self.words.get(word).map(String::as_str)
    }

    /// The value of a flag.
    pub(crate) fn option(&self, flag: &str) -> Option<&str> {
        self.options.iter().find(|said| said.option.flag == flag).map(|said| said.value.as_str())
    }

    /// Says an option, unless somebody has.
    pub(crate) fn or_say(&mut self, flag: &'static str, value: impl Into<String>) {
        if self.option(flag).is_none() {
            let option = s3pod::config::find(flag);
            let option = option.expect("the table has this flag; a test says every one");
            let field = flag.to_owned();
            self.options.push(Said { option, value: value.into(), field });
        }
    }

    /// Takes an option out of it.
    pub(crate) fn take(&mut self, flag: &str) -> Option<String> {
        let at = self.options.iter().position(|said| said.option.flag == flag)?;
        Some(self.options.remove(at).value)
    }
}

/// True for a flag that a volume's owner may say.
pub(crate) fn is_option(flag: &str) -> bool {
    OPTIONS.iter().any(|option| option.flag == flag && option.authority != Authority::Local)
}

/// The camelCase of a flag: `endpoint-url` is `endpointUrl`.
pub(crate) fn attribute_of(flag: &str) -> String {
    let mut parts = flag.split('-');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (first, rest) = part.split_at(part.len().min(1));
        name.push_str(&first.to_ascii_uppercase());
        name.push_str(rest);
    }
    name
}

/// Takes the map in `field` of a call apart. What Kubernetes adds has a slash in its name and is
/// none of the description.
pub(crate) fn read(
    field: &str,
    map: &HashMap<String, String>,
    words: &[&'static str],
    speaker: Speaker,
) -> Result<Description, Refusal> {
    let mut read = Description::default();
    let mut described: Vec<(&String, &String)> =
        map.iter().filter(|(name, _)| !name.contains('/')).collect();
    described.sort();
    for (name, value) in described {
        let place = format!("{field}.{name}");
        if let Some(word) = words.iter().find(|word| *word == name) {
            read.words.insert(word, value.clone());
            continue;
        }
        let option = OPTIONS.iter().find(|option| attribute_of(option.flag) == *name);
        let option = option.ok_or_else(|| Refusal::field(&place, unknown(name, words)))?;
        option.check(value).map_err(|reason| Refusal::field(&place, reason))?;
        if let Some(why) = denied(option, speaker, Form::Attribute) {
            return Err(Refusal::denied(&place, why));
        }
        add(&mut read, option, value.clone(), place)?;
    }
    Ok(read)
}

/// Adds options in the grammar of mount(8), which stood in `field`.
pub(crate) fn add_mount_options<'t>(
    read: &mut Description,
    field: &str,
    lists: impl IntoIterator<Item = &'t str>,
    speaker: Speaker,
) -> Result<(), Refusal> {
    let parsed = parse_mount_options(lists).map_err(|error| {
        let said = error.to_string();
        Refusal::field(field, said.strip_prefix("-o: ").unwrap_or(&said))
    })?;
    for (option, value) in parsed {
        if option.flag == ALWAYS {
            continue;
        }
        let place = format!("{field}: `{}`", option.flag);
        if let Some(why) = denied(option, speaker, Form::MountOption) {
            return Err(Refusal::denied(place, why));
        }
        add(read, option, value, place)?;
    }
    Ok(())
}

fn add(
    read: &mut Description,
    option: &'static Definition,
    value: String,
    field: String,
) -> Result<(), Refusal> {
    match read.options.iter().find(|said| said.option.flag == option.flag) {
        None => read.options.push(Said { option, value, field }),
        Some(said) if is_same(option, &said.value, &value) => {}
        Some(said) => {
            let reason = format!("contradicts {}; leave one of them out", said.field);
            return Err(Refusal::field(field, reason));
        }
    }
    Ok(())
}

/// True where both spell the same value.
fn is_same(option: &'static Definition, one: &str, other: &str) -> bool {
    let with = |value: &str| {
        let mut options = Options::default();
        options.set(option, value).map(|()| options)
    };
    matches!((with(one), with(other)), (Ok(one), Ok(other)) if one.agrees(&other))
}

/// In which form an option was said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Attribute,
    MountOption,
}

/// Why `speaker` may not set the option; none where they may.
fn denied(option: &Definition, speaker: Speaker, form: Form) -> Option<&'static str> {
    let is_of_own =
        matches!(option.category, Category::Bucket) || OF_OWN_OBJECTS.contains(&option.flag);
    match (option.authority, speaker) {
        (Authority::Tuning, _) | (Authority::Operator, Speaker::Owner) => None,
        (Authority::Operator, Speaker::Pod) if is_of_own && form == Form::Attribute => None,
        (Authority::Operator, Speaker::Pod) if is_of_own => {
            Some("mount options of an inline volume only tune it; write it as an attribute")
        }
        (Authority::Operator, Speaker::Pod) => Some(
            "an inline volume may not take the node's memory, disk or network for itself; leave \
             it out, or use a PersistentVolume",
        ),
        (Authority::Local, _) => {
            Some("paths and processes of the node are the driver's to choose; leave it out")
        }
    }
}

/// What to write instead of an unknown word.
fn unknown(name: &str, words: &[&'static str]) -> String {
    if OF_CLASSES.contains(&name) {
        return "only a StorageClass can say this, in its parameters; leave it out".to_owned();
    }
    let known = OPTIONS
        .iter()
        .filter(|option| option.authority != Authority::Local)
        .map(|option| attribute_of(option.flag))
        .chain(words.iter().map(|word| (*word).to_owned()));
    let nearest = known.map(|word| (distance(name, &word), word)).min();
    match nearest {
        Some((distance, word)) if distance <= 1 + name.len() / 4 => {
            format!("there is no such attribute; did you mean `{word}`?")
        }
        _ => "there is no such attribute; docs/configuration.md lists the options, and \
              docs/kubernetes/csi.md what else a volume says"
            .to_owned(),
    }
}

/// How many letters have to change (Levenshtein), upper and lower case alike.
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, mine) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, theirs) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(mine != theirs);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::refusal::Code;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn refused(pairs: &[(&str, &str)], speaker: Speaker) -> Refusal {
        read("volumeAttributes", &map(pairs), &OF_VOLUMES, speaker).unwrap_err()
    }

    #[test]
    fn every_option_is_an_attribute_by_its_camel_case_and_its_authority() {
        assert_eq!(attribute_of("endpoint-url"), "endpointUrl");
        assert_eq!(attribute_of("sse-kms-key-id"), "sseKmsKeyId");
        assert_eq!(attribute_of("uid"), "uid");
        for option in OPTIONS {
            let name = attribute_of(option.flag);
            let said = map(&[(name.as_str(), option.example)]);
            let of = |speaker| read("volumeAttributes", &said, &OF_VOLUMES, speaker);
            match option.authority {
                Authority::Tuning => assert!(of(Speaker::Pod).is_ok(), "{name}"),
                Authority::Operator => assert!(of(Speaker::Owner).is_ok(), "{name}"),
                Authority::Local => {
                    let refusal = of(Speaker::Owner).unwrap_err();
                    assert_eq!(refusal.code, Code::PermissionDenied, "{name}");
                    assert!(refusal.message.contains(&name), "{refusal}");
                }
            }
        }
    }

    #[test]
    fn a_pod_tunes_and_names_its_bucket_and_takes_nothing_of_the_node() {
        let fine = [
            ("bucket", "b"),
            ("prefix", "p"),
            ("endpointUrl", "http://minio:9000"),
            ("region", "eu-west-1"),
            ("forcePathStyle", "true"),
            ("sse", "AES256"),
            ("metadataTtl", "5m"),
        ];
        assert!(read("volumeAttributes", &map(&fine), &OF_VOLUMES, Speaker::Pod).is_ok());
        for (name, value) in [
            ("memoryLimit", "1GiB"),
            ("cacheSize", "1TiB"),
            ("stagingSize", "1TiB"),
            ("maxRequests", "1000"),
            ("proxy", "http://proxy:1"),
            ("writeBack", "true"),
            ("logLevel", "trace"),
        ] {
            let refusal = refused(&[(name, value)], Speaker::Pod);
            assert_eq!(refusal.code, Code::PermissionDenied, "{name}");
            assert!(refusal.message.starts_with(&format!("volumeAttributes.{name}: ")));
        }
    }

    #[test]
    fn mount_options_of_a_pod_only_tune() {
        let mut read = Description::default();
        let mut add = |list, speaker| add_mount_options(&mut read, "mountOptions", [list], speaker);
        add("metadata-ttl=5m,allow_other,ro", Speaker::Pod).unwrap();
        for list in ["endpoint-url=http://a", "prefix=a", "cache-dir=/", "credentials-file=/x"] {
            let refusal = add(list, Speaker::Pod).unwrap_err();
            assert_eq!(refusal.code, Code::PermissionDenied, "{list}");
        }
        add("endpoint-url=http://a", Speaker::Owner).unwrap();
        assert_eq!(add("cache-dir=/", Speaker::Owner).unwrap_err().code, Code::PermissionDenied);
        let refusal = add("alow-other", Speaker::Owner).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidArgument);
        assert!(refusal.message.starts_with("mountOptions: unknown option `alow-other`"));
        let flags: Vec<&str> = read.options.iter().map(|said| said.option.flag).collect();
        assert_eq!(flags, ["metadata-ttl", "read-only", "endpoint-url"]);
    }

    #[test]
    fn an_unknown_word_is_answered_with_the_nearest_known() {
        for (name, words) in [
            ("endpointURL", "`endpointUrl`"),
            ("buket", "`bucket`"),
            ("metadata-ttl", "`metadataTtl`"),
            ("somethingElse", "docs/kubernetes/csi.md"),
            ("pathPattern", "StorageClass"),
        ] {
            let refusal = refused(&[(name, "x")], Speaker::Owner);
            assert_eq!(refusal.code, Code::InvalidArgument);
            assert!(refusal.message.contains(words), "{refusal}");
            assert!(refusal.message.starts_with(&format!("volumeAttributes.{name}: ")));
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_attribute() {
        let refusal = refused(&[("metadataTtl", "soon")], Speaker::Owner);
        assert!(refusal.message.starts_with("volumeAttributes.metadataTtl: `soon`"), "{refusal}");
        let refusal = refused(&[("proxy", "ftp://me:hunter2@p")], Speaker::Owner);
        assert!(!refusal.message.contains("hunter2"), "{refusal}");
    }

    #[test]
    fn what_is_said_twice_must_be_the_same() {
        let said = map(&[("cacheSize", "1024MiB"), ("csi.storage.k8s.io/pod.name", "x")]);
        let mut read = read("volumeAttributes", &said, &OF_VOLUMES, Speaker::Owner).unwrap();
        let mut add = |list| add_mount_options(&mut read, "mountOptions", [list], Speaker::Owner);
        add("cache-size=1GiB").unwrap();
        let refusal = add("cache-size=2GiB").unwrap_err();
        assert_eq!(
            refusal.message,
            "mountOptions: `cache-size`: contradicts volumeAttributes.cacheSize; leave one of \
             them out"
        );
    }
}
