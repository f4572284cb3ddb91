//! Options for the mount and its process.
//!
//! Owns their lines of the table. Must not know what is in the bucket.

use crate::config::definition::{Authority, Category, Definition, Kind};
use crate::config::values;

pub(super) const TABLE: &[Definition] = &[
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
        flag: "wait-for-store",
        kind: Kind::Switch,
        default: "",
        help: "Wait for a store that cannot be reached yet, and mount once it answers",
        details: "It is asked every second, and each new reason is logged once. What waiting does \
                  not mend, as a wrong bucket or key, ends the mount as ever. Without it, one that \
                  cannot be reached does too.",
        category: Category::Process,
        authority: Authority::Local,
        example: "true",
        set: |o, text| values::switch(text).map(|on| o.local.wait_for_store = Some(on)),
    },
    Definition {
        flag: "leave-mount",
        kind: Kind::Value("FILE"),
        default: "",
        help: "At the end leave the mount, dead, while somebody holds a lock on FILE",
        details: "For who is started anew under a running application: what that would write while \
                  nothing is mounted would land in the directory beneath. Everything is sent as \
                  ever; then the mount answers \"Transport endpoint is not connected\" until \
                  somebody mounts over it (--replace-stale), and whoever holds the lock (flock) \
                  takes it away at last. A mount that fusermount3 made is unmounted all the same.",
        category: Category::Process,
        authority: Authority::Local,
        example: "/s3/.lock",
        set: |o, text| values::path(text).map(|path| o.local.leave_mount = Some(path)),
    },
    Definition {
        flag: "config",
        kind: Kind::Value("FILE"),
        default: "",
        help: "Take options from this file too, one `flag = value` a line",
        details: "Flags and the environment win over it. The file is looked at every 10s while the \
                  mount runs: log-level, metadata-ttl, memory-limit, disk-limit, cache-size, \
                  staging-size and max-requests change at once, others at the next start, and the \
                  log says which. Mount a ConfigMap as a folder, not by subPath, or its changes \
                  never arrive.",
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
];
