//! What every store must do: one suite, run against each server.
//!
//! A case is a function over a [`Subject`]; [`on_every_server`] makes a test of it for each server.
//! Where a server deviates from S3, the case asserts the deviation by name, so that it is noticed
//! when it ends.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a case that fails is a failed test")]

mod conditional;
mod copy;
mod decorators;
mod delete;
mod endpoint;
mod faults;
mod get;
mod hedged;
mod list;
mod multipart;
mod put;
mod server;

pub(crate) use server::{Flavor, Subject};

/// Makes a test of each case for each server.
macro_rules! on_every_server {
    ($($module:ident { $($case:ident),+ $(,)? })+) => {
        mod testkit {
            $(mod $module {
                $(#[tokio::test]
                async fn $case() {
                    let subject = crate::Subject::testkit(stringify!($case)).await;
                    crate::$module::$case(&subject).await;
                })+
            })+
        }

        mod seaweedfs {
            $(mod $module {
                $(#[tokio::test]
                async fn $case() {
                    let subject = crate::Subject::seaweedfs(stringify!($case)).await;
                    crate::$module::$case(&subject).await;
                })+
            })+
        }
    };
}

on_every_server! {
    conditional {
        where_conditions_are_kept_they_are_sent,
    }
    endpoint {
        a_missing_bucket_is_named,
        wrong_credentials_are_named,
        checksums_may_be_left_out,
    }
    get {
        a_missing_object_is_not_found,
        every_request_tells_the_same_version,
        ranges_are_cut_to_the_object,
        an_empty_object_has_no_range,
        a_pin_holds_or_says_changed,
        an_unchanged_object_is_not_sent_again,
        a_replaced_version_stays_readable_where_versions_are_kept,
    }
    list {
        lines_come_in_byte_order,
        pages_join_without_gap_or_overlap,
        what_begins_behind_a_tilde_is_the_same_in_any_order,
        every_key_is_decoded,
        keys_that_xml_cannot_carry_are_listed,
        a_backslash_stays_a_backslash,
    }
    put {
        properties_come_back,
        tags_are_kept,
        a_file_is_sent_by_range,
        a_conditional_put_is_refused,
        an_empty_object_is_stored,
    }
    multipart {
        parts_become_one_object,
        parts_are_copied_from_a_pinned_version,
        a_conditional_complete_is_refused,
        an_upload_that_is_gone_is_named,
        properties_of_the_upload_are_the_objects,
    }
    copy {
        a_copy_takes_everything_over,
        a_copy_may_replace_the_properties,
        a_copy_is_pinned_to_its_source,
        a_copy_may_be_conditional_on_its_destination,
        odd_keys_are_copied,
    }
    delete {
        what_is_gone_is_no_error,
        a_conditional_delete_is_refused,
        many_are_deleted_at_once,
    }
}
