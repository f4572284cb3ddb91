//! What the decorators add, over a store that does as it is told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use s3pod::clock::Clock;
use s3pod::naming::Key;
use s3pod::store::{
    Condition, CopyRequest, Deletion, Error, ErrorKind, GetPin, GetRequest, GetResponse, Limit,
    ListPage, ListRequest, Metered, ObjectHead, ObjectStore, Operation, PartTag, PartTarget,
    Payload, Properties, PutRequest, Result, Retry, RetryPolicy, Upload, UploadId, Version,
};
use s3pod::units::ByteRange;

const CONTENT: &str = "0123456789";

/// What the next request meets.
#[derive(Clone, Debug)]
enum Turn {
    /// It succeeds.
    Done,
    /// It fails so.
    Fail(ErrorKind),
    /// It is to be sent again after so long.
    Busy(Duration),
    /// Its body breaks off after so many bytes.
    BreakAfter(usize),
}

/// A store with one object, which meets its requests with a script and succeeds beyond it.
#[derive(Clone, Debug, Default)]
struct Scripted {
    script: Arc<Mutex<VecDeque<Turn>>>,
    seen: Arc<Mutex<Vec<String>>>,
    open_bodies: Arc<AtomicUsize>,
    /// Its bodies are compared with something that only all of them can be compared with.
    compares: bool,
}

impl Scripted {
    fn new(turns: impl IntoIterator<Item = Turn>) -> Self {
        Self { script: Arc::new(Mutex::new(turns.into_iter().collect())), ..Self::default() }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    fn next(&self, operation: Operation, what: impl std::fmt::Display) -> Result<Turn> {
        self.seen.lock().unwrap().push(format!("{} {what}", operation.as_str()));
        match self.script.lock().unwrap().pop_front().unwrap_or(Turn::Done) {
            Turn::Fail(kind) => Err(Error::new(operation, kind)),
            Turn::Busy(wait) => {
                Err(Error::new(operation, ErrorKind::Throttled).with_retry_after(Some(wait)))
            }
            turn => Ok(turn),
        }
    }
}

fn version(key: &Key) -> Version {
    Version {
        key: key.clone(),
        etag: Some("\"1\"".into()),
        version_id: None,
        size: CONTENT.len() as u64,
        last_modified: UNIX_EPOCH,
    }
}

fn head(key: &Key) -> ObjectHead {
    let (version, properties) = (version(key), Properties::default());
    ObjectHead { version, properties, tag_count: 0, checksum: None }
}

#[async_trait]
impl ObjectStore for Scripted {
    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        self.next(Operation::Head, key)?;
        Ok(head(key))
    }

    async fn tags(&self, version: &Version) -> Result<Vec<(String, String)>> {
        self.next(Operation::Tags, &version.key)?;
        Ok(Vec::new())
    }

    async fn get(&self, request: &GetRequest) -> Result<GetResponse> {
        let key = request.pin.key();
        let whole = ByteRange::new(0, CONTENT.len() as u64);
        let range = request.range.unwrap_or(whole).intersect(whole);
        let pinned = matches!(request.pin, GetPin::Version(_));
        let turn = self.next(Operation::Get, format!("{range} pinned: {pinned}"))?;
        let mut frames: Vec<Result<Bytes>> = CONTENT.as_bytes()
            [range.start as usize..range.end as usize]
            .chunks(3)
            .map(|frame| Ok(Bytes::copy_from_slice(frame)))
            .collect();
        if let Turn::BreakAfter(bytes) = turn {
            frames.truncate(bytes / 3);
            let kind = ErrorKind::Connection("reset".into());
            frames.push(Err(Error::new(Operation::Get, kind)));
        }
        let guard = OpenBody::new(&self.open_bodies);
        let body = futures::stream::iter(frames).map(move |frame| {
            let _open = &guard;
            frame
        });
        Ok(GetResponse { head: head(key), range, is_divisible: !self.compares, body: body.boxed() })
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.next(Operation::List, &request.prefix)?;
        Ok(ListPage::default())
    }

