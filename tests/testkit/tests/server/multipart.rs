//! Multipart uploads: limits, order, invisibility, composition.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use s3pod_testkit::{Op, synthetic_bytes};

use crate::common::{BUCKET, MIB, client, code, get, server};

async fn create(client: &Client, key: &str) -> String {
    let answer = client.create_multipart_upload().bucket(BUCKET).key(key).send().await.unwrap();
    answer.upload_id().unwrap().to_owned()
}

async fn part(client: &Client, id: &str, number: i32, body: Vec<u8>) -> CompletedPart {
    let part = client.upload_part().bucket(BUCKET).key("k").upload_id(id).part_number(number);
    let answer = part.body(ByteStream::from(body)).send().await.unwrap();
    CompletedPart::builder().part_number(number).e_tag(answer.e_tag().unwrap()).build()
}

async fn complete(client: &Client, id: &str, parts: &[CompletedPart]) -> String {
    let list = CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build();
    let call = client.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(id);
    match call.multipart_upload(list).send().await {
        Ok(answer) => answer.e_tag().unwrap().to_owned(),
        Err(error) => code::<(), _>(Err(error)),
    }
}

#[tokio::test]
async fn an_upload_is_invisible_until_it_is_complete() {
    let server = server().await;
    let client = client(&server);
    let id = create(&client, "k").await;
    let (first, last) = (synthetic_bytes(1, 0..5 * MIB as u64), b"tail".to_vec());
    let parts =
        [part(&client, &id, 1, first.clone()).await, part(&client, &id, 7, last.clone()).await];
    let bucket = server.bucket(BUCKET);
    assert!(bucket.keys().is_empty());
    assert_eq!(bucket.uploads()[0].parts, [(1, 5 * MIB as u64), (7, 4)]);

    let etag = complete(&client, &id, &parts).await;
    assert!(etag.ends_with("-2\"") && etag.len() == 36, "{etag}");
    assert_eq!(get(&client, "k").await, [first, last].concat());
    assert_eq!(bucket.object("k").unwrap().parts, [5 * MIB as u64, 4]);
    assert!(bucket.uploads().is_empty());
    assert_eq!(complete(&client, &id, &parts).await, "NoSuchUpload");
    let second = client.get_object().bucket(BUCKET).key("k").part_number(2).send().await.unwrap();
    assert_eq!(second.parts_count(), Some(2));
    assert_eq!(second.body.collect().await.unwrap().into_bytes(), "tail");
    assert_eq!(server.log().count(Op::CompleteUpload), 2);
}

#[tokio::test]
async fn a_complete_that_lists_wrong_parts_is_refused_and_the_upload_stays() {
    let server = server().await;
    let client = client(&server);
    let id = create(&client, "k").await;
    let small = part(&client, &id, 1, vec![1; 5 * MIB - 1]).await;
    let large = part(&client, &id, 2, vec![2; 5 * MIB]).await;
    let last = part(&client, &id, 3, vec![3; 1]).await;
    let missing = CompletedPart::builder().part_number(4).e_tag(last.e_tag().unwrap()).build();
    let forged = CompletedPart::builder().part_number(3).e_tag(small.e_tag().unwrap()).build();
    let rows = [
        (vec![small.clone(), last.clone()], "EntityTooSmall"),
        (vec![last.clone(), large.clone()], "InvalidPartOrder"),
        (vec![large.clone(), large.clone()], "InvalidPartOrder"),
        (vec![large.clone(), missing], "InvalidPart"),
        (vec![large.clone(), forged], "InvalidPart"),
        (vec![], "MalformedXML"),
    ];
    for (parts, expected) in rows {
        assert_eq!(complete(&client, &id, &parts).await, expected);
    }
    assert!(complete(&client, &id, &[large, last]).await.ends_with("-2\""));
}

#[tokio::test]
async fn part_numbers_run_from_1_to_10_000() {
    let server = server().await;
    let client = client(&server);
    let id = create(&client, "k").await;
    for (number, expected) in
        [(0, "InvalidArgument"), (1, "OK"), (10_000, "OK"), (10_001, "InvalidArgument")]
    {
        let part = client.upload_part().bucket(BUCKET).key("k").upload_id(&id).part_number(number);
        let answer = part.body(ByteStream::from_static(b"x")).send().await;
        assert_eq!(code(answer), expected, "part {number}");
    }
    let list = client.list_parts().bucket(BUCKET).key("k").upload_id(&id).max_parts(1);
    let page = list.clone().send().await.unwrap();
    assert_eq!((page.parts().len(), page.is_truncated()), (1, Some(true)));
    let marker = page.next_part_number_marker().unwrap().to_owned();
    let page = list.part_number_marker(marker).send().await.unwrap();
    assert_eq!(page.parts()[0].part_number(), Some(10_000));
    assert_eq!(page.is_truncated(), Some(false));
}

#[tokio::test]
async fn a_repeated_part_replaces_the_first_and_an_abort_ends_it_all() {
    let server = server().await;
    let client = client(&server);
    let id = create(&client, "k").await;
    part(&client, &id, 1, b"one".to_vec()).await;
    let again = part(&client, &id, 1, b"two".to_vec()).await;
    assert_ne!(complete(&client, &id, &[again]).await, "InvalidPart");
    assert_eq!(get(&client, "k").await, "two");

    let id = create(&client, "k").await;
    let list = client.list_multipart_uploads().bucket(BUCKET).send().await.unwrap();
    assert_eq!(list.uploads()[0].upload_id(), Some(id.as_str()));
    let abort = || client.abort_multipart_upload().bucket(BUCKET).key("k").upload_id(&id).send();
    assert_eq!(code(abort().await), "OK");
    assert_eq!(code(abort().await), "NoSuchUpload");
    let late = client.upload_part().bucket(BUCKET).key("k").upload_id(&id).part_number(1);
    assert_eq!(code(late.body(ByteStream::from_static(b"x")).send().await), "NoSuchUpload");
}

