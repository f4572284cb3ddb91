//! What `seccompProfile: {type: RuntimeDefault}` forbids.
//!
//! Owns the filter that a container gets who asks for it: the calls that containerd's own profile
//! keeps from a container without capabilities answer EPERM. Must not know what runs there.

use serde_json::{Value, json};

use crate::spec::Container;

/// The flags of clone(2) that make a namespace: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID
/// and NEWNET.
const NEW_NAMESPACES: [u64; 7] =
    [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
const EPERM: i32 = nix::libc::EPERM;
/// The C library falls back to clone(2), whose flags a filter can see.
const ENOSYS: i32 = nix::libc::ENOSYS;

/// The kernel's own things, other processes, mounts and namespaces, and rings of requests that
/// go around every filter.
const FORBIDDEN: [&str; 53] = [
    "acct",
    "add_key",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_mempolicy",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mbind",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "set_mempolicy",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "umount2",
    "unshare",
    "userfaultfd",
    "vhangup",
];

/// The filter of a container, as the runtime wants it; none where it asks for none.
pub(crate) fn profile(container: &Container) -> Value {
    let asked = container.security_context.seccomp_profile.as_ref();
    if asked.is_none_or(|profile| profile.kind != "RuntimeDefault") {
        return Value::Null;
    }
    let forbidden = |names: &[&str], errno: i32| {
        let action = "SCMP_ACT_ERRNO";
        json!({"names": names, "action": action, "errnoRet": errno})
    };
    let mut syscalls = vec![forbidden(&FORBIDDEN, EPERM), forbidden(&["clone3"], ENOSYS)];
    for flag in NEW_NAMESPACES {
        let mut clone = forbidden(&["clone"], EPERM);
        clone["args"] =
            json!([{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}]);
        syscalls.push(clone);
    }
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": syscalls,
    })
}
