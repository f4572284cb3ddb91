//! Slow GETs are raced, and not more of them than agreed.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use s3pod::clock::Clock;
use s3pod::naming::Key;
use s3pod::store::{GetPin, GetRequest, Hedged, ObjectStore};
use s3pod_testkit::{Fault, Op};

use crate::Subject;

/// Answers that are known before anything counts as slow.
const KNOWN: usize = 64;

async fn get(store: &dyn ObjectStore) -> Vec<u8> {
    let request = GetRequest { pin: GetPin::Latest(Key::from("f")), range: None };
    let body = store.get(&request).await.unwrap().body;
    let frames: Vec<bytes::Bytes> = body.try_collect().await.unwrap();
    frames.concat()
}

/// A store that knows how long answers take, and the number of GETs that took.
async fn warmed(subject: &Subject) -> Arc<dyn ObjectStore> {
    subject.server().bucket(subject.store.bucket()).put("f", "bytes");
    let store = s3pod::store::s3::S3Store::connect(subject.settings()).await.unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(Hedged::new(store, Clock::system()));
    for _ in 0..KNOWN {
        assert_eq!(get(&*store).await, b"bytes");
    }
    subject.server().log().clear();
    store
}

#[tokio::test]
async fn a_get_that_is_not_answered_is_answered_by_another() {
    let subject = Subject::testkit("hedged-once").await;
    let store = warmed(&subject).await;
    let hold = subject.server().faults().add(Fault::Delay(Duration::from_secs(600)).on(Op::Get));
    assert_eq!(get(&*store).await, b"bytes");
    assert_eq!(hold.hits(), 1);
    assert_eq!(subject.server().log().count(Op::Get), 2);
    assert_eq!(get(&*store).await, b"bytes");
    assert_eq!(subject.server().log().count(Op::Get), 3, "one that is not slow is not raced");
}

#[tokio::test]
async fn a_store_that_is_slow_as_a_whole_is_not_asked_twice() {
    let subject = Subject::testkit("hedged-bound").await;
    let store = warmed(&subject).await;
    let slow = Fault::Delay(Duration::from_millis(300)).on(Op::Get).always();
    subject.server().faults().add(slow);
    for _ in 0..12 {
        assert_eq!(get(&*store).await, b"bytes");
    }
    let gets = subject.server().log().count(Op::Get);
    assert!((13..=16).contains(&gets), "{gets} GETs: a burst of 4 is all there is");
}

#[tokio::test]
async fn without_anything_to_compare_with_nothing_is_raced() {
    let subject = Subject::testkit("hedged-unknown").await;
    subject.server().bucket(subject.store.bucket()).put("f", "bytes");
    let store = s3pod::store::s3::S3Store::connect(subject.settings()).await.unwrap();
    let store = Hedged::new(store, Clock::system());
    subject.server().faults().add(Fault::Delay(Duration::from_millis(500)).on(Op::Get));
    assert_eq!(get(&store).await, b"bytes");
    assert_eq!(subject.server().log().count(Op::Get), 1);
}
