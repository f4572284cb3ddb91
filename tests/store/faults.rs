//! What becomes of requests that meet a fault, and what they cost.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use s3pod::clock::Clock;
use s3pod::naming::Key;
use s3pod::store::s3::{S3Settings, S3Store};
use s3pod::store::{
    Checksum, ChecksumKind, Condition, CopyRequest, ErrorKind, GetPin, GetRequest, Limit,
    ListRequest, Metered, ObjectStore, PartTag, PartTarget, Payload, Properties, PutRequest,
    Result, Retry, RetryPolicy, Upload, Version,
};
use s3pod::units::{ByteRange, MIB};
use s3pod_testkit::{Fault, Op, ServerOptions, TestServer, synthetic_bytes};

use crate::Subject;
use crate::server::testkit_settings;

/// As a mount stacks it. Only a stall is waited for, so only it costs this patience.
async fn stacked(subject: &Subject) -> Arc<dyn ObjectStore> {
    let settings = S3Settings { read_timeout: Duration::from_secs(2), ..subject.settings() };
    let store = S3Store::connect(settings).await.unwrap();
    let policy = RetryPolicy {
        first_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(10),
        ..RetryPolicy::default()
    };
    Arc::new(Retry::new(Limit::new(Metered::new(store), 4), policy, Clock::system()))
}

async fn subject(case: &str) -> (Subject, Arc<dyn ObjectStore>) {
    let subject = Subject::testkit(case).await;
    let store = stacked(&subject).await;
    (subject, store)
}

fn bytes(length: usize) -> Bytes {
    (0..length).map(|n| (n % 251) as u8).collect::<Vec<_>>().into()
}

async fn put(
    store: &dyn ObjectStore,
    key: &str,
    payload: impl Into<Payload>,
    condition: Condition,
) -> Result<Version> {
    let properties = Properties::default();
    store.put(&PutRequest { key: Key::from(key), properties, condition }, &payload.into()).await
}

async fn read(store: &dyn ObjectStore, pin: GetPin, range: Option<ByteRange>) -> Result<Bytes> {
    let response = store.get(&GetRequest { pin, range }).await?;
    let frames: Vec<Bytes> = response.body.try_collect().await?;
    Ok(frames.concat().into())
}

async fn upload(store: &dyn ObjectStore, key: &str) -> (Upload, Vec<PartTag>) {
    let key = Key::from(key);
    let id = store.create_upload(&key, &Properties::default()).await.unwrap();
    let upload = Upload { key, id };
    let target = PartTarget { upload: upload.clone(), number: 1 };
    let part = store.upload_part(&target, &Payload::Bytes("part".into())).await.unwrap();
    (upload, vec![part])
}

