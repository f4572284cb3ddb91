//! CopyObject: what it keeps, what it drops, what it refuses.

use aws_sdk_s3::types::{MetadataDirective, StorageClass, TaggingDirective};
use s3pod_testkit::{Attributes, Op};

use crate::common::{BUCKET, client, code, server};

const OTHER: &str = "\"00000000000000000000000000000000\"";

fn source_attributes() -> Attributes {
    Attributes {
        content_type: Some("text/plain".to_owned()),
        storage_class: Some("STANDARD_IA".to_owned()),
        tags: [("a".to_owned(), "1".to_owned())].into(),
        ..Attributes::with_metadata([("mode", "0100644")])
    }
}

#[tokio::test]
async fn a_copy_keeps_metadata_and_tags_but_not_the_class() {
    let server = server().await;
    let client = client(&server);
    let bucket = server.bucket(BUCKET);
    bucket.put_with("d/ä b", "hello", source_attributes());
    let copy = client.copy_object().bucket(BUCKET).key("copy");
    let answer = copy.copy_source("bucket/d/%C3%A4%20b").send().await.unwrap();
    let source = bucket.object("d/ä b").unwrap();
    let etag = answer.copy_object_result().unwrap().e_tag().unwrap().to_owned();
    assert_eq!(etag, format!("\"{}\"", source.etag));
    let copied = bucket.object("copy").unwrap();
    let expected = Attributes { storage_class: None, ..source_attributes() };
    assert_eq!(copied.attributes, expected);
    assert_eq!(bucket.get("copy").unwrap(), "hello");
    assert_eq!(server.log().count(Op::Copy), 1);
}

#[tokio::test]
async fn replace_takes_everything_from_the_request() {
    let server = server().await;
    let client = client(&server);
    let bucket = server.bucket(BUCKET);
    bucket.put_with("k", "hello", source_attributes());
    let copy = client.copy_object().bucket(BUCKET).key("k").copy_source("bucket/k");
    let copy = copy.metadata_directive(MetadataDirective::Replace).metadata("mode", "0100600");
    let copy = copy.tagging_directive(TaggingDirective::Replace).tagging("b=2");
    copy.storage_class(StorageClass::StandardIa).send().await.unwrap();
    let expected = Attributes {
        content_type: None,
        tags: [("b".to_owned(), "2".to_owned())].into(),
        metadata: [("mode".to_owned(), "0100600".to_owned())].into(),
        ..source_attributes()
    };
    assert_eq!(bucket.object("k").unwrap().attributes, expected);
}

#[tokio::test]
async fn a_self_copy_must_change_something() {
    let server = server().await;
    let client = client(&server);
    server.bucket(BUCKET).put("k", "x");
    let copy = || client.copy_object().bucket(BUCKET).key("k").copy_source("bucket/k");
    assert_eq!(code(copy().send().await), "InvalidRequest");
    assert_eq!(code(copy().storage_class(StorageClass::Standard).send().await), "InvalidRequest");
    assert_eq!(code(copy().storage_class(StorageClass::StandardIa).send().await), "OK");
}

#[tokio::test]
async fn both_ends_hold_their_conditions() {
    let server = server().await;
    let client = client(&server);
    let bucket = server.bucket(BUCKET);
    let source = format!("\"{}\"", bucket.put("source", "new"));
    let target = format!("\"{}\"", bucket.put("target", "old"));
    let copy =
        |key: &str| client.copy_object().bucket(BUCKET).key(key).copy_source("bucket/source");
    let failed = "PreconditionFailed";
    assert_eq!(code(copy("x").copy_source_if_match(OTHER).send().await), failed);
    assert_eq!(code(copy("x").copy_source_if_none_match(&source).send().await), failed);
    assert_eq!(code(copy("target").if_none_match("*").send().await), failed);
    assert_eq!(code(copy("target").if_match(OTHER).send().await), failed);
    assert_eq!(bucket.get("target").unwrap(), "old");
    assert!(!bucket.contains("x"));
    assert_eq!(code(copy("x").if_match(OTHER).send().await), "NoSuchKey");
    let both = copy("target").copy_source_if_match(&source).if_match(&target);
    assert_eq!(code(both.send().await), "OK");
    assert_eq!(bucket.get("target").unwrap(), "new");
    assert_eq!(code(copy("y").if_none_match("*").send().await), "OK");
    let missing = client.copy_object().bucket(BUCKET).key("z").copy_source("bucket/none");
    assert_eq!(code(missing.send().await), "NoSuchKey");
}

#[tokio::test]
async fn more_than_5_gib_is_not_copied_at_once_and_synthetic_stays_synthetic() {
    let server = server().await;
    let client = client(&server);
    let bucket = server.bucket(BUCKET);
    let limit = 5_u64 << 30;
    bucket.put_synthetic("fits", limit, 4);
    bucket.put_synthetic("too-large", limit + 1, 4);
    let copy = |source: &str| {
        client
            .copy_object()
            .bucket(BUCKET)
            .key("copy")
            .copy_source(format!("bucket/{source}"))
            .send()
    };
    assert_eq!(code(copy("too-large").await), "InvalidRequest");
    assert_eq!(code(copy("fits").await), "OK");
    assert_eq!(
        bucket.get_range("copy", limit - 9..limit),
        bucket.get_range("fits", limit - 9..limit)
    );
}
