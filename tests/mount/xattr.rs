//! Extended attributes, by Python, since safe Rust has no calls for them.

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
    other.unmount().unwrap();
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
