//! LIST.

use s3pod::naming::Key;
use s3pod::store::{ListLine, ListRequest, ObjectStore};

use crate::{Flavor, Subject};

/// Keys that a naive client gets wrong in a URL, in XML or in a form.
pub(crate) const ODD_KEYS: [&str; 13] = [
    "odd/a b",
    "odd/a%20b",
    "odd/a+b",
    "odd/a&b<c>",
    "odd/a\"'b",
    "odd/a=b;c,d",
    "odd/a?b#c",
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
            let most = match subject.flavor {
                Flavor::Testkit => usize::from(max),
                // A name that is an object and a prefix counts once.
                Flavor::SeaweedFs => 2 * usize::from(max),
            };
            assert!(page.lines.len() <= most, "{page:?}");
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

pub(crate) async fn lines_come_in_byte_order(subject: &Subject) {
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

pub(crate) async fn pages_join_without_gap_or_overlap(subject: &Subject) {
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
    let after = all(subject, after).await;
    match subject.flavor {
        Flavor::Testkit => assert_eq!(keys(&after), ["p/5/inner", "p/6", "p/6/inner"]),
        // Its names are a tree's: what is below `p/5` is not after it.
        Flavor::SeaweedFs => assert_eq!(keys(&after), ["p/6", "p/6/inner"]),
    }
}

/// Though one store orders keys and another names: `vfs/pages` divides listings so.
pub(crate) async fn what_begins_behind_a_tilde_is_the_same_in_any_order(subject: &Subject) {
    for number in 1998..2001 {
        subject.put(&format!("s/{number:06}.jpg"), "1").await;
        subject.put(&format!("s/{number:06}/inner"), "1").await;
    }
    let whole = ListRequest { prefix: "s/".into(), delimited: true, ..ListRequest::default() };
    let behind = ListRequest { start_after: Some("s/001999~".into()), ..whole };
    assert_eq!(keys(&all(subject, behind).await), ["s/002000.jpg", "s/002000/"]);
}

pub(crate) async fn every_key_is_decoded(subject: &Subject) {
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

pub(crate) async fn keys_that_xml_cannot_carry_are_listed(subject: &Subject) {
    let control = "control/\u{1}\u{7f}\n";
    subject.put(control, "1").await;
    let lines = all(subject, ListRequest::default()).await;
    assert_eq!(keys(&lines), [control]);
    assert!(subject.store.delete_many(&[Key::from(control).into()]).await.unwrap().is_empty());
    assert_eq!(all(subject, ListRequest::default()).await, []);
}

pub(crate) async fn a_backslash_stays_a_backslash(subject: &Subject) {
    subject.put("back\\slash", "1").await;
    let lines = all(subject, ListRequest::default()).await;
    match subject.flavor {
        Flavor::Testkit => assert_eq!(keys(&lines), ["back\\slash"]),
        // Files are its objects, and `\\` its separator too.
        Flavor::SeaweedFs => assert_eq!(keys(&lines), ["back/slash"]),
    }
}
