//! Multipart uploads.

use bytes::Bytes;
use s3pod::naming::Key;
use s3pod::store::{
    Condition, ErrorKind, ObjectStore, PartTag, PartTarget, Payload, Properties, Result, Upload,
    Version,
};
use s3pod::units::{ByteRange, MIB};

use crate::Subject;
use crate::put::properties;

/// S3's least size of a part that is not the last.
const LEAST: u64 = 5 * MIB;

fn part(seed: u8, length: u64) -> Bytes {
    (0..length).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)).collect::<Vec<_>>().into()
}

async fn begin(subject: &Subject, key: &str) -> Upload {
    let key = Key::from(key);
    let id = subject.store.create_upload(&key, &Properties::default()).await.unwrap();
    Upload { key, id }
}

async fn send(subject: &Subject, upload: &Upload, number: u32, bytes: Bytes) -> PartTag {
    let target = PartTarget { upload: upload.clone(), number };
    subject.store.upload_part(&target, &Payload::Bytes(bytes)).await.unwrap()
}

async fn copied(
    subject: &Subject,
    upload: &Upload,
    number: u32,
    source: &Version,
    range: ByteRange,
) -> Result<PartTag> {
    let target = PartTarget { upload: upload.clone(), number };
    subject.store.copy_part(&target, source, range).await
}

async fn upload_of(subject: &Subject, key: &str, bytes: Bytes) -> (Upload, Vec<PartTag>) {
    let upload = begin(subject, key).await;
    let parts = vec![send(subject, &upload, 1, bytes).await];
    (upload, parts)
}

pub(crate) async fn parts_become_one_object(subject: &Subject) {
    let upload = begin(subject, "big").await;
    let (first, last) = (part(1, LEAST), part(2, 1_000));
    // Out of order, as parallel uploads come.
    let tag2 = send(subject, &upload, 2, last.clone()).await;
    let tag1 = send(subject, &upload, 1, first.clone()).await;
    assert_eq!((tag1.size, tag2.size), (LEAST, 1_000));
    let parts = [tag1, tag2];
    let version = subject.store.complete_upload(&upload, &parts, &Condition::None).await.unwrap();
    assert_eq!(version.size, LEAST + 1_000);
    let head = subject.store.head(&upload.key).await.unwrap();
    assert!(head.version.is_same(&version), "{head:?} is not {version:?}");
    assert_eq!(subject.read("big").await.unwrap(), [first, last].concat());
}

pub(crate) async fn parts_are_copied_from_a_pinned_version(subject: &Subject) {
    let bytes = part(3, LEAST + 500);
    let source = subject.put("source", bytes.clone()).await;
    let upload = begin(subject, "target").await;
    let tag1 = copied(subject, &upload, 1, &source, ByteRange::new(0, LEAST)).await.unwrap();
    let tag2 = send(subject, &upload, 2, Bytes::from_static(b"edited")).await;
    assert_eq!(tag1.size, LEAST);
    let parts = [tag1, tag2];
    subject.store.complete_upload(&upload, &parts, &Condition::None).await.unwrap();
    let expected = [&bytes[..LEAST as usize], b"edited"].concat();
    assert_eq!(subject.read("target").await.unwrap(), expected);
    subject.put("source", "replaced by another").await;
    let upload = begin(subject, "target").await;
    let error = copied(subject, &upload, 1, &source, ByteRange::new(0, 10)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    subject.store.abort_upload(&upload).await.unwrap();
}

pub(crate) async fn a_conditional_complete_is_refused(subject: &Subject) {
    let old = subject.put("f", "old").await;
    let (upload, parts) = upload_of(subject, "f", part(4, 100)).await;
    let error =
        subject.store.complete_upload(&upload, &parts, &Condition::Absent).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    // A refusal leaves the upload as it was.
    let unchanged = Condition::Unchanged(old);
    let new = subject.store.complete_upload(&upload, &parts, &unchanged).await.unwrap();
    let (upload, parts) = upload_of(subject, "f", part(5, 100)).await;
    let error = subject.store.complete_upload(&upload, &parts, &unchanged).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    assert!(subject.store.head(&upload.key).await.unwrap().version.is_same(&new));
    subject.store.abort_upload(&upload).await.unwrap();
}

pub(crate) async fn an_upload_that_is_gone_is_named(subject: &Subject) {
    let (upload, parts) = upload_of(subject, "f", part(6, 100)).await;
    subject.store.abort_upload(&upload).await.unwrap();
    subject.store.abort_upload(&upload).await.unwrap();
    let complete = subject.store.complete_upload(&upload, &parts, &Condition::None).await;
    assert_eq!(*complete.unwrap_err().kind(), ErrorKind::NoSuchUpload);
    let target = PartTarget { upload, number: 2 };
    let error = subject.store.upload_part(&target, &Payload::Bytes("x".into())).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NoSuchUpload);
}

pub(crate) async fn properties_of_the_upload_are_the_objects(subject: &Subject) {
    let key = Key::from("f");
    let id = subject.store.create_upload(&key, &properties()).await.unwrap();
    let upload = Upload { key, id };
    let tag = send(subject, &upload, 1, part(7, 100)).await;
    subject.store.complete_upload(&upload, &[tag], &Condition::None).await.unwrap();
    let head = subject.store.head(&upload.key).await.unwrap();
    assert_eq!(head.properties, properties());
}