#[tokio::test]
async fn each_verb_is_one_request() {
    let (subject, store) = subject("each-verb").await;
    let first = put(&*store, "f", bytes(10), Condition::Absent).await.unwrap();
    store.head(&first.key).await.unwrap();
    read(&*store, GetPin::Version(first.clone()), None).await.unwrap();
    store.list(&ListRequest::default()).await.unwrap();
    let to = CopyRequest {
        key: Key::from("g"),
        properties: None,
        tags_follow: true,
        condition: Condition::None,
    };
    store.copy(&first, &to).await.unwrap();
    let (upload, parts) = upload(&*store, "h").await;
    store.complete_upload(&upload, &parts, &Condition::None).await.unwrap();
    store.delete(&first.key, &Condition::None).await.unwrap();
    store.delete_many(&[to.key.into(), upload.key.into()]).await.unwrap();
    let log = subject.server().log();
    let expected = [
        Op::Head,
        Op::Get,
        Op::List,
        Op::Put,
        Op::CreateUpload,
        Op::UploadPart,
        Op::CompleteUpload,
        Op::Copy,
        Op::Delete,
        Op::DeleteMany,
    ];
    assert_eq!(log.counts(), expected.map(|op| (op, 1)));
    let sent = &log.requests_of(Op::Put)[0];
    assert_eq!(sent.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    assert!(sent.header("x-amz-checksum-crc32").is_some());
    assert_eq!((sent.bytes_in, sent.header("content-encoding")), (10, None));
}

#[tokio::test]
async fn a_busy_store_is_waited_for() {
    let (subject, store) = subject("busy").await;
    let faults = subject.server().faults();
    faults.add(Fault::SlowDown.on(Op::Put).times(2));
    faults.add(Fault::InternalError.on(Op::List));
    put(&*store, "f", bytes(10), Condition::None).await.unwrap();
    assert_eq!(store.list(&ListRequest::default()).await.unwrap().lines.len(), 1);
    let log = subject.server().log();
    assert_eq!((log.count(Op::Put), log.count(Op::List)), (3, 2));
    faults.add(Fault::SlowDown.on(Op::Head));
    let error = subject.store.head(&Key::from("f")).await.unwrap_err();
    assert_eq!((error.kind(), error.request_id().is_some()), (&ErrorKind::Throttled, true));
}

#[tokio::test]
async fn a_head_tells_the_checksum_of_the_whole() {
    let (subject, store) = subject("head-checksum").await;
    let bucket = subject.server().bucket(subject.store.bucket());
    bucket.put("f", "123456789");
    let told = store.head(&Key::from("f")).await.unwrap().checksum;
    let kind = ChecksumKind::Crc64Nvme;
    assert_eq!(told, Some(Checksum { kind, value: 0xae8b_1486_0a79_9888 }));
    let (upload, parts) = upload(&*store, "g").await;
    store.complete_upload(&upload, &parts, &Condition::None).await.unwrap();
    let told = store.head(&upload.key).await.unwrap().checksum;
    assert_eq!(told, None, "the checksum of a part's checksum is none of its bytes");
}

#[tokio::test]
async fn a_head_that_may_not_tell_the_checksum_is_sent_without_asking_for_it() {
    let (subject, store) = subject("head-denied").await;
    let key = put(&*store, "f", bytes(10), Condition::None).await.unwrap().key;
    let (faults, log) = (subject.server().faults(), subject.server().log());
    let denied = Fault::status(403, "AccessDenied").on(Op::Head);
    let always = faults.add(denied.clone().always());
    assert_eq!(store.head(&key).await.unwrap_err().kind(), &ErrorKind::Denied);
    always.remove();
    assert!(store.head(&key).await.unwrap().checksum.is_some(), "it was no reason to stop asking");
    faults.add(denied);
    for heads in [2, 1] {
        log.clear();
        assert_eq!(store.head(&key).await.unwrap().checksum, None);
        assert_eq!(log.count(Op::Head), heads);
    }
}

/// A body that ends as `fault` makes it is read whole, in two requests.
async fn is_resumed(case: &str, fault: Fault) {
    let (subject, store) = subject(case).await;
    let content = bytes(3_000_000);
    let version = put(&*store, "f", content.clone(), Condition::None).await.unwrap();
    for range in [None, Some(ByteRange::new(1_000, 2_000_000))] {
        subject.server().log().clear();
        subject.server().faults().add(fault.clone().on(Op::Get));
        let read = read(&*store, GetPin::Latest(version.key.clone()), range).await.unwrap();
        let range = range.unwrap_or(ByteRange::new(0, 3_000_000));
        assert_eq!(read, content[range.start as usize..range.end as usize], "{range}");
        let requests = subject.server().log().requests_of(Op::Get);
        assert_eq!(requests.len(), 2, "{requests:?}");
        assert_eq!(requests[1].header("if-match"), version.etag.as_deref());
        let resumed = requests[1].range.clone().unwrap();
        assert!(resumed.ends_with(&format!("-{}", range.end - 1)), "{resumed}");
        assert!(!resumed.starts_with(&format!("bytes={}-", range.start)), "{resumed}");
    }
}

#[tokio::test]
async fn a_body_that_is_reset_is_resumed() {
    is_resumed("reset", Fault::ResetResponse { after: 1_000_000 }).await;
}

#[tokio::test]
async fn a_body_that_is_cut_off_is_resumed() {
    is_resumed("truncate", Fault::Truncate { after: 1_000_000 }).await;
}

#[tokio::test]
async fn a_body_that_stalls_is_resumed() {
    is_resumed("stall", Fault::Stall { after: 1_000_000 }).await;
}

#[tokio::test]
async fn a_resumed_body_is_never_another_versions() {
    let (subject, store) = subject("resume-changed").await;
    let version = put(&*store, "f", bytes(3_000_000), Condition::None).await.unwrap();
    subject.server().faults().add(Fault::ResetResponse { after: 1_000_000 }.on(Op::Get));
    let request = GetRequest { pin: GetPin::Latest(version.key.clone()), range: None };
    let response = store.get(&request).await.unwrap();
    subject.server().bucket(subject.store.bucket()).put("f", bytes(2_999_999));
    let frames: Result<Vec<Bytes>> = response.body.try_collect().await;
    assert!(frames.unwrap_err().is_changed());
}

#[tokio::test]
async fn wrong_bytes_of_a_whole_object_are_found_out() {
    let (subject, store) = subject("flip").await;
    let content = bytes(100_000);
    let version = put(&*store, "f", content.clone(), Condition::None).await.unwrap();
    subject.server().faults().add(Fault::FlipByte { at: 50_000 }.on(Op::Get));
    let pin = GetPin::Version(version);
    let error = read(&*store, pin.clone(), None).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Damaged(_)), "{error}");
    assert_eq!(read(&*store, pin, None).await.unwrap(), content);
}

