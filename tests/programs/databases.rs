//! Programs that fsync a lot: sqlite.

use crate::stage::on_ours;

/// 400 inserts, 80 updates and 20 deletes, each a transaction; a rollback at the end.
const TRANSACTIONS: &str = r#"
    {
      echo "PRAGMA journal_mode=$MODE;"
      echo 'CREATE TABLE IF NOT EXISTS t(i INTEGER PRIMARY KEY, b TEXT);'
      for i in $(seq 400); do
        echo "BEGIN; INSERT INTO t VALUES($i, hex(randomblob(500))); COMMIT;"
        [ $((i % 5)) -ne 0 ] || echo "UPDATE t SET b = hex(randomblob(300)) WHERE i = $i - 2;"
        [ $((i % 20)) -ne 0 ] || echo "DELETE FROM t WHERE i = $i - 7;"
      done
      echo 'BEGIN; DELETE FROM t; ROLLBACK;'
    } > "$L/script"
    sqlite3 -bail db < "$L/script" > "$L/said"
    [ "$(head -1 "$L/said")" = "$MODE" ]
    [ "$(sqlite3 db 'PRAGMA integrity_check')" = ok ]
    [ "$(sqlite3 db 'SELECT count(*), sum(length(b)) FROM t')" = "380|$((320 * 1000 + 60 * 600))" ]
    [ ! -e db-journal ]
    [ ! -e db-wal ]
    cp db "$L/db"
    [ "$(sqlite3 "$L/db" 'PRAGMA integrity_check')" = ok ]
"#;

#[test]
fn sqlite_commits_500_transactions_with_a_rollback_journal() {
    on_ours(&format!("MODE=delete\n{TRANSACTIONS}"));
}

#[test]
fn sqlite_commits_500_transactions_with_a_write_ahead_log() {
    on_ours(&format!("MODE=wal\n{TRANSACTIONS}"));
}

/// Two processes take turns by sqlite's own locks.
#[test]
fn sqlite_lets_two_processes_write() {
    on_ours(
        r#"
        sqlite3 db 'CREATE TABLE t(who TEXT, i INTEGER)'
        write() {
          for i in $(seq 50); do
            sqlite3 -cmd '.timeout 60000' db "INSERT INTO t VALUES('$1', $i)"
          done
        }
        write a & one=$!
        write b & two=$!
        wait $one
        wait $two
        [ "$(sqlite3 db 'PRAGMA integrity_check')" = ok ]
        [ "$(sqlite3 db 'SELECT count(DISTINCT who || i) FROM t')" = 100 ]
        "#,
    );
}