    async fn put(&self, request: &PutRequest, _payload: &Payload) -> Result<Version> {
        self.next(Operation::Put, &request.key)?;
        Ok(version(&request.key))
    }

    async fn create_upload(&self, key: &Key, _properties: &Properties) -> Result<UploadId> {
        self.next(Operation::CreateUpload, key)?;
        Ok(UploadId("id".into()))
    }

    async fn upload_part(&self, part: &PartTarget, payload: &Payload) -> Result<PartTag> {
        self.next(Operation::UploadPart, &part.upload.key)?;
        let size = payload.len();
        Ok(PartTag { number: part.number, size, etag: "\"p\"".into(), crc32: None })
    }

    async fn copy_part(
        &self,
        part: &PartTarget,
        _source: &Version,
        range: ByteRange,
    ) -> Result<PartTag> {
        self.next(Operation::CopyPart, &part.upload.key)?;
        Ok(PartTag { number: part.number, size: range.len(), etag: "\"p\"".into(), crc32: None })
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        _parts: &[PartTag],
        _condition: &Condition,
    ) -> Result<Version> {
        self.next(Operation::CompleteUpload, &upload.key)?;
        Ok(version(&upload.key))
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        self.next(Operation::AbortUpload, &upload.key).map(drop)
    }

    async fn copy(&self, _source: &Version, request: &CopyRequest) -> Result<Version> {
        self.next(Operation::Copy, &request.key)?;
        Ok(version(&request.key))
    }

    async fn delete(&self, key: &Key, _condition: &Condition) -> Result<()> {
        self.next(Operation::Delete, key).map(drop)
    }

    /// A turn per key.
    async fn delete_many(&self, objects: &[Deletion]) -> Result<Vec<(Key, Error)>> {
        let fail = |Deletion { key, .. }: &Deletion| {
            Some((key.clone(), self.next(Operation::DeleteMany, key).err()?))
        };
        Ok(objects.iter().filter_map(fail).collect())
    }
}

struct OpenBody(Arc<AtomicUsize>);

