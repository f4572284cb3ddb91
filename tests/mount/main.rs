//! What a mount does for the programs on it: every system call, through a real kernel mount.
//!
//! A case is a function over a [`bench::Bench`]; [`cases`] makes a test of each on our server, and
//! runs them all in turn on one SeaweedFS, and those that read and write also with a server that
//! has no privilege. What is counted or broken on the way (`requests`,
//! `consistency`) needs our server alone. Needs root, /dev/fuse and CAP_SYS_ADMIN.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a case that fails is a failed test")]
#![expect(clippy::disallowed_methods, reason = "a test waits for processes by the real clock")]

mod aftermath;
mod bench;
mod between;
mod capacity;
mod conflict;
mod consistency;
mod copy_range;
mod crash;
mod create;
mod deadlines;
mod deletes;
mod disk;
mod disk_cache;
mod durability;
mod fallocate;
mod fsync;
mod integrity;
mod interrupted;
mod journal_order;
mod kept;
mod lab;
mod lock;
mod memory;
mod metrics;
mod mkdir;
mod mmap;
mod moving;
mod namespace;
mod open;
mod patterns;
mod passthrough;
mod properties;
mod races;
mod raw;
mod read;
mod readdir;
mod recover;
mod rename;
mod requests;
mod retries;
mod rmdir;
mod scale;
mod setattr;
mod stat;
mod stat_ahead;
mod statfs;
mod streams;
mod symlink;
mod truncate;
mod unheard;
mod unlink;
mod verdicts;
mod weak;
mod warm;
mod write;
mod write_back;
mod xattr;

use bench::{Case, on_ours, on_seaweedfs, unprivileged};

/// Makes a test of each case on our server, and the table of them all.
macro_rules! cases {
    ($($module:ident { $($case:ident),+ $(,)? })+) => {
        mod ours {
            $(mod $module {
                $(#[test]
                fn $case() {
                    crate::on_ours(stringify!($case), crate::$module::$case);
                })+
            })+
        }

        const CASES: &[Case] = &[
            $($((concat!(stringify!($module), "-", stringify!($case)), $module::$case),)+)+
        ];
    };
}