#[tokio::test]
async fn completes_hold_their_conditions_and_keep_the_upload() {
    let server = server().await;
    let client = client(&server);
    server.bucket(BUCKET).put("k", "old");
    let id = create(&client, "k").await;
    let only = part(&client, &id, 1, b"new".to_vec()).await;
    let list = CompletedMultipartUpload::builder().parts(only).build();
    let call = || {
        let call = client.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(&id);
        call.multipart_upload(list.clone())
    };
    assert_eq!(code(call().if_none_match("*").send().await), "PreconditionFailed");
    assert_eq!(
        code(call().if_match("\"00000000000000000000000000000000\"").send().await),
        "PreconditionFailed"
    );
    assert_eq!(server.bucket(BUCKET).get("k").unwrap(), "old");
    let etag = server.bucket(BUCKET).object("k").unwrap().etag;
    assert_eq!(code(call().if_match(format!("\"{etag}\"")).send().await), "OK");
    assert_eq!(server.bucket(BUCKET).get("k").unwrap(), "new");
}

#[tokio::test]
async fn parts_are_copied_from_terabytes_without_reading_them() {
    let server = server().await;
    let client = client(&server);
    let (size, gib) = (1_u64 << 40, 1_u64 << 30);
    let source = server.bucket(BUCKET).put_synthetic("source", size, 5);
    let id = create(&client, "k").await;
    let copy = |number: i32, range: String| {
        let copy = client.upload_part_copy().bucket(BUCKET).key("k").upload_id(&id);
        copy.part_number(number).copy_source("bucket/source").copy_source_range(range)
    };
    let mut parts = Vec::new();
    for at in 0..3 {
        let start = at * 5 * gib;
        let number = i32::try_from(at).unwrap() + 1;
        let call = copy(number, format!("bytes={start}-{}", start + 5 * gib - 1));
        let answer = call.copy_source_if_match(format!("\"{source}\"")).send().await.unwrap();
        let etag = answer.copy_part_result().unwrap().e_tag().unwrap();
        parts.push(CompletedPart::builder().part_number(number).e_tag(etag).build());
    }
    parts.push(part(&client, &id, 4, b"edited".to_vec()).await);
    let wrong = copy(9, "bytes=0-9".to_owned())
        .copy_source_if_match("\"00000000000000000000000000000000\"");
    assert_eq!(code(wrong.send().await), "PreconditionFailed");
    assert_eq!(code(copy(9, format!("bytes=0-{size}")).send().await), "InvalidArgument");
    assert_eq!(code(copy(9, format!("bytes=0-{}", 5 * gib)).send().await), "InvalidRequest");
    assert_eq!(code(copy(9, "bytes=5-".to_owned()).send().await), "InvalidArgument");

    complete(&client, &id, &parts).await;
    let bucket = server.bucket(BUCKET);
    assert_eq!(bucket.object("k").unwrap().size, 15 * gib + 6);
    let tail = bucket.get_range("k", 15 * gib - 4..15 * gib + 6).unwrap();
    let expected = [synthetic_bytes(5, 15 * gib - 4..15 * gib), b"edited".to_vec()].concat();
    assert_eq!(tail, Bytes::from(expected));
    assert_eq!(server.log().count(Op::CopyPart), 7);
}

#[tokio::test]
async fn a_range_is_copied_only_of_more_than_5_mib() {
    let server = server().await;
    let client = client(&server);
    let size = 5 * MIB as u64;
    server.bucket(BUCKET).put_synthetic("small", size, 1);
    server.bucket(BUCKET).put_synthetic("large", size + 1, 1);
    let id = create(&client, "k").await;
    let copy = |source: &str| {
        let copy = client.upload_part_copy().bucket(BUCKET).key("k").upload_id(&id);
        copy.part_number(1).copy_source(format!("bucket/{source}"))
    };
    for range in ["bytes=0-9", "bytes=0-5242879"] {
        assert_eq!(
            code(copy("small").copy_source_range(range).send().await),
            "InvalidRequest",
            "{range}"
        );
        assert_eq!(code(copy("large").copy_source_range(range).send().await), "OK", "{range}");
    }
    assert_eq!(code(copy("small").send().await), "OK");
}

#[tokio::test]
async fn an_upload_takes_its_properties_from_its_start() {
    let server = server().await;
    let client = client(&server);
    let start =
        client.create_multipart_upload().bucket(BUCKET).key("k").metadata("mode", "0100644");
    let start = start.content_type("text/plain").tagging("a=1").send().await.unwrap();
    let id = start.upload_id().unwrap();
    let only = part(&client, id, 1, b"x".to_vec()).await;
    complete(&client, id, &[only]).await;
    let info = server.bucket(BUCKET).object("k").unwrap();
    assert_eq!(info.metadata("mode"), Some("0100644"));
    assert_eq!(info.attributes.content_type.as_deref(), Some("text/plain"));
    assert_eq!(info.attributes.tags["a"], "1");
}
