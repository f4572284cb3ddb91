//! Options for memory, disk and requests.
//!
//! Owns their lines of the table. Must not know what they are spent on.

use crate::units::{MIB, TIB};

use crate::config::definition::{Authority, Category, Definition, Kind};
use crate::config::values;

/// The least `--memory-limit`: two blocks being read and two parts being written, of 8 MiB each.
pub(in crate::config) const MEMORY_LIMIT_MIN: u64 = 32 * MIB;

pub(super) const TABLE: &[Definition] = &[
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
        default: "a quarter of the cgroup's limit, at least 64MiB or what fits; 192MiB without one",
        help: "Memory for everything the mount holds: read-ahead, parts, buffers, inodes",
        details: "At least 32MiB. The process stays under this and a fixed 48MiB, so a cgroup of \
                  less than 80MiB is refused.",
        category: Category::Resources,
        authority: Authority::Operator,
        example: "256MiB",
        set: |o, text| {
            values::size_within(text, MEMORY_LIMIT_MIN, TIB)
                .map(|size| o.operator.memory_limit = Some(size))
        },
    },
    Definition {
        flag: "cache-dir",
        kind: Kind::Value("DIR|none"),
        default: "/var/cache/s3pod for root, else $XDG_CACHE_HOME/s3pod or ~/.cache/s3pod",
        help: "Folder for what is kept on local disk",
        details: "What was read is cached there, and unless --journal-dir says otherwise files \
                  that are being written are staged there. Mounts that share it share what they \
                  read, so only mounts that may read the same objects should. `none` caches in \
                  memory alone, and without --journal-dir stages in the memory budget (ENOSPC \
                  beyond it) and makes --attr-delay 0 and --delete sync.",
        category: Category::Resources,
        authority: Authority::Local,
        example: "/var/cache/s3pod",
        set: |o, text| values::parsed(text).map(|folder| o.local.cache_dir = folder),
    },
    Definition {
        flag: "journal-dir",
        kind: Kind::Value("DIR"),
        default: "--cache-dir",
        help: "Folder for what is not in S3 yet: staged files, and the journal of intents",
        details: "What a crash must not lose, and what `s3pod recover` shows. With it --cache-dir \
                  holds nothing but what was read, and may go at any time: in a pod an emptyDir, \
                  beside a journal on a volume that outlives the pod. It has effect with \
                  --cache-dir none too.",
        category: Category::Resources,
        authority: Authority::Local,
        example: "/var/lib/s3pod",
        set: |o, text| values::path(text).map(|path| o.local.journal_dir = Some(path)),
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
        flag: "disk-limit",
        kind: Kind::Value("SIZE"),
        default: "",
        help: "Disk for all of --cache-dir; --cache-size and --staging-size follow from it",
        details: "95% of it are used, half for each where neither is given; with --journal-dir all \
                  for what was read. In a pod it comes from the downward API (resourceFieldRef: \
                  limits.ephemeral-storage), or is the sizeLimit of the emptyDir: beyond either, \
                  kubelet evicts the pod.",
        category: Category::Resources,
        authority: Authority::Operator,
        example: "10GiB",
        set: |o, text| {
            values::size_within(text, 32 * MIB, 1024 * TIB)
                .map(|size| o.operator.disk_limit = Some(size))
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
                  ENOSPC. With --cache-dir none it is memory: a quarter of the limit, or less \
                  where you say so.",
        category: Category::Resources,
        authority: Authority::Operator,
        example: "20GiB",
        // 16 MiB: what of a streamed file stays staged whatever happens.
        set: |o, text| {
            values::size_within(text, 16 * MIB, 1024 * TIB)
                .map(|size| o.operator.staging_size = Some(size))
        },
    },
];
