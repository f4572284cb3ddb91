//! Server-side copies of whole objects.

use s3pod::naming::Key;
use s3pod::store::{
    Condition, CopyRequest, ErrorKind, ObjectStore, Payload, Properties, PutRequest, Version,
};

use crate::Subject;
use crate::list::ODD_KEYS;
use crate::put::{properties, tags};

fn to(key: &str) -> CopyRequest {
    CopyRequest {
        key: Key::from(key),
        properties: None,
        tags_follow: true,
        condition: Condition::None,
    }
}

async fn source(subject: &Subject, key: &str) -> Version {
    let request = PutRequest {
        key: Key::from(key),
        properties: Properties { tags: tags(), ..properties() },
        condition: Condition::None,
    };
    subject.store.put(&request, &Payload::Bytes("source".into())).await.unwrap()
}

pub(crate) async fn a_copy_takes_everything_over(subject: &Subject) {
    let source = source(subject, "from").await;
    let copy = subject.store.copy(&source, &to("dir/to")).await.unwrap();
    assert_eq!((copy.key.as_str(), copy.size), ("dir/to", 6));
    let head = subject.store.head(&copy.key).await.unwrap();
    assert!(head.version.is_same(&copy), "{head:?} is not {copy:?}");
    assert_eq!(head.properties, properties());
    assert_eq!(head.tag_count, 2);
    assert_eq!(subject.read("dir/to").await.unwrap(), "source");
}

pub(crate) async fn a_copy_may_replace_the_properties(subject: &Subject) {
    let source = source(subject, "f").await;
    let new = Properties {
        content_type: Some("text/plain".into()),
        user_metadata: [("mode".to_owned(), "0100600".to_owned())].into(),
        ..Properties::default()
    };
    let request = CopyRequest { properties: Some(new.clone()), ..to("f") };
    let copy = subject.store.copy(&source, &request).await.unwrap();
    let head = subject.store.head(&copy.key).await.unwrap();
    assert_eq!(head.properties, new);
    assert_eq!(head.tag_count, 2);
    assert_eq!(subject.read("f").await.unwrap(), "source");
}

pub(crate) async fn a_copy_is_pinned_to_its_source(subject: &Subject) {
    let source = source(subject, "from").await;
    subject.put("from", "another").await;
    let error = subject.store.copy(&source, &to("to")).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    subject.store.delete(&source.key, &Condition::None).await.unwrap();
    let error = subject.store.copy(&source, &to("to")).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotFound);
}

pub(crate) async fn a_copy_may_be_conditional_on_its_destination(subject: &Subject) {
    let source = source(subject, "from").await;
    let old = subject.put("to", "old").await;
    let absent = CopyRequest { condition: Condition::Absent, ..to("to") };
    let error = subject.store.copy(&source, &absent).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    let unchanged = CopyRequest { condition: Condition::Unchanged(old), ..to("to") };
    subject.store.copy(&source, &unchanged).await.unwrap();
    let error = subject.store.copy(&source, &unchanged).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    let absent = CopyRequest { key: Key::from("new"), ..absent };
    subject.store.copy(&source, &absent).await.unwrap();
    assert_eq!(subject.read("new").await.unwrap(), "source");
}

pub(crate) async fn odd_keys_are_copied(subject: &Subject) {
    for key in ODD_KEYS {
        let version = subject.put(key, key.to_owned()).await;
        let target = format!("copied/{key}");
        subject.store.copy(&version, &to(&target)).await.unwrap();
        assert_eq!(subject.read(&target).await.unwrap(), key);
    }
}
