//! Options that say what applications see: attributes, names, how long they hold.
//!
//! Owns their lines of the table. Must not know how objects are written.

use crate::units::ByteSize;

use crate::config::definition::{Authority, Category, Definition, Kind};
use crate::config::values;

pub(super) const TABLE: &[Definition] = &[
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
];
