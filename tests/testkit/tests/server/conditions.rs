//! If-Match and If-None-Match, decided with what follows them under one lock.

use aws_sdk_s3::primitives::{ByteStream, DateTime};
use futures::future::join_all;

use crate::common::{BUCKET, client, code, open_server, put, raw, server};

const OTHER: &str = "\"00000000000000000000000000000000\"";

#[tokio::test]
async fn of_racing_creates_exactly_one_wins() {
    let server = server().await;
    let client = client(&server);
    let create = |writer: usize| {
        let body = ByteStream::from(format!("writer {writer}").into_bytes());
        client.put_object().bucket(BUCKET).key("k").body(body).if_none_match("*").send()
    };
    let mut codes: Vec<_> = join_all((0..16).map(create)).await.into_iter().map(code).collect();
    codes.sort();
    assert_eq!(codes[0], "OK");
    assert!(codes[1..].iter().all(|code| code == "PreconditionFailed"), "{codes:?}");
}

#[tokio::test]
async fn of_racing_edits_exactly_one_wins() {
    let server = server().await;
    let client = client(&server);
    let etag = put(&client, "k", "base").await;
    let edit = |writer: usize| {
        let body = ByteStream::from(format!("writer {writer}").into_bytes());
        client.put_object().bucket(BUCKET).key("k").body(body).if_match(&etag).send()
    };
    let wins = join_all((0..16).map(edit)).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(wins, 1);
}

#[tokio::test]
async fn puts_hold_their_conditions() {
    let server = server().await;
    let client = client(&server);
    let with = |if_match: &str| {
        let put = client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"x"));
        put.if_match(if_match).send()
    };
    assert_eq!(code(with(OTHER).await), "NoSuchKey");
    let etag = put(&client, "k", "x").await;
    assert_eq!(code(with(OTHER).await), "PreconditionFailed");
    assert_eq!(code(with(&etag).await), "OK");
    let put = client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"x"));
    assert_eq!(code(put.if_none_match(OTHER).send().await), "NotImplemented");
}

#[tokio::test]
async fn reads_hold_their_conditions() {
    let server = server().await;
    let client = client(&server);
    let etag = put(&client, "k", "x").await;
    let get = || client.get_object().bucket(BUCKET).key("k");
    let head = || client.head_object().bucket(BUCKET).key("k");
    assert_eq!(code(get().if_match(&etag).send().await), "OK");
    assert_eq!(code(get().if_match(OTHER).send().await), "PreconditionFailed");
    assert_eq!(code(get().if_none_match(OTHER).send().await), "OK");
    assert_eq!(code(get().if_none_match(&etag).send().await), "304");
    assert_eq!(code(head().if_match(OTHER).send().await), "412");
    assert_eq!(code(head().if_none_match(&etag).send().await), "304");
    let (long_ago, far_ahead) = (DateTime::from_secs(1), DateTime::from_secs(4_000_000_000));
    assert_eq!(code(get().if_modified_since(far_ahead).send().await), "304");
    assert_eq!(code(get().if_modified_since(long_ago).send().await), "OK");
    assert_eq!(code(get().if_unmodified_since(long_ago).send().await), "PreconditionFailed");
    // An ETag that matches wins over a date that does not (RFC 9110 §13.2.2).
    assert_eq!(code(get().if_match(&etag).if_unmodified_since(long_ago).send().await), "OK");
}

#[tokio::test]
async fn a_304_has_its_etag_and_no_body() {
    let server = open_server().await;
    let etag = server.bucket(BUCKET).put("k", "x");
    let head = format!("GET /{BUCKET}/k HTTP/1.1\r\nIf-None-Match: \"{etag}\"\r\n");
    let answer = raw(&server, &head, b"").await;
    assert!(answer.starts_with("HTTP/1.1 304"), "{answer}");
    assert!(
        answer.contains(&format!("etag: \"{etag}\"")) && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn deletes_hold_their_condition() {
    let server = server().await;
    let client = client(&server);
    let etag = put(&client, "k", "x").await;
    let delete = || client.delete_object().bucket(BUCKET).key("k");
    assert_eq!(code(delete().if_match(OTHER).send().await), "PreconditionFailed");
    assert_eq!(code(delete().if_match(&etag).send().await), "OK");
    assert_eq!(code(delete().if_match("*").send().await), "PreconditionFailed");
    assert!(server.bucket(BUCKET).keys().is_empty());
}
