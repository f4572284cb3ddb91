//! Options that say what is logged, how and where.
//!
//! Owns their lines of the table. Must not know who reads it.

use crate::config::definition::{Authority, Category, Definition, Kind};
use crate::config::values;

pub(super) const TABLE: &[Definition] = &[
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
