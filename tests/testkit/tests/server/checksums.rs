//! Bodies that do not match what was said about them are refused.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart};

use crate::common::{BUCKET, MIB, client, code, open_server, raw, server};

const ALGORITHMS: [ChecksumAlgorithm; 5] = [
    ChecksumAlgorithm::Crc32,
    ChecksumAlgorithm::Crc32C,
    ChecksumAlgorithm::Crc64Nvme,
    ChecksumAlgorithm::Sha1,
    ChecksumAlgorithm::Sha256,
];

#[tokio::test]
async fn each_algorithm_is_computed_by_the_sdk_and_agreed_to() {
    let server = server().await;
    let client = client(&server);
    for algorithm in ALGORITHMS {
        let put =
            client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"hello"));
        let put = put.checksum_algorithm(algorithm.clone()).send().await;
        assert_eq!(code(put), "OK", "{algorithm:?}");
        // The SDK compares the body with the checksum in the answer.
        let get = client.get_object().bucket(BUCKET).key("k").checksum_mode(ChecksumMode::Enabled);
        let get = get.send().await.unwrap();
        assert_eq!(get.body.collect().await.unwrap().into_bytes(), "hello", "{algorithm:?}");
    }
}

#[tokio::test]
async fn a_body_from_a_stream_comes_with_its_checksum_in_a_trailer() {
    let server = server().await;
    let client = client(&server);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![7; 3 * MIB]).unwrap();
    let body = ByteStream::from_path(file.path()).await.unwrap();
    client.put_object().bucket(BUCKET).key("k").body(body).send().await.unwrap();
    let request = &server.log().requests()[0];
    assert!(request.header("x-amz-trailer").is_some(), "{:?}", request.headers);
    assert_eq!(request.bytes_in, 3 * MIB as u64);
    let info = server.bucket(BUCKET).object("k").unwrap();
    assert_eq!((info.size, info.attributes.content_encoding), (3 * MIB as u64, None));
}

#[tokio::test]
async fn wrong_sums_are_bad_digests() {
    let server = open_server().await;
    let put = async |headers: &str| {
        let head = format!("PUT /{BUCKET}/k HTTP/1.1\r\n{headers}");
        let answer = raw(&server, &head, b"hello").await;
        let code = answer.split("<Code>").nth(1).and_then(|rest| rest.split('<').next());
        code.unwrap_or(&answer[9..12]).to_owned()
    };
    assert_eq!(put("Content-MD5: XUFAKrxLKna5cZ2REBfFkg==\r\n").await, "200");
    assert_eq!(put("Content-MD5: AAAAAAAAAAAAAAAAAAAAAA==\r\n").await, "BadDigest");
    assert_eq!(put("Content-MD5: short\r\n").await, "InvalidDigest");
    assert_eq!(put("x-amz-checksum-crc32: NhCmhg==\r\n").await, "200");
    for name in ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"] {
        assert_eq!(
            put(&format!("x-amz-checksum-{name}: AAAAAA==\r\n")).await,
            "BadDigest",
            "{name}"
        );
    }
}

#[tokio::test]
async fn the_checksum_of_parts_is_that_of_the_whole() {
    use aws_sdk_s3::types::ChecksumType;
    let server = server().await;
    let client = client(&server);
    let whole: Vec<u8> = (0..11 * MIB).map(|at| (at % 251) as u8).collect();
    let put = client.put_object().bucket(BUCKET).key("whole").body(ByteStream::from(whole.clone()));
    let put = put.checksum_algorithm(ChecksumAlgorithm::Crc32).send().await.unwrap();
    let start = client.create_multipart_upload().bucket(BUCKET).key("k");
    let start =
        start.checksum_algorithm(ChecksumAlgorithm::Crc32).checksum_type(ChecksumType::FullObject);
    let start = start.send().await.unwrap();
    let id = start.upload_id().unwrap();
    let mut parts = CompletedMultipartUpload::builder();
    for (number, body) in (1..).zip(whole.chunks(6 * MIB)) {
        let part = client.upload_part().bucket(BUCKET).key("k").upload_id(id).part_number(number);
        let part = part.checksum_algorithm(ChecksumAlgorithm::Crc32);
        let part = part.body(ByteStream::from(body.to_vec())).send().await.unwrap();
        let done = CompletedPart::builder().part_number(number).e_tag(part.e_tag().unwrap());
        parts = parts.parts(done.checksum_crc32(part.checksum_crc32().unwrap()).build());
    }
    let complete = || {
        let call = client.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(id);
        call.multipart_upload(parts.clone().build()).checksum_type(ChecksumType::FullObject)
    };
    assert_eq!(code(complete().checksum_crc32("AAAAAA==").send().await), "BadDigest");
    let answer = complete().checksum_crc32(put.checksum_crc32().unwrap()).send().await.unwrap();
    assert_eq!(answer.checksum_crc32(), put.checksum_crc32());
}
