//! PUT, and what is kept with an object.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use s3pod::naming::Key;
use s3pod::store::{Condition, ErrorKind, ObjectStore, Payload, Properties, PutRequest};
use s3pod::units::ByteRange;

use crate::Subject;

/// Every property that all stores keep.
pub(crate) fn properties() -> Properties {
    let user = [("mode", "0100644"), ("mtime", "1700000000.123456789"), ("x-odd_name.1", "a, b")];
    Properties {
        content_type: Some("text/x-test".into()),
        content_encoding: Some("identity".into()),
        content_language: Some("de".into()),
        content_disposition: Some("attachment; filename=\"a.txt\"".into()),
        cache_control: Some("max-age=60".into()),
        expires: Some("Sun, 01 Dec 2030 16:00:00 GMT".into()),
        user_metadata: user.map(|(name, value)| (name.into(), value.into())).into(),
        ..Properties::default()
    }
}

pub(crate) async fn properties_come_back(subject: &Subject) {
    let request =
        PutRequest { key: Key::from("f"), properties: properties(), condition: Condition::None };
    subject.store.put(&request, &Payload::Bytes("x".into())).await.unwrap();
    let head = subject.store.head(&request.key).await.unwrap();
    assert_eq!(head.properties, properties());
    subject.put("f", "plain").await;
    let head = subject.store.head(&request.key).await.unwrap();
    assert_eq!(head.properties.user_metadata, BTreeMap::new());
    assert_eq!(head.properties.cache_control, None);
}

/// Two tags that need encoding.
pub(crate) fn tags() -> Vec<(String, String)> {
    vec![("project".into(), "a b+c".into()), ("team".into(), "x=y".into())]
}

pub(crate) async fn tags_are_kept(subject: &Subject) {
    let request = PutRequest {
        key: Key::from("f"),
        properties: Properties { tags: tags(), ..Properties::default() },
        condition: Condition::None,
    };
    let version = subject.store.put(&request, &Payload::Bytes("x".into())).await.unwrap();
    assert_eq!(subject.store.head(&version.key).await.unwrap().tag_count, 2);
    let mut kept = subject.store.tags(&version).await.unwrap();
    kept.sort();
    assert_eq!(kept, tags());
    let plain = subject.put("plain", "x").await;
    assert_eq!(subject.store.tags(&plain).await.unwrap(), []);
}

pub(crate) async fn a_file_is_sent_by_range(subject: &Subject) {
    let bytes: Vec<u8> = (0..1_500_000u32).map(|n| (n % 253) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let payload = Payload::File(Arc::new(file), ByteRange::new(1_000, 1_400_000));
    let request = PutRequest {
        key: Key::from("f"),
        properties: Properties::default(),
        condition: Condition::None,
    };
    let version = subject.store.put(&request, &payload).await.unwrap();
    assert_eq!(version.size, 1_399_000);
    assert_eq!(subject.read("f").await.unwrap(), bytes[1_000..1_400_000]);
}

pub(crate) async fn a_conditional_put_is_refused(subject: &Subject) {
    let first = subject.put_if("f", "first", Condition::Absent).await.unwrap();
    let error = subject.put_if("f", "again", Condition::Absent).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    let unchanged = Condition::Unchanged(first);
    let second = subject.put_if("f", "second", unchanged.clone()).await.unwrap();
    let error = subject.put_if("f", "third", unchanged.clone()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    assert!(!error.is_ambiguous());
    assert_eq!(subject.read("f").await.unwrap(), "second");
    subject.store.delete(&second.key, &Condition::None).await.unwrap();
    let error = subject.put_if("f", "fourth", unchanged).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
}

pub(crate) async fn an_empty_object_is_stored(subject: &Subject) {
    let empty = subject.put("empty", "").await;
    assert_eq!((empty.size, empty.etag.is_some()), (0, true));
    subject.put("dir/", "").await;
    assert_eq!(subject.store.head(&Key::from("dir/")).await.unwrap().version.size, 0);
}
