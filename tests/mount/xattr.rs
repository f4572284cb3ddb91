//! Extended attributes, by Python, since safe Rust has no calls for them.

use std::fs;

use crate::bench::{Bench, python, write};

pub(crate) fn user_attributes_come_back(bench: &Bench) {
    write(&bench.path("f"), b"x");
    let set = "
import os, sys
f = sys.argv[1]
os.setxattr(f, 'user.colour', b'blue')
os.setxattr(f, 'user.binary', bytes(range(256)))
os.setxattr(f, 'user.gone', b'x')
os.removexattr(f, 'user.gone')
os.fsync(os.open(f, os.O_RDONLY))";
    python(set, &bench.path("f"));
    let get = "
import os, sys, errno
f = sys.argv[1]
assert os.getxattr(f, 'user.binary') == bytes(range(256))
try:
    os.getxattr(f, 'user.gone')
except OSError as e:
    assert e.errno == errno.ENODATA
print(sorted(os.listxattr(f)), os.getxattr(f, 'user.colour'))";
    let want = "['user.binary', 'user.colour'] b'blue'";
    assert_eq!(python(get, &bench.path("f")), want);
    let other = bench.another(&[]);
    assert_eq!(python(get, &other.path().join("f")), want);
    assert!(other.unmount().unwrap().success());
}

pub(crate) fn other_namespaces_are_refused(bench: &Bench) {
    write(&bench.path("f"), b"x");
    let script = "
import os, sys, errno
for name in ['trusted.x', 'security.x']:
    try:
        os.setxattr(sys.argv[1], name, b'x')
    except OSError as e:
        print(e.errno == errno.EOPNOTSUPP)
print(os.listxattr(sys.argv[1]))";
    assert_eq!(python(script, &bench.path("f")), "True\nTrue\n[]");
}

pub(crate) fn what_others_wrote_is_shown_among_them(bench: &Bench) {
    let headers = [("x-amz-meta-colour", "blue"), ("x-amz-meta-mode", "0100640")];
    bench.raw().put_with(&bench.key("f"), b"x", &headers);
    let script = "
import os, sys
print(os.listxattr(sys.argv[1]), os.getxattr(sys.argv[1], 'user.colour'))";
    assert_eq!(python(script, &bench.path("f")), "['user.colour'] b'blue'");
    let change = "
import os, sys
os.setxattr(sys.argv[1], 'user.other', b'mine')
os.fsync(os.open(sys.argv[1], os.O_RDONLY))";
    python(change, &bench.path("f"));
    let head = bench.raw().head(&bench.key("f")).unwrap();
    assert_eq!(head.header("x-amz-meta-colour").as_deref(), Some("blue"), "it stays");
}

pub(crate) fn access_control_lists_are_refused(bench: &Bench) {
    write(&bench.path("f"), b"x");
    fs::create_dir(bench.path("d")).unwrap();
    // As setfacl -m u:7:rw: version 2, then tag, permissions and id of each entry.
    let script = "
import os, sys, errno, struct
entry = lambda tag, perm, who=0xffffffff: struct.pack('<HHI', tag, perm, who)
acl = struct.pack('<I', 2) + b''.join(
    [entry(1, 6), entry(2, 6, 7), entry(4, 4), entry(16, 6), entry(32, 4)])
for path, name in [('f', 'access'), ('d', 'access'), ('d', 'default')]:
    path = os.path.join(sys.argv[1], path)
    for call in [lambda n: os.setxattr(path, n, acl), lambda n: os.getxattr(path, n)]:
        try:
            call('system.posix_acl_' + name)
            print('taken')
        except OSError as e:
            print(errno.errorcode[e.errno])
    assert os.listxattr(path) == []
print(oct(os.stat(os.path.join(sys.argv[1], 'f')).st_mode))";
    let said = python(script, &bench.path(""));
    assert_eq!(said, format!("{}0o100644", "ENOTSUP\n".repeat(6)));
}

pub(crate) fn attributes_that_do_not_fit_are_refused(bench: &Bench) {
    write(&bench.path("f"), b"x");
    let script = "
import os, sys, errno
try:
    os.setxattr(sys.argv[1], 'user.large', b'x' * 4000)
except OSError as e:
    print(errno.errorcode[e.errno], os.listxattr(sys.argv[1]))";
    assert_eq!(python(script, &bench.path("f")), "ENOSPC []");
}

pub(crate) fn attributes_that_fit_are_committed(bench: &Bench) {
    write(&bench.path("f"), b"x");
    let fill = "
import os, sys
low, high = 1, 4000
while high - low > 1:
    middle = (low + high) // 2
    try:
        os.setxattr(sys.argv[1], 'user.large', b'x' * middle)
        low = middle
    except OSError:
        high = middle
os.setxattr(sys.argv[1], 'user.large', b'x' * low)
f = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
os.write(f, b'more')
os.fsync(f)
os.close(f)
print(low > 1000, len(os.getxattr(sys.argv[1], 'user.large')) == low)";
    assert_eq!(python(fill, &bench.path("f")), "True True");
    assert_eq!(bench.object("f").unwrap(), b"xmore");
}
