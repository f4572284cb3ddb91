//! Stores that keep conditions, ignore them, refuse them, or have no entity tags to name.

use bytes::Bytes;
use s3pod::naming::{Key, Prefix};
use s3pod::store::s3::S3Store;
use s3pod::store::{
    Condition, Conditional, CopyRequest, Deletion, ErrorKind, ObjectStore, PartTarget, Payload,
    Properties, PutRequest, Result, Upload, Version,
};
use s3pod_testkit::{Etags, Fault, Keeps, Op, ServerOptions, TestServer};

use crate::Subject;
use crate::server::testkit_settings;

const BUCKET: &str = "conditions";

/// A store over a server that is made so.
async fn made(options: ServerOptions) -> (TestServer, Conditional<S3Store>) {
    let server = TestServer::start(options).await.unwrap();
    let store = S3Store::connect(testkit_settings(&server, BUCKET)).await.unwrap();
    (server, Conditional::new(store, Prefix::from_user("deep/down")))
}

fn request(condition: Condition) -> PutRequest {
    PutRequest { key: Key::from("f"), properties: Properties::default(), condition }
}

async fn put(
    store: &impl ObjectStore,
    bytes: &'static str,
    condition: Condition,
) -> Result<Version> {
    store.put(&request(condition), &Payload::Bytes(Bytes::from_static(bytes.as_bytes()))).await
}

async fn upload(
    store: &impl ObjectStore,
    bytes: &'static str,
    condition: Condition,
) -> Result<Version> {
    let key = Key::from("f");
    let id = store.create_upload(&key, &Properties::default()).await?;
    let upload = Upload { key, id };
    let target = PartTarget { upload: upload.clone(), number: 1 };
    let part = store.upload_part(&target, &Payload::Bytes(bytes.into())).await?;
    let done = store.complete_upload(&upload, &[part], &condition).await;
    if done.is_err() {
        store.abort_upload(&upload).await?;
    }
    done
}

/// A condition that does not hold, since the version it names was replaced.
async fn stale(store: &impl ObjectStore) -> Condition {
    let old = put(store, "old", Condition::None).await.unwrap();
    put(store, "theirs", Condition::None).await.unwrap();
    Condition::Unchanged(old)
}

fn is_changed(result: Result<Version>) -> bool {
    result.is_err_and(|error| *error.kind() == ErrorKind::Changed)
}

