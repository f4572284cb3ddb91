//! LIST.

use s3pod::store::{ErrorKind, ListLine, ListRequest, ObjectStore};

use crate::Subject;

/// Keys that a naive client gets wrong in a URL, in XML or in a form.
pub const ODD_KEYS: [&str; 14] = [
    "odd/a b",
    "odd/a%20b",
    "odd/a+b",
    "odd/a&b<c>",
    "odd/a\"'b",
    "odd/a=b;c,d",
    "odd/a?b#c",
    "odd/a\\b",
    "odd/a~b!*()",
    "odd/c++/x",
    "odd/ä/ö",
    "odd/日本",
    "odd/🦀",
    "odd/100%",
];

async fn all(subject: &Subject, request: ListRequest) -> Vec<ListLine> {
    let mut lines = Vec::new();
    let mut request = request;
    loop {
        let page = subject.store.list(&request).await.unwrap();
        if let Some(max) = request.max_keys {
            assert!(page.lines.len() <= usize::from(max), "{page:?}");
        }
        lines.extend(page.lines);
        match page.next {
            Some(next) => request.continuation = Some(next),
            None => return lines,
        }
    }
}

fn keys(lines: &[ListLine]) -> Vec<&str> {
    lines.iter().map(ListLine::key).collect()
}

pub async fn lines_come_in_byte_order(subject: &Subject) {
    for key in ["d/a", "d/a/b", "d/a-", "d/a.txt", "d/Z", "d/é", "d/sub/x", "d/sub/y", "e"] {
        subject.put(key, "1").await;
    }
    let flat = all(subject, ListRequest { prefix: "d/".into(), ..ListRequest::default() }).await;
    let expected = ["d/Z", "d/a", "d/a-", "d/a.txt", "d/a/b", "d/sub/x", "d/sub/y", "d/é"];
    assert_eq!(keys(&flat), expected);
    let delimited = ListRequest { prefix: "d/".into(), delimited: true, ..ListRequest::default() };
    let grouped = all(subject, delimited).await;
    assert_eq!(keys(&grouped), ["d/Z", "d/a", "d/a-", "d/a.txt", "d/a/", "d/sub/", "d/é"]);
    assert!(matches!(grouped[4], ListLine::Prefix(_)));
    let empty = ListRequest { prefix: "zzz/".into(), ..ListRequest::default() };
    assert_eq!(subject.store.list(&empty).await.unwrap().lines, []);
}

pub async fn pages_join_without_gap_or_overlap(subject: &Subject) {
    for number in 0..7 {
        subject.put(&format!("p/{number}"), "1").await;
        subject.put(&format!("p/{number}/inner"), "1").await;
    }
    for delimited in [false, true] {
        let whole = ListRequest { prefix: "p/".into(), delimited, ..ListRequest::default() };
        let paged = ListRequest { max_keys: Some(3), ..whole.clone() };
        let whole = all(subject, whole).await;
        assert_eq!(whole.len(), 14);
        assert_eq!(keys(&all(subject, paged).await), keys(&whole), "delimited: {delimited}");
    }
    let after = ListRequest {
        prefix: "p/".into(),
        start_after: Some("p/5".into()),
        max_keys: Some(2),
        ..ListRequest::default()
    };
    assert_eq!(keys(&all(subject, after).await), ["p/5/inner", "p/6", "p/6/inner"]);
}

pub async fn every_key_is_decoded(subject: &Subject) {
    for key in ODD_KEYS {
        subject.put(key, key.to_owned()).await;
    }
    let lines = all(subject, ListRequest { prefix: "odd/".into(), ..ListRequest::default() }).await;
    let mut expected = ODD_KEYS.to_vec();
    expected.sort_unstable();
    assert_eq!(keys(&lines), expected);
    for key in ODD_KEYS {
        assert_eq!(subject.read(key).await.unwrap(), key);
        let prefix = key.to_owned();
        let only = all(subject, ListRequest { prefix, ..ListRequest::default() }).await;
        assert!(keys(&only).contains(&key), "{key} in {only:?}");
    }
    let delimited =
        ListRequest { prefix: "odd/".into(), delimited: true, ..ListRequest::default() };
    let prefixes: Vec<_> = all(subject, delimited)
        .await
        .into_iter()
        .filter(|line| matches!(line, ListLine::Prefix(_)))
        .collect();
    assert_eq!(keys(&prefixes), ["odd/c++/", "odd/ä/"]);
}

pub async fn a_missing_bucket_is_named(subject: &Subject) {
    let elsewhere = subject.elsewhere().await;
    let error = elsewhere.list(&ListRequest::default()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NoSuchBucket);
    assert_eq!(*elsewhere.probe("").await.unwrap_err().kind(), ErrorKind::NoSuchBucket);
    subject.store.probe("").await.unwrap();
    subject.store.probe("some/prefix/").await.unwrap();
}