impl OpenBody {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for OpenBody {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn patient() -> RetryPolicy {
    RetryPolicy {
        op_timeout: Duration::from_secs(60),
        first_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(2),
        max_attempts: 5,
    }
}

fn retry(store: &Scripted) -> Retry<Scripted> {
    Retry::new(store.clone(), patient(), Clock::system())
}

fn put_request(condition: Condition) -> PutRequest {
    PutRequest { key: Key::from("f"), properties: Properties::default(), condition }
}

fn get_request() -> GetRequest {
    GetRequest { pin: GetPin::Latest(Key::from("f")), range: None }
}

async fn read(store: &dyn ObjectStore) -> Result<String> {
    let response = store.get(&get_request()).await?;
    let frames: Vec<Bytes> = response.body.try_collect().await?;
    Ok(String::from_utf8(frames.concat()).unwrap())
}

#[tokio::test]
async fn what_fails_in_passing_is_repeated() {
    let turns = [Turn::Fail(ErrorKind::Throttled), Turn::Fail(ErrorKind::Unavailable)];
    let store = Scripted::new(turns);
    retry(&store).head(&Key::from("f")).await.unwrap();
    assert_eq!(store.seen().len(), 3);
}

#[tokio::test]
async fn what_fails_for_good_is_not_repeated() {
    let store = Scripted::new([Turn::Fail(ErrorKind::Denied)]);
    let error = retry(&store).head(&Key::from("f")).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Denied);
    assert_eq!(store.seen().len(), 1);
}

#[tokio::test]
async fn attempts_are_bounded() {
    let store = Scripted::new(vec![Turn::Fail(ErrorKind::Unavailable); 100]);
    let error = retry(&store).list(&ListRequest::default()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    assert_eq!(store.seen().len(), 5);
}

#[tokio::test]
async fn a_wait_beyond_the_budget_is_not_waited() {
    let policy = RetryPolicy { op_timeout: Duration::ZERO, ..patient() };
    let store = Scripted::new(vec![Turn::Fail(ErrorKind::Throttled); 100]);
    let store_with_no_time = Retry::new(store.clone(), policy, Clock::manual());
    let payload = Payload::Bytes("x".into());
    let error = store_with_no_time.put(&put_request(Condition::None), &payload).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Throttled);
    assert_eq!(store.seen().len(), 1);
}

#[tokio::test]
async fn a_store_that_wants_to_be_left_alone_for_too_long_is_tried_in_time() {
    let store = Scripted::new([Turn::Busy(Duration::from_secs(3600))]);
    let policy = RetryPolicy { op_timeout: Duration::from_millis(100), ..patient() };
    let hurried = Retry::new(store.clone(), policy, Clock::manual());
    hurried.head(&Key::from("f")).await.unwrap();
    assert_eq!(store.seen().len(), 2);
}

#[tokio::test]
async fn an_echo_of_a_lost_success_says_so() {
    let lost = Turn::Fail(ErrorKind::Timeout);
    let store = Scripted::new([lost.clone(), Turn::Fail(ErrorKind::Changed)]);
    let payload = Payload::Bytes("x".into());
    let request = put_request(Condition::Absent);
    let error = retry(&store).put(&request, &payload).await.unwrap_err();
    assert!(error.is_changed() && error.is_ambiguous());
    let throttled = Turn::Fail(ErrorKind::Throttled);
    let store = Scripted::new([throttled, Turn::Fail(ErrorKind::Changed)]);
    let error = retry(&store).put(&request, &payload).await.unwrap_err();
    assert!(error.is_changed() && !error.is_ambiguous());
    let store = Scripted::new([lost, Turn::Fail(ErrorKind::NoSuchUpload)]);
    let upload = Upload { key: Key::from("f"), id: UploadId("id".into()) };
    let completed = retry(&store).complete_upload(&upload, &[], &Condition::None).await;
    let error = completed.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NoSuchUpload);
    assert!(error.is_ambiguous());
}

#[tokio::test]
async fn a_refused_complete_is_not_repeated_on_its_upload() {
    let store = Scripted::new([Turn::Fail(ErrorKind::Conflict)]);
    let upload = Upload { key: Key::from("f"), id: UploadId("id".into()) };
    let completed = retry(&store).complete_upload(&upload, &[], &Condition::None).await;
    assert_eq!(*completed.unwrap_err().kind(), ErrorKind::Conflict);
    let store = Scripted::new([Turn::Fail(ErrorKind::Conflict)]);
    let payload = Payload::Bytes("x".into());
    retry(&store).put(&put_request(Condition::Absent), &payload).await.unwrap();
    assert_eq!(store.seen().len(), 2);
}

#[tokio::test]
async fn a_broken_body_goes_on_where_it_stopped() {
    let turns = [Turn::BreakAfter(3), Turn::BreakAfter(3), Turn::Fail(ErrorKind::Unavailable)];
    let store = Scripted::new(turns);
    assert_eq!(read(&retry(&store)).await.unwrap(), CONTENT);
    let expected = [
        "GetObject 0..10 pinned: false",
        "GetObject 3..10 pinned: true",
        "GetObject 6..10 pinned: true",
        "GetObject 6..10 pinned: true",
    ];
    assert_eq!(store.seen(), expected);
}

#[tokio::test]
async fn progress_renews_the_attempts_and_their_lack_does_not() {
    // A byte of progress each time: more breaks than attempts.
    let store = Scripted::new(vec![Turn::BreakAfter(3); 3]);
    let policy = RetryPolicy { max_attempts: 2, ..patient() };
    let short = Retry::new(store.clone(), policy, Clock::system());
    assert_eq!(read(&short).await.unwrap(), CONTENT);
    let store = Scripted::new(vec![Turn::BreakAfter(0); 100]);
    let error = read(&retry(&store)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Connection("reset".into()));
    assert_eq!(store.seen().len(), 5);
}

