//! How editors and loggers write: rename over, backups, appending from several processes.

use crate::stage::on_both;

on_both!(
    two_appenders_lose_no_line,
    r#"
    write() { for i in $(seq 200); do echo "$1 $i" >> log; done; }
    write a & one=$!
    write b & two=$!
    wait $one
    wait $two
    [ "$(wc -l < log)" = 400 ]
    [ "$(sort -u log | wc -l)" = 400 ]
    "#
);

on_both!(
    two_appenders_that_stay_open_lose_no_line,
    r#"
    write() { exec 3>> log; for i in $(seq 500); do echo "$1 $i" >&3; done; exec 3>&-; }
    write a & one=$!
    write b & two=$!
    wait $one
    wait $two
    [ "$(wc -l < log)" = 1000 ]
    [ "$(sort -u log | wc -l)" = 1000 ]
    "#
);

on_both!(
    an_editor_saves_by_renaming_over,
    r#"
    echo 0 > file
    for i in $(seq 20); do
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
    "#
);

on_both!(
    vim_saves_with_and_without_a_backup,
    r#"
    printf 'one\ntwo\nthree\n' > file
    chmod 640 file
    for how in 'nobackup nowritebackup' 'writebackup backupcopy=no' 'writebackup backupcopy=yes' \
               'backup backupcopy=no' 'backup backupcopy=yes'; do
      # The default backupskip spares what lies below /tmp, as the mount does.
      vim.tiny -Nu NONE -es -c "set backupskip= $how" -c '%s/two/2 2/' -c '%s/2 2/two/' \
        -c 'normal Gomore' -c wq file
      [ "$(stat -c %a file)" = 640 ]
      [ "$(head -3 file)" = "$(printf 'one\ntwo\nthree')" ]
    done
    [ "$(wc -l < file)" = 8 ]
    [ "$(wc -l < file~)" = 7 ]
    [ "$(ls -A | tr '\n' ' ')" = 'file file~ ' ]
    "#
);

on_both!(
    a_name_that_is_taken_away_while_open_can_be_used_again_at_once,
    r#"
    for i in $(seq 50); do
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
    [ "$(cat file)" = "new 50" ]
    "#
);
