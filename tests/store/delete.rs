//! DELETE.

use s3pod::naming::Key;
use s3pod::store::{Condition, Deletion, ErrorKind, ListRequest, ObjectStore};

use crate::Subject;
use crate::list::ODD_KEYS;

pub(crate) async fn what_is_gone_is_no_error(subject: &Subject) {
    let version = subject.put("f", "x").await;
    subject.store.delete(&version.key, &Condition::None).await.unwrap();
    subject.store.delete(&version.key, &Condition::None).await.unwrap();
    assert!(subject.store.head(&version.key).await.unwrap_err().is_not_found());
    let objects = ["never", "there"].map(|key| Deletion::from(Key::from(key)));
    assert!(subject.store.delete_many(&objects).await.unwrap().is_empty());
    assert!(subject.store.delete_many(&[]).await.unwrap().is_empty());
}

pub(crate) async fn a_conditional_delete_is_refused(subject: &Subject) {
    let first = subject.put("f", "first").await;
    let second = subject.put("f", "second").await;
    let stale = Condition::Unchanged(first);
    let error = subject.store.delete(&second.key, &stale).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    let fresh = Condition::Unchanged(second.clone());
    subject.store.delete(&second.key, &fresh).await.unwrap();
    assert!(subject.store.head(&second.key).await.unwrap_err().is_not_found());
    let error = subject.store.delete(&second.key, &Condition::Absent).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unsupported);
}

pub(crate) async fn many_are_deleted_at_once(subject: &Subject) {
    for key in ODD_KEYS {
        subject.put(key, "x").await;
    }
    subject.put("odd-but-kept", "x").await;
    let objects: Vec<_> = ODD_KEYS.into_iter().map(Key::from).map(Deletion::from).collect();
    let failed = subject.store.delete_many(&objects).await.unwrap();
    assert!(failed.is_empty(), "{failed:?}");
    let left = subject.store.list(&ListRequest::default()).await.unwrap().lines;
    let left: Vec<_> = left.iter().map(|line| line.key()).collect();
    assert_eq!(left, ["odd-but-kept"]);
}