#[tokio::test]
async fn wrong_bytes_are_found_out_in_a_body_that_broke_off_too() {
    let (subject, store) = subject("flip-resumed").await;
    let content = bytes(100_000);
    let version = put(&*store, "f", content.clone(), Condition::None).await.unwrap();
    let (faults, log) = (subject.server().faults(), subject.server().log());
    for flip in [None, Some(3), Some(59_999)] {
        log.clear();
        faults.add(Fault::ResetResponse { after: 40_000 }.on(Op::Get));
        if let Some(at) = flip {
            faults.add(Fault::FlipByte { at }.on(Op::Get));
        }
        let read = read(&*store, GetPin::Version(version.clone()), None).await;
        match flip {
            None => assert_eq!(read.unwrap(), content),
            Some(_) => assert!(read.unwrap_err().is_damage(), "{flip:?}"),
        }
        assert_eq!(log.count(Op::Get), 2);
    }
}

#[tokio::test]
async fn a_lost_answer_is_told_from_a_refusal() {
    let (subject, store) = subject("lost").await;
    subject.server().faults().add(Fault::LoseResponse.on(Op::Put));
    let error = put(&*store, "f", bytes(10), Condition::Absent).await.unwrap_err();
    assert!(error.is_changed() && error.is_ambiguous(), "{error}");
    let error = put(&*store, "f", bytes(10), Condition::Absent).await.unwrap_err();
    assert!(error.is_changed() && !error.is_ambiguous(), "{error}");
    subject.server().faults().add(Fault::LoseResponse.on(Op::Put));
    put(&*store, "f", bytes(20), Condition::None).await.unwrap();
    let (upload, parts) = upload(&*store, "g").await;
    subject.server().faults().add(Fault::LoseResponse.on(Op::CompleteUpload));
    match store.complete_upload(&upload, &parts, &Condition::None).await {
        // A store may answer a repeated Complete with what became of it.
        Ok(version) => assert_eq!(version.size, 4),
        Err(error) => {
            assert_eq!(*error.kind(), ErrorKind::NoSuchUpload);
            assert!(error.is_ambiguous());
        }
    }
    assert_eq!(store.head(&upload.key).await.unwrap().version.size, 4);
}

