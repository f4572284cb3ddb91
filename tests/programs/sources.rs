//! Programs that write trees of files: git, tar, rsync, pip.

use crate::stage::{on_both, on_ours};

on_both!(
    git_keeps_a_history,
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
    git fsck --strict
    "#
);

on_both!(
    tar_and_rsync_bring_back_what_they_took,
    r#"
    mkdir -p "$L/src/a/b"
    for i in $(seq 60); do head -c $((i * 911)) /dev/urandom > "$L/src/a/b/f$i"; done
    head -c 20000000 /dev/urandom > "$L/src/large"
    ln -s b/f1 "$L/src/a/link"
    chmod 640 "$L/src/a/b/f2"
    touch -d '2001-02-03 04:05:06.789' "$L/src/a/b/f3"
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
    [ "$(stat -c %y copy/a/b/f3)" = "$(stat -c %y "$L/src/a/b/f3")" ]
    "#
);

/// The sources of Python's own library: 800 files in some 60 folders.
#[test]
fn a_source_tree_goes_in_by_tar_and_comes_back() {
    on_ours(
        r#"
        from=$(python3 -c 'import os; print(os.path.dirname(os.__file__))')
        mkdir "$L/tree"
        (cd "$from" && find . -name '*.py' -size -200k | sort | awk 'NR <= 800' | tar cf - -T -) |
          tar xf - -C "$L/tree"
        [ "$(find "$L/tree" -type f | wc -l)" -gt 500 ]
        tar cf - --format=posix -C "$L" tree | tar xf -
        diff -r tree "$L/tree"
        tar cf "$L/back.tar" --format=posix tree
        mkdir "$L/back"
        tar xf "$L/back.tar" -C "$L/back"
        diff -r "$L/back/tree" "$L/tree"
        (cd "$L/tree" && find . -printf '%p %m %T@\n' | sort) > "$L/want"
        (cd tree && find . -printf '%p %m %T@\n' | sort) > "$L/got"
        diff "$L/want" "$L/got"
        "#,
    );
}

/// The wheel is made here, since nothing may be fetched.
#[test]
fn pip_installs_into_an_environment_on_the_mount() {
    on_ours(
        r#"
        python3 - "$L" <<'END'
import sys, zipfile
name, info = "tiny", "tiny-1.0.dist-info"
files = {
    f"{name}/__init__.py": "def greet():\n    print('hello from a wheel')\n",
    f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
    f"{info}/WHEEL":
        "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{info}/entry_points.txt": "[console_scripts]\ngreet = tiny:greet\n",
}
record = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
with zipfile.ZipFile(f"{sys.argv[1]}/tiny-1.0-py3-none-any.whl", "w") as wheel:
    for path, text in {**files, f"{info}/RECORD": record}.items():
        wheel.writestr(path, text)
END
        python3 -m venv venv
        venv/bin/pip install --quiet --disable-pip-version-check --no-index "$L"/tiny-1.0-*.whl
        [ "$(venv/bin/greet)" = 'hello from a wheel' ]
        venv/bin/python -c 'import tiny, sys; assert tiny.__file__.startswith(sys.prefix)'
        venv/bin/pip uninstall --quiet --yes tiny
        [ ! -e venv/bin/greet ]
        "#,
    );
}
