//! flock(2) and fcntl(2) locks, and the programs that live by them.

use std::fs::File;

use crate::bench::{Bench, eventually, python};

pub(crate) fn locks_exclude_within_a_mount(bench: &Bench) {
    let one = File::create(bench.path("f")).unwrap();
    let two = File::open(bench.path("f")).unwrap();
    one.lock().unwrap();
    assert!(two.try_lock().is_err(), "flock excludes");
    one.unlock().unwrap();
    two.try_lock().unwrap();
    let script = "
import fcntl, os, sys
f = open(sys.argv[1], 'r+b')
fcntl.lockf(f, fcntl.LOCK_EX)
child = os.fork()
if child == 0:
    try:
        fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)
        os._exit(1)
    except BlockingIOError:
        os._exit(0)
print(os.waitpid(child, 0)[1])";
    assert_eq!(python(script, &bench.path("f")), "0");
}

pub(crate) fn a_database_lives_on_the_mount(bench: &Bench) {
    let script = "
import sqlite3, sys
path = sys.argv[1]
db = sqlite3.connect(path)
db.execute('create table t (n integer primary key, text text)')
for batch in range(5):
    with db:
        db.executemany('insert into t (text) values (?)', [('x' * 100,)] * 200)
db.execute('delete from t where n % 3 = 0')
db.commit()
db.execute('vacuum')
db.close()
db = sqlite3.connect(path)
print(db.execute('pragma integrity_check').fetchone()[0],
      db.execute('select count(*) from t').fetchone()[0])";
    assert_eq!(python(script, &bench.path("db")), "ok 667");
    // Its journal's delete leaves with others; until it is gone, another mount would roll back.
    eventually("the journal is gone", || bench.keys() == ["db"]);
    let other = bench.another(&[]);
    let check = "
import sqlite3, sys
db = sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True)
print(db.execute('select count(*) from t').fetchone()[0])";
    assert_eq!(python(check, &other.path().join("db")), "667");
    assert!(other.unmount().unwrap().success());
    assert_eq!(bench.keys(), ["db"]);
}