#[tokio::test]
async fn a_success_with_an_error_inside_is_an_error() {
    let (subject, store) = subject("error-in-200").await;
    let faults = subject.server().faults();
    // More than 5 MiB, since a range of it is copied.
    let content = bytes(5 * MIB as usize + 1);
    let source = put(&*store, "f", content, Condition::None).await.unwrap();
    let to = CopyRequest {
        key: Key::from("g"),
        properties: None,
        tags_follow: true,
        condition: Condition::None,
    };
    faults.add(Fault::ErrorIn200.on(Op::Copy));
    let error = subject.store.copy(&source, &to).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    faults.add(Fault::ErrorIn200.on(Op::Copy));
    store.copy(&source, &to).await.unwrap();

    let (upload, mut parts) = upload(&*store, "h").await;
    let target = PartTarget { upload: upload.clone(), number: 1 };
    faults.add(Fault::ErrorIn200.on(Op::CopyPart));
    let copied = subject.store.copy_part(&target, &source, ByteRange::new(0, 5)).await;
    assert_eq!(*copied.unwrap_err().kind(), ErrorKind::Unavailable);
    faults.add(Fault::ErrorIn200.on(Op::CopyPart));
    parts[0] = store.copy_part(&target, &source, ByteRange::new(0, 5)).await.unwrap();

    faults.add(Fault::ErrorIn200.on(Op::CompleteUpload));
    let completed = subject.store.complete_upload(&upload, &parts, &Condition::None).await;
    assert_eq!(*completed.unwrap_err().kind(), ErrorKind::Unavailable);
    faults.add(Fault::ErrorIn200.on(Op::CompleteUpload));
    let version = store.complete_upload(&upload, &parts, &Condition::None).await.unwrap();
    assert_eq!(version.size, 5);
}

#[tokio::test]
async fn an_upload_that_is_reset_is_sent_again_from_its_start() {
    let (subject, store) = subject("reset-upload").await;
    let content = bytes(3_000_000);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    let from_file = Payload::File(Arc::new(file), ByteRange::new(0, 3_000_000));
    for payload in [Payload::Bytes(content.clone()), from_file] {
        subject.server().faults().add(Fault::ResetRequest { after: 1_000_000 }.on(Op::Put));
        let version = put(&*store, "f", payload, Condition::None).await.unwrap();
        assert_eq!(read(&*store, GetPin::Version(version), None).await.unwrap(), content);
    }
    assert_eq!(subject.server().log().count(Op::Put), 4);
}

#[tokio::test]
async fn a_store_that_answers_late_is_given_up_in_time() {
    let (subject, _) = subject("late").await;
    let hold = subject.server().faults().hold(Op::Put, "f");
    let patience = Duration::from_millis(200);
    let settings = S3Settings { read_timeout: patience, ..subject.settings() };
    let store = S3Store::connect(settings).await.unwrap();
    let error = put(&store, "f", bytes(10), Condition::None).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Timeout);
    assert!(error.is_ambiguous());
    drop(hold);
}

#[tokio::test]
async fn a_refused_source_is_no_checksum_fault() {
    let (subject, store) = subject("status").await;
    subject.server().faults().add(Fault::status(403, "AccessDenied").on(Op::Put));
    let error = put(&*store, "f", bytes(10), Condition::None).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Denied);
    subject.server().faults().add(Fault::status(409, "ConditionalRequestConflict").on(Op::Put));
    put(&*store, "f", bytes(10), Condition::Absent).await.unwrap();
    assert_eq!(subject.server().log().count(Op::Put), 3);
}

#[tokio::test]
async fn a_far_range_of_a_huge_object_is_read() {
    let (subject, store) = subject("huge").await;
    let size = 5 * MIB * MIB;
    subject.server().bucket(subject.store.bucket()).put_synthetic("huge", size, 7);
    let range = ByteRange::new(size - 1_000_003, size);
    let read = read(&*store, GetPin::Latest(Key::from("huge")), Some(range)).await.unwrap();
    assert_eq!(read, synthetic_bytes(7, range.start..range.end));
}

#[tokio::test]
async fn the_buckets_own_region_is_named() {
    let options = ServerOptions {
        region: "eu-west-1".to_owned(),
        enforce_region: true,
        ..ServerOptions::with_bucket("abroad")
    };
    let server = TestServer::start(options).await.unwrap();
    let store = S3Store::connect(testkit_settings(&server, "abroad")).await.unwrap();
    let error = store.probe("").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::WrongRegion(Some("eu-west-1".to_owned())));
    let error = store.list(&ListRequest::default()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::WrongRegion(Some("eu-west-1".to_owned())));
}
