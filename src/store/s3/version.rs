//! How S3 spells versions: entity tags, version ids and times, made comparable.
//!
//! Owns the normal forms, so that what LIST, HEAD, GET, PUT and Complete say of one version is
//! equal. Must not know requests.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_s3::primitives::DateTime;

use crate::naming::Key;
use crate::store::Version;

/// The entity tag with its quotes, which some stores leave out in listings. A weak tag (`W/`)
/// cannot pin anything and is none.
pub(super) fn etag(text: Option<&str>) -> Option<Arc<str>> {
    let text = text?.trim();
    if text.starts_with("W/") {
        return None;
    }
    let bare = text.trim_matches('"');
    (!bare.is_empty()).then(|| format!("\"{bare}\"").into())
}

/// The entity tag of a part, which pins nothing and is only named in the Complete; a proxy may have
/// made it weak.
pub(super) fn part_etag(text: Option<&str>) -> Option<Arc<str>> {
    etag(text.map(|text| text.trim().trim_start_matches("W/")))
}

/// The id of a version; `null` names whatever was written while versioning was off, which can be
/// replaced, and so pins nothing.
pub(super) fn version_id(text: Option<&str>) -> Option<Arc<str>> {
    text.filter(|id| !id.is_empty() && *id != "null").map(Into::into)
}

/// A time in whole seconds: HEAD and GET have no more, LIST does.
pub(super) fn whole_seconds(time: Option<&DateTime>) -> SystemTime {
    let seconds = time.map_or(0, DateTime::secs);
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(UNIX_EPOCH)
}

/// The parts of a version as S3 gives them.
pub(super) struct Told<'a> {
    pub(super) etag: Option<&'a str>,
    pub(super) version_id: Option<&'a str>,
    pub(super) size: u64,
    pub(super) last_modified: SystemTime,
}

impl Told<'_> {
    pub(super) fn of(self, key: &Key) -> Version {
        Version {
            key: key.clone(),
            etag: etag(self.etag),
            version_id: version_id(self.version_id),
            size: self.size,
            last_modified: self.last_modified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_compare_equal_however_they_are_spelled() {
        assert_eq!(etag(Some("\"abc\"")).as_deref(), Some("\"abc\""));
        assert_eq!(etag(Some("abc-3")).as_deref(), Some("\"abc-3\""));
        assert_eq!(etag(Some("W/\"abc\"")), None);
        assert_eq!(etag(Some("\"\"")), None);
        assert_eq!(etag(None), None);
        assert_eq!(part_etag(Some("W/\"abc\"")).as_deref(), Some("\"abc\""));
        assert_eq!(part_etag(Some("")), None);
        assert_eq!(version_id(Some("null")), None);
        assert_eq!(version_id(Some("v1")).as_deref(), Some("v1"));
    }

    #[test]
    fn times_are_cut_to_seconds() {
        let time = DateTime::from_secs_and_nanos(1_700_000_000, 999_999_999);
        assert_eq!(whole_seconds(Some(&time)), UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let early = DateTime::from_secs(-5);
        assert_eq!(whole_seconds(Some(&early)), UNIX_EPOCH - Duration::from_secs(5));
        assert_eq!(whole_seconds(None), UNIX_EPOCH);
    }
}
