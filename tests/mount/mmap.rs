//! mmap(2), by Python, since safe Rust has none.

use crate::bench::{Bench, eventually, pattern, python, read, write};

pub(crate) fn a_private_map_reads_the_file(bench: &Bench) {
    let bytes = pattern(300_000);
    bench.put("f", &bytes);
    let script = "
import mmap, sys, hashlib
with open(sys.argv[1], 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
    print(len(m), m[299_992:].hex(), m[0:8].hex())";
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let want = format!("300000 {} {}", hex(&bytes[299_992..]), hex(&bytes[..8]));
    assert_eq!(python(script, &bench.path("f")), want);
}

pub(crate) fn a_map_outlives_the_last_close(bench: &Bench) {
    write(&bench.path("f"), &[b'.'; 10_000]);
    let script = "
import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(f, 0)
m[0:5] = b'early'
os.close(f)
m[5000:5004] = b'late'
m.close()";
    python(script, &bench.path("f"));
    let mut want = vec![b'.'; 10_000];
    want[..5].copy_from_slice(b"early");
    want[5000..5004].copy_from_slice(b"late");
    assert!(read(&bench.path("f")) == want, "this mount reads what the map wrote");
    eventually("the map's bytes are in S3", || bench.object("f").unwrap() == want);
}

pub(crate) fn a_shared_map_writes_the_file(bench: &Bench) {
    write(&bench.path("f"), &[b'.'; 10_000]);
    let script = "
import mmap, sys
with open(sys.argv[1], 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:
    m[5000:5005] = b'hello'
    m.flush()";
    python(script, &bench.path("f"));
    let mut want = vec![b'.'; 10_000];
    want[5000..5005].copy_from_slice(b"hello");
    assert!(read(&bench.path("f")) == want, "this mount reads what the map wrote");
    eventually("the map's bytes are in S3", || bench.object("f").unwrap() == want);
}
