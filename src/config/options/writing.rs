//! Options that say how objects are written.
//!
//! Owns their lines of the table. Must not know what applications see.

use crate::units::{GIB, MIB};

use crate::config::definition::{Authority, Category, Definition, Kind};
use crate::config::values;

pub(super) const TABLE: &[Definition] = &[
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
        details: "The store verifies it, and what is read is compared with what it keeps. \
                  always: all. when-required: those for which the API demands one, and nothing is \
                  compared. auto: all on AWS, and elsewhere all until the store refuses one.",
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
                  pod goes, and on a container's own file system (overlay) when the container \
                  does, so --write-back is refused there without this.",
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
];
