//! THE table of options: every one exists here and nowhere else.
//!
//! Owns [`OPTIONS`], which fills the typed options. The command line, the environment, `-o`,
//! `--help` and `docs/configuration.md` are projections of it. Promises: reading options touches
//! nothing, neither environment nor disk. Must not know what is done with a value.
//!
//! What is said nearer wins: a flag or `-o`, then `S3POD_<FLAG>`, then `--config`,
//! then the default.

use crate::units::{ByteSize, GIB, MIB, TIB};

use super::definition::{Authority, Category, Definition, Kind};
use super::values;

/// The option behind a flag.
pub fn find(flag: &str) -> Option<&'static Definition> {
    OPTIONS.iter().find(|option| option.flag == flag)
}

/// Every option, in the order in which they are shown within their category.
pub static OPTIONS: &[Definition] = &[
    Definition {
        flag: "prefix",
        kind: Kind::Value("PREFIX"),
        default: "",
        help: "Show only keys below this prefix, as the root of the mount",
        details: "The same as mounting s3://BUCKET/PREFIX. Slashes at both ends are dropped.",
        category: Category::Bucket,
        authority: Authority::Operator,
        example: "team-a/data",
        set: |o, text| values::prefix(text).map(|prefix| o.operator.prefix = Some(prefix)),
    },
    Definition {
        flag: "endpoint-url",
        kind: Kind::Value("URL"),
        default: "",
        help: "Talk to this S3 endpoint, not to the one of the region",
        details: "Scheme, host and port alone, like http://127.0.0.1:9000. Where it is absent, the \
                  SDK's own rules hold (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile).",
        category: Category::Bucket,
        authority: Authority::Operator,
        example: "http://127.0.0.1:9000",
        set: |o, text| values::parsed(text).map(|url| o.operator.endpoint_url = url),
    },
    Definition {
        flag: "region",
        kind: Kind::Value("REGION"),
        default: "",
        help: "Region of the bucket",
        details: "Where it is absent, the SDK's own rules hold (AWS_REGION, the profile, the \
                  instance); on AWS the bucket itself says where it is.",
        category: Category::Bucket,
        authority: Authority::Operator,
        example: "eu-central-1",
        set: |o, text| values::word(text).map(|region| o.operator.region = Some(region)),
    },
    Definition {
        flag: "force-path-style",
        kind: Kind::Switch,
        default: "on with an endpoint outside AWS",
        help: "Put the bucket into the URL's path, not into the host's name",
        details: "MinIO, SeaweedFS and most servers without a wildcard DNS name need it, so it is \
                  on for every --endpoint-url outside amazonaws.com. A store that refuses it needs \
                  -o force-path-style=false.",
        category: Category::Bucket,
        authority: Authority::Operator,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.operator.force_path_style = Some(on)),
    },
    Definition {
        flag: "requester-pays",
        kind: Kind::Switch,
        default: "",
        help: "Pay for the requests to a Requester Pays bucket",
        details: "",
        category: Category::Bucket,
        authority: Authority::Operator,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.operator.requester_pays = Some(on)),
    },
    Definition {
        flag: "profile",
        kind: Kind::Value("NAME"),
        default: "",
        help: "Take credentials and region from this profile of ~/.aws",
        details: "Where it is absent, the SDK's default chain holds: environment, AWS_PROFILE, web \
                  identity (IRSA), Pod Identity, instance metadata.",
        category: Category::Access,
        authority: Authority::Local,
        example: "research",
        set: |o, text| values::word(text).map(|profile| o.local.profile = Some(profile)),
    },
    Definition {
        flag: "credentials-file",
        kind: Kind::Value("FILE"),
        default: "",
        help: "Take credentials from this file of AWS profiles, and from nowhere else",
        details: "Like ~/.aws/credentials; --profile names another section than `default`. It is \
                  read again while the mount runs. Where the section has role_arn and \
                  web_identity_token_file, STS is asked, at its endpoint_url.",
        category: Category::Access,
        authority: Authority::Local,
        example: "/run/secrets/s3/credentials",
        set: |o, text| values::path(text).map(|path| o.local.credentials_file = Some(path)),
    },
    Definition {
        flag: "no-sign-request",
        kind: Kind::Switch,
        default: "",
        help: "Send no credentials, for public buckets",
        details: "",
        category: Category::Access,
        authority: Authority::Operator,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.operator.no_sign_request = Some(on)),
    },
    Definition {
        flag: "ca-bundle",
        kind: Kind::Value("FILE"),
        default: "$AWS_CA_BUNDLE",
        help: "Trust the certificate authorities in this PEM file, besides the system's",
        details: "",
        category: Category::Access,
        authority: Authority::Local,
        example: "/etc/ssl/company.pem",
        set: |o, text| values::path(text).map(|path| o.local.ca_bundle = Some(path)),
    },
    Definition {
        flag: "proxy",
        kind: Kind::Value("URL"),
        default: "$HTTPS_PROXY and $HTTP_PROXY",
        help: "Send requests through this HTTP proxy",
        details: "For https and http endpoints alike. Every process can read a command line, so a \
                  proxy's password goes into S3POD_PROXY or HTTPS_PROXY. Addresses of instance \
                  metadata are never asked through a proxy.",
        category: Category::Access,
        authority: Authority::Operator,
        example: "http://proxy.example.com:3128",
        set: |o, text| values::parsed(text).map(|url| o.operator.proxy = url),
    },
    Definition {
        flag: "no-proxy",
        kind: Kind::Value("HOSTS"),
        default: "$NO_PROXY",
        help: "Reach these hosts without the proxy",
        details: "Host names, domains, addresses and networks, separated by commas.",
        category: Category::Access,
        authority: Authority::Operator,
        example: "localhost,10.0.0.0/8,.internal",
        set: |o, text| values::word(text).map(|hosts| o.operator.no_proxy = Some(hosts)),
    },
    Definition {
        flag: "read-only",
        kind: Kind::Switch,
        default: "",
        help: "Refuse every change",
        details: "It also makes --metadata list and --metadata-ttl 60s the defaults. `ro` behind \
                  -o is the same, `rw` its opposite.",
        category: Category::Files,
        authority: Authority::Tuning,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.tuning.read_only = Some(on)),
    },
    Definition {
        flag: "metadata",
        kind: Kind::Value("posix|list"),
        default: "posix; list with --read-only",
        help: "Where mode, owner, mtime and symlinks come from",
        details: "posix: from the objects' metadata, for one HEAD per file looked at. list: from \
                  listings alone, without any HEAD; every file then has --uid, --gid and \
                  --file-mode, and chmod, chown and symlinks are refused.",
        category: Category::Files,
        authority: Authority::Tuning,
        example: "list",
        set: |o, text| values::parsed(text).map(|mode| o.tuning.metadata = mode),
    },
    Definition {
        flag: "metadata-ttl",
        kind: Kind::Value("TIME"),
        default: "1s; 60s with --read-only",
        help: "How long names and attributes are believed without asking the store",
        details: "Changes made elsewhere show after at most this time. `indefinite` never asks \
                  again: for buckets that nobody changes while they are mounted.",
        category: Category::Files,
        authority: Authority::Tuning,
        example: "5m",
        set: |o, text| values::ttl(text).map(|ttl| o.tuning.metadata_ttl = Some(ttl)),
    },
    Definition {
        flag: "uid",
        kind: Kind::Value("UID"),
        default: "the user who mounts",
        help: "Owner of files that say nothing of an owner",
        details: "",
        category: Category::Files,
        authority: Authority::Tuning,
        example: "1000",
        set: |o, text| values::id(text).map(|uid| o.tuning.uid = Some(uid)),
    },
    Definition {
        flag: "gid",
        kind: Kind::Value("GID"),
        default: "the group of who mounts",
        help: "Group of files that say nothing of a group",
        details: "",
        category: Category::Files,
        authority: Authority::Tuning,
        example: "1000",
        set: |o, text| values::id(text).map(|gid| o.tuning.gid = Some(gid)),
    },
    Definition {
        flag: "dir-mode",
        kind: Kind::Value("MODE"),
        default: "0755",
        help: "Permissions of directories that say nothing of them, in octal",
        details: "",
        category: Category::Files,
        authority: Authority::Tuning,
        example: "2775",
        set: |o, text| values::mode(text).map(|mode| o.tuning.dir_mode = Some(mode)),
    },
    Definition {
        flag: "file-mode",
        kind: Kind::Value("MODE"),
        default: "0644",
        help: "Permissions of files that say nothing of them, in octal",
        details: "",
        category: Category::Files,
        authority: Authority::Tuning,
        example: "0664",
        set: |o, text| values::mode(text).map(|mode| o.tuning.file_mode = Some(mode)),
    },
    Definition {
        flag: "capacity",
        kind: Kind::Value("SIZE"),
        default: "",
        help: "Show this as the size of the file system, and refuse to grow beyond it",
        details: "A soft quota: what is used is counted by a listing after the mount and every 6 \
                  hours, and this mount's own changes are added; then a write beyond it is ENOSPC.",
        category: Category::Files,
        authority: Authority::Operator,
        example: "100GiB",
        set: |o, text| values::parsed::<ByteSize>(text).map(|size| o.operator.capacity = size),
    },
    Definition {
        flag: "capacity-key",
        kind: Kind::Value("KEY"),
        default: "",
        help: "Take the capacity from the JSON object under this key, anew every 60s",
        details: "",
        category: Category::Files,
        authority: Authority::Local,
        example: ".s3pod/volumes/0f",
        set: |o, text| values::word(text).map(|key| o.local.capacity_key = Some(key)),
    },
    Definition {
        flag: "storage-class",
        kind: Kind::Value("CLASS"),
        default: "the bucket's",
        help: "Storage class of new objects",
        details: "Like STANDARD_IA or INTELLIGENT_TIERING. An object that is replaced or edited \
                  keeps its own.",
        category: Category::Writing,
        authority: Authority::Operator,
        example: "INTELLIGENT_TIERING",
        set: |o, text| values::word(text).map(|class| o.operator.storage_class = Some(class)),
    },
    Definition {
        flag: "sse",
        kind: Kind::Value("KIND"),
        default: "the bucket's",
        help: "Encrypt new objects in the store: AES256, aws:kms or aws:kms:dsse",
        details: "An object that is replaced or edited keeps its own.",
        category: Category::Writing,
        authority: Authority::Operator,
        example: "aws:kms",
        set: |o, text| values::parsed(text).map(|sse| o.operator.sse = sse),
    },
    Definition {
        flag: "sse-kms-key-id",
        kind: Kind::Value("KEY"),
        default: "the bucket's",
        help: "KMS key of that encryption: id, alias or ARN",
        details: "Needs --sse aws:kms or aws:kms:dsse.",
        category: Category::Writing,
        authority: Authority::Operator,
        example: "alias/team-a",
        set: |o, text| values::word(text).map(|key| o.operator.sse_kms_key_id = Some(key)),
    },
    Definition {
        flag: "checksums",
        kind: Kind::Value("WHICH"),
        default: "auto",
        help: "Which uploads carry a CRC: auto, always or when-required",
        details: "The store verifies it. always: all. when-required: those for which the API \
                  demands one. auto: all on AWS, and elsewhere all until the store refuses one.",
        category: Category::Writing,
        authority: Authority::Operator,
        example: "always",
        set: |o, text| values::parsed(text).map(|checksums| o.operator.checksums = checksums),
    },
    Definition {
        flag: "exclusive-create",
        kind: Kind::Value("commit|open"),
        default: "commit",
        help: "When O_EXCL is decided between two mounts",
        details: "commit: at the first close() or fsync(), where the loser gets EEXIST; costs \
                  nothing. open: at open(), for one more PUT per file; a lock across pods.",
        category: Category::Writing,
        authority: Authority::Tuning,
        example: "open",
        set: |o, text| values::parsed(text).map(|moment| o.tuning.exclusive_create = moment),
    },
    Definition {
        flag: "attr-delay",
        kind: Kind::Value("TIME"),
        default: "1s; 0 with --cache-dir none",
        help: "How long chmod, chown and utimes may wait for a commit to ride on",
        details: "A change of attributes alone costs a copy of the object onto itself. Held up \
                  for this long (at most 60s), it often goes with the next commit or rename.",
        category: Category::Writing,
        authority: Authority::Tuning,
        example: "500ms",
        set: |o, text| values::seconds_within(text, 0, 60).map(|t| o.tuning.attr_delay = Some(t)),
    },
    Definition {
        flag: "delete",
        kind: Kind::Value("sync|queue"),
        default: "queue; sync with --cache-dir none",
        help: "When the objects of unlinked files are deleted",
        details: "queue: the first in a directory before unlink() returns, later ones soon after, \
                  up to 1 000 in a request; the name is gone at once, and rmdir, fsync of the \
                  directory and unmount wait. sync: each before its unlink() returns.",
        category: Category::Writing,
        authority: Authority::Tuning,
        example: "sync",
        set: |o, text| values::parsed(text).map(|mode| o.tuning.delete = mode),
    },
    Definition {
        flag: "write-back",
        kind: Kind::Switch,
        default: "",
        help: "Let close() return once the bytes are on local disk, and upload after that",
        details: "Bytes and intent are synced to --cache-dir before close() returns; a mount that \
                  is started again with the same folder finishes the uploads. Files appear in the \
                  bucket in the order in which they were closed. fsync() still waits for S3.",
        category: Category::Writing,
        authority: Authority::Operator,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.operator.write_back = Some(on)),
    },
    Definition {
        flag: "write-back-ephemeral",
        kind: Kind::Switch,
        default: "",
        help: "Accept --write-back on a folder that goes with the pod",
        details: "On an emptyDir or in memory, what was closed and not uploaded is lost when the \
                  pod goes, so --write-back is refused there without this.",
        category: Category::Writing,
        authority: Authority::Operator,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.operator.write_back_ephemeral = Some(on)),
    },
    Definition {
        flag: "part-size",
        kind: Kind::Value("SIZE"),
        default: "8MiB",
        help: "Size of an upload's parts",
        details: "From 5MiB to 5GiB. An upload has at most 10 000 parts.",
        category: Category::Writing,
        authority: Authority::Tuning,
        example: "16MiB",
        // S3's own bounds for a part.
        set: |o, text| {
            values::size_within(text, 5 * MIB, 5 * GIB).map(|size| o.tuning.part_size = Some(size))
        },
    },
    Definition {
        flag: "op-timeout",
        kind: Kind::Value("TIME"),
        default: "60s",
        help: "Fail a call that made no progress for so long",
        details: "Progress is a byte, a part or a key that the store acknowledged. Within this \
                  time, failed requests are retried; after it, the call is EIO. From 1s to 1h.",
        category: Category::Resources,
        authority: Authority::Tuning,
        example: "2m",
        set: |o, text| values::seconds_within(text, 1, 3600).map(|t| o.tuning.op_timeout = Some(t)),
    },
    Definition {
        flag: "max-requests",
        kind: Kind::Value("COUNT"),
        default: "64",
        help: "How many requests may be on their way at once",
        details: "From 1 to 1024. Each sets 512KiB of --memory-limit aside for its buffers, and \
                  together they get a quarter of it: 64 need 128MiB.",
        category: Category::Resources,
        authority: Authority::Operator,
        example: "128",
        set: |o, text| {
            values::count_within(text, 1, 1024).map(|count| o.operator.max_requests = Some(count))
        },
    },
    Definition {
        flag: "memory-limit",
        kind: Kind::Value("SIZE"),
        default: "a quarter of the cgroup's limit, at least 64MiB; 192MiB without a limit",
        help: "Memory for everything the mount holds: read-ahead, parts, buffers, inodes",
        details: "At least 32MiB. The process stays under this and a fixed 48MiB.",
        category: Category::Resources,
        authority: Authority::Operator,
        example: "256MiB",
        // 32 MiB: two blocks being read and two parts being written, of 8 MiB each.
        set: |o, text| {
            values::size_within(text, 32 * MIB, TIB)
                .map(|size| o.operator.memory_limit = Some(size))
        },
    },
    Definition {
        flag: "cache-dir",
        kind: Kind::Value("DIR|none"),
        default: "/var/cache/s3pod for root, else $XDG_CACHE_HOME/s3pod or ~/.cache/s3pod",
        help: "Folder for what is kept on local disk",
        details: "Files that are being written are staged there, and what was read is cached. \
                  Mounts that share it share what they read, so only mounts that may read the \
                  same objects should. `none` stages in the memory budget (ENOSPC beyond it), \
                  caches in memory alone, and makes --attr-delay 0 and --delete sync.",
        category: Category::Resources,
        authority: Authority::Local,
        example: "/var/cache/s3pod",
        set: |o, text| values::parsed(text).map(|folder| o.local.cache_dir = folder),
    },
    Definition {
        flag: "cache-size",
        kind: Kind::Value("SIZE"),
        default: "a quarter of the file system of --cache-dir",
        help: "Disk for what was read, kept over restarts",
        details: "Counted as the file system allocates it, for all mounts that share the folder. \
                  0 caches in memory alone. On an emptyDir, which is part of the node's disk, it \
                  and --staging-size have to fit into the sizeLimit.",
        category: Category::Resources,
        authority: Authority::Operator,
        example: "50GiB",
        set: |o, text| {
            values::size_within(text, 0, 1024 * TIB).map(|size| o.operator.cache_size = Some(size))
        },
    },
    Definition {
        flag: "cache-min-free",
        kind: Kind::Value("SIZE"),
        default: "a twentieth of the file system of --cache-dir",
        help: "Disk that the cache leaves free for others",
        details: "Where less is free, cached objects go before anything is cached, whatever \
                  --cache-size allows. kubelet evicts pods when less than a tenth is free.",
        category: Category::Resources,
        authority: Authority::Local,
        example: "10GiB",
        set: |o, text| {
            values::size_within(text, 0, 1024 * TIB).map(|size| o.local.cache_min_free = Some(size))
        },
    },
    Definition {
        flag: "no-passthrough",
        kind: Kind::Switch,
        default: "",
        help: "Never let the kernel read cached files by itself",
        details: "A file that lies wholly in the cache is otherwise handed to the kernel where it \
                  takes it (Linux 6.9, CAP_SYS_ADMIN): reads are then those of the local disk. \
                  Each block's checksum is verified before that, and not with every read.",
        category: Category::Resources,
        authority: Authority::Tuning,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.tuning.no_passthrough = Some(on)),
    },
    Definition {
        flag: "staging-size",
        kind: Kind::Value("SIZE"),
        default: "half of the folder's free space at start",
        help: "Disk for bytes that are written and not in S3 yet",
        details: "At least 16MiB. When it is full, a streaming writer goes on and any other gets \
                  ENOSPC. With --cache-dir none it is half of the memory limit.",
        category: Category::Resources,
        authority: Authority::Operator,
        example: "20GiB",
        // 16 MiB: what of a streamed file stays staged whatever happens.
        set: |o, text| {
            values::size_within(text, 16 * MIB, 1024 * TIB)
                .map(|size| o.operator.staging_size = Some(size))
        },
    },
    Definition {
        flag: "foreground",
        kind: Kind::Switch,
        default: "",
        help: "Stay in the foreground until the mount ends",
        details: "Without it, the command returns once the mount answers, or prints why it does \
                  not.",
        category: Category::Process,
        authority: Authority::Local,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.local.foreground = Some(on)),
    },
    Definition {
        flag: "allow-other",
        kind: Kind::Switch,
        default: "",
        help: "Let other users than the one who mounts use the files",
        details: "File permissions hold for them as on a disk. Where the mount is not made by \
                  root, /etc/fuse.conf must say user_allow_other.",
        category: Category::Process,
        authority: Authority::Local,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.local.allow_other = Some(on)),
    },
    Definition {
        flag: "nonempty",
        kind: Kind::Switch,
        default: "",
        help: "Mount over a directory that has files in it",
        details: "They are hidden until the unmount.",
        category: Category::Process,
        authority: Authority::Local,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.local.nonempty = Some(on)),
    },
    Definition {
        flag: "replace-stale",
        kind: Kind::Switch,
        default: "",
        help: "Mount over a FUSE mount whose server has died",
        details: "Such a directory answers \"Transport endpoint is not connected\".",
        category: Category::Process,
        authority: Authority::Local,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.local.replace_stale = Some(on)),
    },
    Definition {
        flag: "config",
        kind: Kind::Value("FILE"),
        default: "",
        help: "Take options from this file too, one `flag = value` a line",
        details: "Flags and the environment win over it. The file is looked at every 10s while the \
                  mount runs: log-level and metadata-ttl change at once, others at the next start, \
                  and the log says which. Mount a ConfigMap as a folder, not by subPath, or its \
                  changes never arrive.",
        category: Category::Process,
        authority: Authority::Local,
        example: "/etc/s3pod/options",
        set: |o, text| values::path(text).map(|path| o.local.config = Some(path)),
    },
    Definition {
        flag: "admin-address",
        kind: Kind::Value("[HOST:]PORT"),
        default: "",
        help: "Answer /healthz, /readyz and /metrics over HTTP there",
        details: "A port alone listens on every address. /healthz never depends on the store; \
                  /readyz does when asked as /readyz?backend. `s3pod health` needs no port.",
        category: Category::Process,
        authority: Authority::Local,
        example: "127.0.0.1:9808",
        set: |o, text| {
            values::listen_address(text).map(|address| o.local.admin_address = Some(address))
        },
    },
    Definition {
        flag: "log-level",
        kind: Kind::Value("LEVEL"),
        default: "info",
        help: "Log this and worse: error, warn, info, debug or trace",
        details: "Libraries beneath are held at warn, since their debug lines can show requests \
                  with signatures.",
        category: Category::Logging,
        authority: Authority::Operator,
        example: "debug",
        set: |o, text| values::parsed(text).map(|level| o.operator.log_level = level),
    },
    Definition {
        flag: "log-format",
        kind: Kind::Value("text|json"),
        default: "text",
        help: "How a line of the log looks",
        details: "",
        category: Category::Logging,
        authority: Authority::Local,
        example: "json",
        set: |o, text| values::parsed(text).map(|format| o.local.log_format = format),
    },
    Definition {
        flag: "log-file",
        kind: Kind::Value("FILE"),
        default: "stderr",
        help: "Append the log to this file",
        details: "",
        category: Category::Logging,
        authority: Authority::Local,
        example: "/var/log/s3pod.log",
        set: |o, text| values::path(text).map(|path| o.local.log_file = Some(path)),
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LocalOptions, OperatorOptions, Options, TuningOptions};
    use std::collections::BTreeSet;

    #[test]
    fn no_option_is_there_twice() {
        let flags: BTreeSet<_> = OPTIONS.iter().map(|option| option.flag).collect();
        assert_eq!(flags.len(), OPTIONS.len());
        let names: BTreeSet<_> = OPTIONS.iter().map(Definition::env).collect();
        assert_eq!(names.len(), OPTIONS.len());
    }

    #[test]
    fn every_option_is_explained_in_one_line_of_plain_words() {
        for option in OPTIONS {
            let flag = option.flag;
            let plain = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(flag.chars().all(plain), "{flag}");
            assert!(!option.help.is_empty() && option.help.len() <= 80, "{flag}");
            assert!(!option.help.contains('\n') && !option.help.ends_with('.'), "{flag}");
            assert!(option.details.is_empty() || option.details.ends_with('.'), "{flag}");
        }
    }

    #[test]
    fn the_environment_names_follow_from_the_flags() {
        assert_eq!(find("endpoint-url").unwrap().env(), "S3POD_ENDPOINT_URL");
        for option in OPTIONS {
            let name = option.env();
            let back = name.strip_prefix("S3POD_").unwrap().to_ascii_lowercase().replace('_', "-");
            assert_eq!(back, option.flag);
        }
    }

    #[test]
    fn every_option_takes_its_example_and_no_two_share_a_field() {
        let mut results = BTreeSet::new();
        for option in OPTIONS {
            let mut options = Options::default();
            options.set(option, option.example).unwrap();
            assert_ne!(options, Options::default(), "{} changes nothing", option.flag);
            options.given.clear();
            assert!(results.insert(format!("{options:?}")), "{} writes another's", option.flag);
        }
    }

    #[test]
    fn an_option_writes_into_the_struct_of_its_authority() {
        for option in OPTIONS {
            let mut options = Options::default();
            options.set(option, option.example).unwrap();
            let written = [
                (Authority::Local, options.local != LocalOptions::default()),
                (Authority::Operator, options.operator != OperatorOptions::default()),
                (Authority::Tuning, options.tuning != TuningOptions::default()),
            ];
            for (authority, is_written) in written {
                assert_eq!(is_written, authority == option.authority, "{}", option.flag);
            }
        }
    }

    #[test]
    fn a_default_that_is_a_plain_value_is_one_the_option_takes() {
        for flag in [
            "dir-mode",
            "file-mode",
            "checksums",
            "exclusive-create",
            "part-size",
            "op-timeout",
            "max-requests",
            "log-level",
            "log-format",
        ] {
            let option = find(flag).unwrap();
            assert_eq!(option.check(option.default), Ok(()), "{flag}");
        }
    }
}
