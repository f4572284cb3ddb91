//! The messages and services of CSI, made from `proto/csi.proto` by the build.
//!
//! Owns how messages with secrets show themselves: by the names of things alone. Must not know
//! what they ask for.

use std::fmt;

#[expect(
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    clippy::excessive_nesting,
    clippy::too_many_lines,
    reason = "made by the build, for any use"
)]
mod generated {
    tonic::include_proto!("csi.v1");
}

pub(super) use generated::*;

/// Secrets, tokens in a volume's context and mount options stay out of it.
macro_rules! shown_by {
    ($message:ident: $($field:ident),+) => {
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($field), &self.$field))+
                    .finish_non_exhaustive()
            }
        }
    };
}

shown_by!(CreateVolumeRequest: name, capacity_range);
shown_by!(DeleteVolumeRequest: volume_id);
shown_by!(ValidateVolumeCapabilitiesRequest: volume_id);
shown_by!(ControllerExpandVolumeRequest: volume_id, capacity_range);
shown_by!(NodePublishVolumeRequest: volume_id, target_path, readonly);