pub(crate) async fn where_conditions_are_kept_they_are_sent(subject: &Subject) {
    let plain = S3Store::connect(subject.settings()).await.unwrap();
    let store = Conditional::new(plain, Prefix::root());
    let stale = stale(&store).await;
    assert!(is_changed(put(&store, "mine", stale.clone()).await));
    assert!(is_changed(put(&store, "mine", Condition::Absent).await));
    assert!(is_changed(upload(&store, "mine", stale.clone()).await));
    let deleted = store.delete(&Key::from("f"), &stale).await;
    assert_eq!(*deleted.unwrap_err().kind(), ErrorKind::Changed);
    assert_eq!(subject.read("f").await.unwrap(), "theirs");
    let left = subject.store.list(&Default::default()).await.unwrap().lines;
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn a_store_is_asked_once_and_only_what_matters() {
    let (server, store) = made(ServerOptions::with_bucket(BUCKET)).await;
    put(&store, "plain", Condition::None).await.unwrap();
    upload(&store, "plain", Condition::None).await.unwrap();
    assert_eq!(server.log().count(Op::Probe), 0);
    let stale = stale(&store).await;
    for _ in 0..3 {
        assert!(is_changed(put(&store, "mine", stale.clone()).await));
    }
    assert_eq!(server.log().count(Op::Probe), 1);
    let probe = &server.log().requests_of(Op::Probe)[0];
    assert!(probe.key.starts_with("deep/down/.s3pod-probe-"), "{}", probe.key);
    for _ in 0..3 {
        assert!(is_changed(upload(&store, "mine", stale.clone()).await));
    }
    // Create, one part, the Complete that fails, and the abort.
    assert_eq!(server.log().count(Op::Probe), 1 + 4);
    assert_eq!(server.bucket(BUCKET).keys(), ["f"]);
    assert!(server.bucket(BUCKET).uploads().is_empty());
}

#[tokio::test]
async fn each_kind_of_condition_that_is_not_kept_is_left_out() {
    for keeps in [Keeps::Never, Keeps::Refuses] {
        let options = ServerOptions { put_keeps: keeps, ..ServerOptions::with_bucket(BUCKET) };
        let (server, store) = made(options).await;
        let stale = stale(&store).await;
        assert!(is_changed(upload(&store, "mine", stale.clone()).await));
        put(&store, "mine", stale.clone()).await.unwrap();
        assert_eq!(server.bucket(BUCKET).get("f").unwrap(), "mine");
        put(&store, "again", Condition::Absent).await.unwrap();

        let options = ServerOptions { complete_keeps: keeps, ..ServerOptions::with_bucket(BUCKET) };
        let (server, store) = made(options).await;
        let stale = self::stale(&store).await;
        assert!(is_changed(put(&store, "mine", stale.clone()).await));
        upload(&store, "mine", stale.clone()).await.unwrap();
        assert_eq!(server.bucket(BUCKET).get("f").unwrap(), "mine");

        let options = ServerOptions { delete_keeps: keeps, ..ServerOptions::with_bucket(BUCKET) };
        let (server, store) = made(options).await;
        let stale = self::stale(&store).await;
        assert!(is_changed(put(&store, "mine", stale.clone()).await));
        store.delete(&Key::from("f"), &stale).await.unwrap();
        assert!(server.bucket(BUCKET).keys().is_empty(), "{keeps:?}");
        assert!(server.bucket(BUCKET).uploads().is_empty());
    }
}

/// A version that was replaced, one that stands, one that is gone: all three are to go.
async fn three(server: &TestServer, store: &impl ObjectStore) -> Vec<Deletion> {
    let bucket = server.bucket(BUCKET);
    for key in ["stale", "fresh", "gone"] {
        bucket.put(key, "ours");
    }
    let mut objects = Vec::new();
    for key in ["stale", "fresh", "gone"] {
        objects.push(store.head(&Key::from(key)).await.unwrap().version.into());
    }
    bucket.put("stale", "theirs");
    bucket.delete("gone");
    objects
}

#[tokio::test]
async fn of_many_only_the_versions_named_go() {
    let (server, store) = made(ServerOptions::with_bucket(BUCKET)).await;
    let objects = three(&server, &store).await;
    let failed = store.delete_many(&objects).await.unwrap();
    assert!(failed.iter().all(|(_, error)| error.is_changed()), "{failed:?}");
    assert!(failed.iter().any(|(key, _)| key.as_str() == "stale"), "{failed:?}");
    assert_eq!(server.bucket(BUCKET).keys(), ["stale"]);
    assert_eq!(server.log().count(Op::DeleteMany), 1);
    assert_eq!(server.log().count(Op::Probe), 0);
}

#[tokio::test]
async fn where_no_version_can_be_named_whatever_stands_there_goes() {
    for (keeps, asked) in [(Keeps::Never, 1), (Keeps::Refuses, 2)] {
        let options = ServerOptions { delete_keeps: keeps, ..ServerOptions::with_bucket(BUCKET) };
        let (server, store) = made(options).await;
        for round in 0..2 {
            let objects = three(&server, &store).await;
            let failed = store.delete_many(&objects).await.unwrap();
            assert!(failed.is_empty(), "{keeps:?}: {failed:?}");
            assert!(server.bucket(BUCKET).keys().is_empty(), "{keeps:?}");
            // That a condition is refused is found out once.
            assert_eq!(server.log().count(Op::DeleteMany), asked + round, "{keeps:?}");
        }
    }
}

#[tokio::test]
async fn an_odd_answer_is_no_refusal_of_a_condition() {
    let (server, store) = made(ServerOptions::with_bucket(BUCKET)).await;
    let stale = stale(&store).await;
    let Condition::Unchanged(version) = stale.clone() else { panic!("{stale:?}") };
    for op in [Op::Delete, Op::DeleteMany] {
        server.faults().add(Fault::status(400, "InvalidArgument").on(op));
    }
    let is_odd = |error: &s3pod::store::Error| matches!(error.kind(), ErrorKind::Other(_));
    assert!(store.delete(&version.key, &stale).await.is_err_and(|error| is_odd(&error)));
    let many = [Deletion::from(version.clone())];
    assert!(store.delete_many(&many).await.is_err_and(|error| is_odd(&error)));
    // The condition is still sent, and what stands there is another client's.
    assert!(store.delete(&version.key, &stale).await.is_err_and(|error| error.is_changed()));
    let failed = store.delete_many(&many).await.unwrap();
    assert!(matches!(&failed[..], [(_, error)] if error.is_changed()), "{failed:?}");
    assert_eq!(server.bucket(BUCKET).get("f").unwrap(), "theirs");
    assert_eq!((server.log().count(Op::Delete), server.log().count(Op::DeleteMany)), (2, 2));
}

#[tokio::test]
async fn a_copy_whose_condition_is_refused_goes_without() {
    let options = ServerOptions { put_keeps: Keeps::Refuses, ..ServerOptions::with_bucket(BUCKET) };
    let (server, store) = made(options).await;
    let source = put(&store, "bytes", Condition::None).await.unwrap();
    let copy = |key: &str| CopyRequest {
        key: Key::from(key),
        properties: None,
        tags_follow: true,
        condition: Condition::Absent,
    };
    store.copy(&source, &copy("g")).await.unwrap();
    store.copy(&source, &copy("h")).await.unwrap();
    assert_eq!(server.bucket(BUCKET).keys(), ["f", "g", "h"]);
    // The first one twice: with its condition, and without.
    assert_eq!(server.log().count(Op::Copy), 3);
}

#[tokio::test]
async fn an_answer_that_says_nothing_is_not_kept() {
    let (server, store) = made(ServerOptions::with_bucket(BUCKET)).await;
    let stale = stale(&store).await;
    server.faults().add(Fault::SlowDown.on(Op::Probe));
    let error = put(&store, "mine", stale.clone()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Throttled);
    assert!(is_changed(put(&store, "mine", stale.clone()).await));
    assert_eq!(server.log().count(Op::Probe), 2);
}

#[tokio::test]
async fn a_question_that_is_refused_with_and_without_its_condition_says_nothing() {
    let (server, store) = made(ServerOptions::with_bucket(BUCKET)).await;
    let stale = stale(&store).await;
    let odd = Fault::status(400, "KMS.DisabledException").on(Op::Probe);
    let refused = server.faults().add(odd.clone().always());
    let error = put(&store, "mine", stale.clone()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Other(_)), "{error}");
    assert_eq!(refused.hits(), 2);
    refused.remove();
    assert!(is_changed(put(&store, "mine", stale.clone()).await));
    // Of an upload it is the part that is refused, which carries no condition.
    let refused = server.faults().add(odd.skip(1).always());
    assert!(upload(&store, "mine", stale.clone()).await.is_err());
    refused.remove();
    assert!(is_changed(upload(&store, "mine", stale).await));
    assert_eq!(server.bucket(BUCKET).get("f").unwrap(), "theirs");
}