cases! {
    copy_range {
        a_file_is_copied_whole,
        ranges_are_copied_between_files,
        a_range_is_copied_within_a_file,
        what_is_not_in_s3_is_copied_too,
        a_copy_outlives_its_source,
        seeks_find_copied_bytes_as_data,
    }
    create {
        a_new_file_is_one_object,
        a_new_file_is_there_before_it_is_closed,
        exclusive_create_of_an_existing_file_is_eexist,
        names_that_cannot_be_keys_are_refused,
        names_whose_keys_would_be_too_long_are_refused_by_every_call,
        odd_names_come_back,
        mode_and_umask_are_kept,
        mknod_makes_files_and_refuses_devices,
    }
    fallocate {
        plain_fallocate_extends,
        punching_is_refused,
        seek_finds_data_and_holes,
    }
    fsync {
        fsync_makes_bytes_visible_and_writing_goes_on,
        fsync_of_a_clean_file_succeeds,
        fsync_of_a_directory_succeeds,
    }
    lock {
        locks_exclude_within_a_mount,
        a_database_lives_on_the_mount,
    }
    mkdir {
        a_directory_is_a_marker,
        mkdir_of_an_existing_name_is_eexist,
        a_prefix_is_a_directory,
        trees_are_made_and_walked,
    }
    mmap {
        a_private_map_reads_the_file,
        a_shared_map_writes_the_file,
        a_map_outlives_the_last_close,
    }
    open {
        a_missing_file_is_enoent,
        a_file_is_no_directory,
        truncating_open_empties_the_file,
        a_handle_reads_and_writes_only_as_it_was_opened,
        a_temporary_file_without_a_name_is_refused,
        a_running_program_is_not_truncated,
        two_handles_see_each_others_writes,
    }
    read {
        reads_give_the_bytes_at_any_place,
        a_read_at_the_end_is_empty,
        a_large_file_is_read_whole,
        random_reads_agree_with_the_object,
        an_empty_object_reads_as_nothing,
    }
    readdir {
        names_are_listed_once_with_their_kind,
        what_is_not_committed_is_listed,
        a_large_directory_is_listed_completely,
        a_directory_can_be_read_again_from_its_beginning,
        names_beside_a_directory_of_the_same_stem_are_listed_once,
        dot_and_dotdot_are_there,
    }
    rename {
        a_file_moves_with_its_bytes,
        a_file_replaces_another,
        a_file_moves_between_directories,
        noreplace_keeps_the_target_and_exchange_is_refused,
        a_directory_moves_with_everything_below,
        a_directory_replaces_only_an_empty_one,
        kinds_do_not_replace_each_other,
        a_directory_cannot_move_below_itself,
        an_open_file_is_written_under_its_new_name,
        a_file_that_is_not_committed_moves,
        an_editor_saves_by_rename,
    }
    rmdir {
        an_empty_directory_goes,
        a_full_directory_stays,
        a_directory_of_uncommitted_files_stays,
        rmdir_of_a_file_is_enotdir,
    }
    setattr {
        chmod_and_chown_survive_a_remount,
        times_survive_a_remount,
        an_access_time_is_shown_while_the_file_is_known,
        a_directorys_time_follows_its_names,
        attributes_of_an_open_file_survive,
        attributes_of_a_directory_survive,
    }
    stat {
        a_file_of_another_writer_has_the_mounts_attributes,
        size_follows_writes_before_the_commit,
        foreign_dialects_are_understood,
        dialects_with_names_of_their_own_are_understood,
        the_inode_number_is_the_same_everywhere,
        a_directory_has_one_link,
    }
    statfs {
        there_is_room_and_names_may_be_255_bytes,
    }
    symlink {
        a_link_is_followed_and_read,
        a_link_survives_a_remount,
        hard_links_are_refused,
        a_fifo_survives_a_remount,
    }
    truncate {
        truncate_of_a_path_has_committed,
        ftruncate_both_ways,
        growing_a_file_of_the_store_reads_zeros,
        cutting_and_writing_again_leaves_no_old_bytes,
        truncate_of_a_directory_is_eisdir,
    }
    unlink {
        an_unlinked_file_is_gone,
        unlink_of_what_is_not_a_file_fails,
        an_unlinked_open_file_lives_until_its_close,
        an_unlinked_new_file_is_never_committed,
        a_name_can_be_used_again_while_the_old_file_is_open,
        what_another_client_puts_under_the_name_meanwhile_stays,
        rm_r_leaves_nothing,
        a_directory_does_not_outlive_its_name_by_an_unlinked_open_file,
    }
    write {
        writes_in_any_order_make_one_object,
        appends_go_to_the_end,
        a_hole_reads_as_zeros,
        an_edit_in_place_keeps_the_rest,
        a_large_file_written_in_order_arrives_whole,
        a_large_file_written_backwards_arrives_whole,
        edits_of_a_large_file_keep_what_they_do_not_touch,
        a_file_beyond_the_stores_limit_is_efbig,
        git_and_tar_work,
    }
    xattr {
        user_attributes_come_back,
        other_namespaces_are_refused,
        access_control_lists_are_refused,
        what_others_wrote_is_shown_among_them,
        attributes_that_do_not_fit_are_refused,
        attributes_that_fit_are_committed,
    }
}

/// Every other case, so that two processes share the work.
fn half(odd: usize) -> impl Iterator<Item = &'static Case> {
    CASES.iter().skip(odd).step_by(2)
}

#[test]
fn seaweedfs_one_half() {
    on_seaweedfs(half(0));
}

#[test]
fn seaweedfs_other_half() {
    on_seaweedfs(half(1));
}

/// Reading and writing, by every call that does.
const READ_AND_WRITE: [&str; 9] = [
    "create-",
    "fallocate-",
    "fsync-",
    "mmap-",
    "open-",
    "read-",
    "readdir-",
    "truncate-",
    "write-",
];

#[test]
fn a_server_without_privileges_reads_and_writes() {
    let is_one = |case: &&Case| READ_AND_WRITE.iter().any(|begin| case.0.starts_with(begin));
    unprivileged(CASES.iter().filter(is_one));
}
