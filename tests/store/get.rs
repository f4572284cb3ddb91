//! HEAD and GET.

use bytes::Bytes;
use futures::TryStreamExt;
use s3pod::naming::Key;
use s3pod::store::{ErrorKind, GetPin, GetRequest, ListLine, ListRequest, ObjectStore, Version};
use s3pod::units::ByteRange;

use crate::Subject;

async fn range(subject: &Subject, key: &str, range: ByteRange) -> Result<Bytes, ErrorKind> {
    let request = GetRequest { pin: GetPin::Latest(Key::from(key)), range: Some(range) };
    let response = subject.store.get(&request).await.map_err(|error| error.kind().clone())?;
    let promised = response.range;
    let frames: Vec<Bytes> = response.body.try_collect().await.unwrap();
    let bytes: Bytes = frames.concat().into();
    assert_eq!(bytes.len() as u64, promised.len());
    Ok(bytes)
}

pub(crate) async fn a_missing_object_is_not_found(subject: &Subject) {
    let key = Key::from("nothing/here");
    let error = subject.store.head(&key).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotFound);
    assert_eq!(error.key(), Some(&key));
    let error = subject.read("nothing/here").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotFound);
}

pub(crate) async fn every_request_tells_the_same_version(subject: &Subject) {
    let put = subject.put("dir/a.txt", "hello").await;
    let head = subject.store.head(&put.key).await.unwrap();
    let get = GetRequest { pin: GetPin::Latest(put.key.clone()), range: None };
    let get = subject.store.get(&get).await.unwrap();
    let page = subject.store.list(&ListRequest::default()).await.unwrap();
    let [ListLine::Object(listed)] = page.lines.as_slice() else { panic!("{page:?}") };
    assert_eq!(put.size, 5);
    assert!(put.etag.as_ref().is_some_and(|etag| etag.starts_with('"') && etag.ends_with('"')));
    for seen in [&head.version, &get.head.version, listed] {
        assert!(seen.is_same(&put), "{seen:?} is not {put:?}");
        assert_eq!((&seen.etag, seen.size), (&put.etag, 5));
    }
    assert_eq!(head.version, get.head.version);
    assert_eq!(head.version.last_modified, listed.last_modified);
    assert_eq!(head.tag_count, 0);
}

pub(crate) async fn ranges_are_cut_to_the_object(subject: &Subject) {
    subject.put("f", "0123456789").await;
    let cases = [((0, 4), "0123"), ((4, 8), "4567"), ((8, 100), "89"), ((9, u64::MAX), "9")];
    for ((start, end), expected) in cases {
        let bytes = range(subject, "f", ByteRange::new(start, end)).await.unwrap();
        assert_eq!(bytes, expected, "{start}..{end}");
    }
    for (start, end) in [(10, 20), (1_000, 2_000), (3, 3)] {
        let error = range(subject, "f", ByteRange::new(start, end)).await.unwrap_err();
        assert_eq!(error, ErrorKind::InvalidRange, "{start}..{end}");
    }
}

pub(crate) async fn an_empty_object_has_no_range(subject: &Subject) {
    subject.put("empty", "").await;
    assert_eq!(subject.read("empty").await.unwrap(), "");
    let error = range(subject, "empty", ByteRange::new(0, 10)).await.unwrap_err();
    assert_eq!(error, ErrorKind::InvalidRange);
}

pub(crate) async fn a_pin_holds_or_says_changed(subject: &Subject) {
    let first = subject.put("f", "first").await;
    let pin = GetPin::Version(first.clone());
    assert_eq!(subject.read_pinned(pin.clone()).await.unwrap(), "first");
    subject.put("f", "other").await;
    let error = subject.read_pinned(pin.clone()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    let ranged = GetRequest { pin, range: Some(ByteRange::new(1, 3)) };
    let error = subject.store.get(&ranged).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
}

pub(crate) async fn an_unchanged_object_is_not_sent_again(subject: &Subject) {
    let first = subject.put("f", "first").await;
    let pin = GetPin::IfChanged(first);
    let error = subject.read_pinned(pin.clone()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotModified);
    subject.put("f", "second").await;
    assert_eq!(subject.read_pinned(pin).await.unwrap(), "second");
}

pub(crate) async fn a_replaced_version_stays_readable_where_versions_are_kept(subject: &Subject) {
    subject.keep_versions();
    let first = subject.put("f", "first").await;
    let second = subject.put("f", "second").await;
    assert!(first.version_id.is_some() && first.version_id != second.version_id);
    assert_eq!(subject.store.head(&first.key).await.unwrap().version.version_id, second.version_id);
    assert_eq!(subject.read_pinned(GetPin::Version(first.clone())).await.unwrap(), "first");
    subject.store.delete(&first.key, &s3pod::store::Condition::None).await.unwrap();
    assert_eq!(subject.read_pinned(GetPin::Version(second)).await.unwrap(), "second");
    assert_eq!(*subject.read("f").await.unwrap_err().kind(), ErrorKind::NotFound);
    let gone = Version { version_id: Some("1234567890abcdef1234567890abcdef".into()), ..first };
    let error = subject.read_pinned(GetPin::Version(gone)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Changed | ErrorKind::NotFound), "{error}");
}