#[tokio::test]
async fn who_may_not_ask_sends_the_condition() {
    let (server, store) = made(ServerOptions::with_bucket(BUCKET)).await;
    let stale = stale(&store).await;
    server.faults().add(Fault::status(403, "AccessDenied").on(Op::Probe).always());
    assert!(is_changed(put(&store, "mine", stale).await));
    assert_eq!(server.bucket(BUCKET).get("f").unwrap(), "theirs");
}

#[tokio::test]
async fn without_entity_tags_a_version_is_its_size_and_time() {
    for etags in [Etags::Weak, Etags::None] {
        let options = ServerOptions { etags, ..ServerOptions::with_bucket(BUCKET) };
        let (server, store) = made(options).await;
        let key = Key::from("f");
        for is_upload in [false, true] {
            let version = if is_upload {
                upload(&store, "by an upload", Condition::None).await.unwrap()
            } else {
                put(&store, "by one PUT", Condition::None).await.unwrap()
            };
            assert_eq!(version.etag, None);
            assert!(store.head(&key).await.unwrap().version.is_same(&version), "{etags:?}");
            // A condition that no tag can carry holds.
            put(&store, "edited", Condition::Unchanged(version)).await.unwrap();
        }
        assert_eq!(server.log().count(Op::Probe), 0);
    }
}
