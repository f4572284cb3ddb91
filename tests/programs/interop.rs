//! Other tools on the same bucket: what they wrote shows right here, and what we wrote there.

use crate::stage::on_both;

/// `plant DIR` makes files with modes, owners and times; `show DIR` says what a tool sees of them.
/// The directories are left out: rclone keeps nothing of them.
macro_rules! with_files {
    ($($script:literal),+) => {
        concat!(
            r#"
            plant() {
              mkdir -p "$1/sub"
              for i in 1 2 3 4; do
                head -c $((i * 1000)) /dev/urandom > "$1/sub/f$i"
                chmod $((600 + i * 11)) "$1/sub/f$i"
                chown $((1000 + i)):$((2000 + i)) "$1/sub/f$i"
                touch -d "@$((981173100 + i)).5" "$1/sub/f$i"
              done
              printf '#!/bin/sh\necho hello\n' > "$1/run"
              chmod 755 "$1/run"
              touch -d @1234567890 "$1/run"
              : > "$1/empty"
              touch -d @1234567891 "$1/empty"
            }
            show() { (cd "$1" && find . -type f -printf '%p %m %U:%G %s %T@\n' | sort); }
            export RCLONE_CONFIG="$L/rclone.conf" RCLONE_CONFIG_S3_TYPE=s3
            export RCLONE_CONFIG_S3_PROVIDER=Other RCLONE_CONFIG_S3_ENDPOINT=$ENDPOINT
            export RCLONE_CONFIG_S3_ENV_AUTH=true RCLONE_CONFIG_S3_REGION=$AWS_REGION
            export RCLONE_CONFIG_S3_NO_CHECK_BUCKET=true
            : > "$RCLONE_CONFIG"
            "#,
            $($script),+
        )
    };
}

on_both!(
    rclone_writes_what_we_show,
    with_files!(
        r#"
        plant "$L/theirs"
        ln -s run "$L/theirs/link"
        rclone copy --metadata --links "$L/theirs" "s3:$BUCKET/theirs"
        show "$L/theirs" > "$L/want"
        show theirs | grep -v rclonelink > "$L/got"
        diff "$L/want" "$L/got"
        diff -r --exclude='link*' theirs "$L/theirs"
        # Its links are plain files.
        [ "$(stat -c %F theirs/link.rclonelink)" = 'regular file' ]
        [ "$(cat theirs/link.rclonelink)" = run ]
        # What we change, it sees: the mode and the time it did not write.
        chmod 640 theirs/run
        touch -d @1300000000 theirs/sub/f1
        echo more >> theirs/sub/f2
        sync theirs/run theirs/sub/f1
        show theirs | grep -v rclonelink > "$L/want"
        rclone copy --metadata "s3:$BUCKET/theirs" "$L/back"
        rm "$L/back/link.rclonelink"
        show "$L/back" > "$L/got"
        diff "$L/want" "$L/got"
        "#
    )
);

on_both!(
    rclone_reads_what_we_wrote,
    with_files!(
        r#"
        plant ours
        # Chunks of its own size: a file that we wrote in parts.
        head -c 20000000 /dev/urandom > ours/large
        sync ours/run ours/empty ours/sub/f1 ours/sub/f2 ours/sub/f3 ours/sub/f4
        rclone copy --metadata "s3:$BUCKET/ours" "$L/back"
        show ours > "$L/want"
        show "$L/back" > "$L/got"
        # The large file carries no time of its own, and S3's is in whole seconds.
        diff "$L/want" "$L/got"
        diff -r ours "$L/back"
        rclone check "s3:$BUCKET/ours" "$L/back"
        "#
    )
);

/// s3fs keeps its mount in `$L/s3fs`, and takes it down whatever happens.
macro_rules! with_s3fs {
    ($script:literal) => {
        with_files!(
            r#"
            mkdir "$L/s3fs"
            export AWSACCESSKEYID=$AWS_ACCESS_KEY_ID AWSSECRETACCESSKEY=$AWS_SECRET_ACCESS_KEY
            s3fs "$BUCKET" "$L/s3fs" -o url="$ENDPOINT",use_path_request_style \
              -o endpoint="$AWS_REGION",stat_cache_expire=1,max_stat_cache_size=0
            trap 'umount -l "$L/s3fs"' EXIT
            "#,
            $script
        )
    };
}

on_both!(
    s3fs_writes_what_we_show,
    with_s3fs!(
        r#"
        plant "$L/s3fs/theirs"
        ln -s sub/f1 "$L/s3fs/theirs/link"
        show "$L/s3fs/theirs" > "$L/want"
        [ "$(wc -l < "$L/want")" = 6 ]
        show theirs > "$L/got"
        diff "$L/want" "$L/got"
        [ "$(readlink theirs/link)" = sub/f1 ]
        diff -r --no-dereference theirs "$L/s3fs/theirs"
        "#
    )
);

on_both!(
    s3fs_reads_what_we_wrote,
    with_s3fs!(
        r#"
        plant ours
        ln -s sub/f1 ours/link
        mkdir -m 750 ours/folder
        head -c 20000000 /dev/urandom > ours/large
        sync ours/run ours/empty ours/sub/f1 ours/sub/f2 ours/sub/f3 ours/sub/f4 ours/folder
        show ours > "$L/want"
        show "$L/s3fs/ours" > "$L/got"
        diff "$L/want" "$L/got"
        [ "$(readlink "$L/s3fs/ours/link")" = sub/f1 ]
        diff -r --no-dereference ours "$L/s3fs/ours"
        "#
    )
);