#[tokio::test]
async fn a_reader_may_take_its_time() {
    let store = Scripted::new([Turn::BreakAfter(3)]);
    let clock = Clock::manual();
    let retry = Retry::new(store.clone(), patient(), clock.clone());
    let mut body = retry.get(&get_request()).await.unwrap().body;
    assert_eq!(body.try_next().await.unwrap().unwrap(), "012");
    clock.advance(Duration::from_secs(600));
    let rest: Vec<Bytes> = body.try_collect().await.unwrap();
    assert_eq!(rest.concat(), b"3456789");
}

#[tokio::test]
async fn a_body_is_not_resumed_at_another_version() {
    let store = Scripted::new([Turn::BreakAfter(3), Turn::Fail(ErrorKind::Changed)]);
    assert!(read(&retry(&store)).await.unwrap_err().is_changed());
}

#[tokio::test]
async fn a_body_that_is_compared_whole_is_not_taken_up_again() {
    let store = Scripted { compares: true, ..Scripted::new([Turn::BreakAfter(3)]) };
    assert!(read(&retry(&store)).await.unwrap_err().is_damage());
    assert_eq!(store.seen().len(), 1);
    assert_eq!(read(&retry(&store)).await.unwrap(), CONTENT);
}

#[tokio::test]
async fn only_keys_that_failed_in_passing_are_deleted_again() {
    let turns = [Turn::Fail(ErrorKind::Denied), Turn::Fail(ErrorKind::Unavailable), Turn::Done];
    let store = Scripted::new(turns);
    let objects = ["a", "b", "c"].map(|key| Deletion::from(Key::from(key)));
    let failed = retry(&store).delete_many(&objects).await.unwrap();
    let [(key, error)] = failed.as_slice() else { panic!("{failed:?}") };
    assert_eq!((key.as_str(), error.kind()), ("a", &ErrorKind::Denied));
    let expected = ["DeleteObjects a", "DeleteObjects b", "DeleteObjects c", "DeleteObjects b"];
    assert_eq!(store.seen(), expected);
}

#[tokio::test]
async fn a_body_counts_as_in_flight_until_it_ends() {
    let store = Scripted::default();
    let limit = Arc::new(Limit::new(store.clone(), 1));
    let body = limit.get(&get_request()).await.unwrap().body;
    let key = Key::from("f");
    let waiting = tokio::spawn({
        let limit = Arc::clone(&limit);
        async move { limit.head(&key).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(store.seen().len(), 1, "the HEAD waits");
    drop(body);
    waiting.await.unwrap().unwrap();
    assert_eq!(store.open_bodies.load(Ordering::SeqCst), 0);
    let whole = read(&limit).await.unwrap();
    assert_eq!(whole, CONTENT);
    limit.head(&Key::from("f")).await.unwrap();
}

#[tokio::test]
async fn a_resumed_body_does_not_wait_for_itself() {
    let store = Scripted::new([Turn::BreakAfter(3)]);
    let limit = Limit::new(store.clone(), 1);
    let store: Arc<dyn ObjectStore> = Arc::new(Retry::new(limit, patient(), Clock::system()));
    assert_eq!(read(&store).await.unwrap(), CONTENT);
}

#[tokio::test]
async fn every_attempt_is_counted() {
    let turns = [Turn::Fail(ErrorKind::Throttled), Turn::Done, Turn::BreakAfter(6)];
    let metered = Metered::new(Scripted::new(turns));
    let counters = metered.counters();
    let store = Retry::new(metered, patient(), Clock::system());
    store.put(&put_request(Condition::None), &Payload::Bytes("12345".into())).await.unwrap();
    assert_eq!(read(&store).await.unwrap(), CONTENT);
    assert_eq!(counters.requests(Operation::Put), 2);
    assert_eq!(counters.requests(Operation::Get), 2);
    assert_eq!(counters.total(), 4);
    assert_eq!((counters.bytes_in(), counters.bytes_out()), (10, 5));
}
