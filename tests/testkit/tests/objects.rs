//! Objects through the SDK: what goes in comes out, with everything beside it.

mod common;

use aws_sdk_s3::primitives::ByteStream;
use common::{BUCKET, client, code, server};
use s3pod_testkit::{Op, synthetic_bytes};

#[tokio::test]
async fn a_put_object_comes_back_whole() {
    let server = server().await;
    let client = client(&server);
    let body = ByteStream::from_static(b"hello");
    let put = client.put_object().bucket(BUCKET).key("d/a b+ä").body(body);
    let put = put.metadata("mode", "0100644").content_type("text/plain").send().await.unwrap();
    assert_eq!(put.e_tag(), Some("\"5d41402abc4b2a76b9719d911017c592\""));

    let head = client.head_object().bucket(BUCKET).key("d/a b+ä").send().await.unwrap();
    assert_eq!(head.content_length(), Some(5));
    assert_eq!(head.metadata().unwrap()["mode"], "0100644");
    let get = client.get_object().bucket(BUCKET).key("d/a b+ä").send().await.unwrap();
    assert_eq!(get.content_type(), Some("text/plain"));
    assert_eq!(get.body.collect().await.unwrap().into_bytes(), "hello");

    assert_eq!(server.bucket(BUCKET).get("d/a b+ä").unwrap(), "hello");
    assert_eq!(server.log().counts(), [(Op::Head, 1), (Op::Get, 1), (Op::Put, 1)]);
    assert_eq!((server.log().bytes_in(), server.log().bytes_out()), (5, 5));
    server.shutdown().await;
}

#[tokio::test]
async fn ranges_of_a_synthetic_terabyte_are_its_formula() {
    let server = server().await;
    let client = client(&server);
    let size = 3_u64 << 40;
    server.bucket(BUCKET).put_synthetic("huge", size, 9);
    let read = async |range: &str| {
        let get = client.get_object().bucket(BUCKET).key("huge").range(range).send().await;
        get.unwrap().body.collect().await.unwrap().into_bytes()
    };
    assert_eq!(
        read("bytes=1000000000001-1000001000000").await,
        synthetic_bytes(9, 1_000_000_000_001..1_000_001_000_001)
    );
    assert_eq!(read("bytes=-10").await, synthetic_bytes(9, size - 10..size));
    let past = client.get_object().bucket(BUCKET).key("huge").range(format!("bytes={size}-"));
    assert_eq!(code(past.send().await), "InvalidRange");
}
