//! Programs that people run, on a mount: what they must not notice is that it is S3.
//!
//! Each runs in a shell of its own under a timeout, with `$M` the mount and `$L` a local folder as
//! the oracle. Needs root, /dev/fuse, and what `.ci/setup programs` installs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use s3pod_testkit::{Mount, ServerOptions, TestServer};

const BUCKET: &str = "programs";

/// Runs `script` in bash on a fresh mount; fails with what it said. A hang ends after 120 s, so
/// that the mount can be taken down.
fn on_a_mount(script: &str) {
    let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
    let endpoint = server.s3_endpoint(BUCKET);
    let mount = Mount::start(env!("CARGO_BIN_EXE_s3pod"), &endpoint, &[]).unwrap();
    let local = tempfile::tempdir().unwrap();
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "120", "bash", "-euo", "pipefail", "-c", script]);
    command.current_dir(mount.path()).env("M", mount.path()).env("L", local.path());
    command.env("HOME", local.path()).env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}\n{said}\n{}", output.status, mount.stderr());
    let daemon = mount.stderr();
    assert!(!daemon.contains("panicked"), "{daemon}");
    assert!(mount.unmount().unwrap().success());
}

#[test]
fn git_keeps_a_history() {
    on_a_mount(
        r#"
        git config --global user.email a@example.com
        git config --global user.name A
        git config --global --add safe.directory '*'
        git init -q repo
        cd repo
        for i in $(seq 40); do head -c $((i * 700)) /dev/urandom > "f$i"; done
        git add .
        git commit -qm one
        for i in $(seq 10); do echo "$i" >> "f$i"; done
        git commit -qam two
        git gc -q
        git fsck --strict
        [ -z "$(git status --short)" ]
        cd ..
        git clone -q repo clone
        diff -r --exclude=.git repo clone
        cd clone
        [ "$(git log --oneline | wc -l)" = 2 ]
        git checkout -q HEAD~1
        git checkout -q -
        [ -z "$(git status --short)" ]
        "#,
    );
}

#[test]
fn sqlite_commits_a_hundred_transactions() {
    on_a_mount(
        r#"
        sqlite3 db 'CREATE TABLE t(i INTEGER, b TEXT)'
        for i in $(seq 100); do
          echo "BEGIN; INSERT INTO t VALUES($i, hex(randomblob(500))); COMMIT;"
        done | sqlite3 db
        for i in 0 1 2 3 4; do
          sqlite3 db "BEGIN; UPDATE t SET b = hex(randomblob(300)) WHERE i % 5 = $i; COMMIT;"
        done
        sqlite3 db "BEGIN; DELETE FROM t; ROLLBACK;"
        [ "$(sqlite3 db 'PRAGMA integrity_check')" = ok ]
        [ "$(sqlite3 db 'SELECT count(*) FROM t')" = 100 ]
        [ ! -e db-journal ]
        "#,
    );
}

#[test]
fn tar_and_rsync_bring_back_what_they_took() {
    on_a_mount(
        r#"
        mkdir -p "$L/src/a/b"
        for i in $(seq 60); do head -c $((i * 911)) /dev/urandom > "$L/src/a/b/f$i"; done
        head -c 20000000 /dev/urandom > "$L/src/large"
        ln -s b/f1 "$L/src/a/link"
        chmod 640 "$L/src/a/b/f2"
        tar cf t.tar -C "$L" src
        tar xf t.tar
        diff -r --no-dereference src "$L/src"
        tar df t.tar
        rsync -a "$L/src/" copy/
        rsync -ai "$L/src/" copy/ > "$L/second"
        cat "$L/second" >&2
        [ ! -s "$L/second" ]
        rsync -a copy/ "$L/back/"
        diff -r --no-dereference "$L/back" "$L/src"
        [ "$(stat -c %a copy/a/b/f2)" = 640 ]
        "#,
    );
}

#[test]
fn two_appenders_lose_no_line() {
    on_a_mount(
        r#"
        write() { for i in $(seq 300); do echo "$1 $i" >> log; done; }
        write a & one=$!
        write b & two=$!
        wait $one
        wait $two
        [ "$(wc -l < log)" = 600 ]
        [ "$(sort -u log | wc -l)" = 600 ]
        "#,
    );
}

#[test]
fn an_editor_saves_by_renaming_over() {
    on_a_mount(
        r#"
        echo 0 > file
        for i in $(seq 30); do
          exec 3< file
          cp -p file file~
          echo "version $i" > .file.tmp
          mv .file.tmp file
          [ "$(cat file)" = "version $i" ]
          diff file~ - <&3
          exec 3<&-
          rm file~
        done
        [ "$(ls -A)" = file ]
        "#,
    );
}

#[test]
fn a_name_that_is_taken_away_while_open_can_be_used_again_at_once() {
    on_a_mount(
        r#"
        for i in $(seq 100); do
          echo "old $i" > file
          exec 3< file
          rm file
          [ "$(cat <&3)" = "old $i" ]
          exec 3<&-
          [ ! -e file ]
          echo "new $i" > file
          [ "$(cat file)" = "new $i" ]
        done
        sleep 1.5
        [ "$(cat file)" = "new 100" ]
        "#,
    );
}
