//! What goes in comes out, with everything beside it.

use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass, Tag, Tagging};
use s3pod_testkit::{Attributes, Op, ServerOptions, TestServer, synthetic_bytes};

use crate::common::{BUCKET, MIB, client, client_at, code, get, put, server};

#[tokio::test]
async fn a_put_object_comes_back_whole() {
    let server = server().await;
    let client = client(&server);
    assert_eq!(put(&client, "d/a b+ä", "hello").await, "\"5d41402abc4b2a76b9719d911017c592\"");
    let head = client.head_object().bucket(BUCKET).key("d/a b+ä").send().await.unwrap();
    assert_eq!(head.content_length(), Some(5));
    assert_eq!(head.content_type(), Some("application/octet-stream"));
    assert!(head.storage_class().is_none() && head.version_id().is_none());
    assert_eq!(get(&client, "d/a b+ä").await, "hello");
    assert_eq!(server.bucket(BUCKET).get("d/a b+ä").unwrap(), "hello");
    assert_eq!(server.log().counts(), [(Op::Head, 1), (Op::Get, 1), (Op::Put, 1)]);
    assert_eq!((server.log().bytes_in(), server.log().bytes_out()), (5, 5));
    server.shutdown().await;
}

#[tokio::test]
async fn every_property_survives() {
    let server = server().await;
    let client = client(&server);
    let at = DateTime::from_secs(1_900_000_000);
    let put = client
        .put_object()
        .bucket(BUCKET)
        .key("k")
        .body(ByteStream::from_static(b"x"))
        .cache_control("no-store")
        .content_disposition("attachment")
        .content_encoding("gzip")
        .content_language("de")
        .content_type("text/plain")
        .expires(at)
        .metadata("mode", "0100644")
        .metadata("odd", "ä b")
        .storage_class(StorageClass::StandardIa)
        .server_side_encryption(ServerSideEncryption::AwsKms)
        .ssekms_key_id("key-1")
        .tagging("a=1&b=2");
    put.send().await.unwrap();
    let head = client.head_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(head.cache_control(), Some("no-store"));
    assert_eq!(head.content_disposition(), Some("attachment"));
    assert_eq!(head.content_encoding(), Some("gzip"));
    assert_eq!(head.content_language(), Some("de"));
    assert_eq!(head.content_type(), Some("text/plain"));
    assert_eq!(head.expires_string(), Some("Sun, 17 Mar 2030 17:46:40 GMT"));
    assert_eq!(head.metadata().unwrap()["mode"], "0100644");
    assert_eq!(head.storage_class(), Some(&StorageClass::StandardIa));
    assert_eq!(head.server_side_encryption(), Some(&ServerSideEncryption::AwsKms));
    assert_eq!(head.ssekms_key_id(), Some("key-1"));
    let get = client.get_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(get.tag_count(), Some(2));
    let info = server.bucket(BUCKET).object("k").unwrap();
    assert_eq!(info.attributes.tags["b"], "2");
    assert_eq!(info.attributes.expires.as_deref(), Some("Sun, 17 Mar 2030 17:46:40 GMT"));
    server.bucket(BUCKET).put_with("copy", "x", info.attributes.clone());
    assert_eq!(server.bucket(BUCKET).object("copy").unwrap().attributes, info.attributes);
}

#[tokio::test]
async fn tags_change_without_a_new_version() {
    let server = server().await;
    let client = client(&server);
    let etag = put(&client, "k", "x").await;
    let tag = |key: &str| Tag::builder().key(key).value("v").build().unwrap();
    let tags = Tagging::builder().tag_set(tag("a")).tag_set(tag("b")).build().unwrap();
    client.put_object_tagging().bucket(BUCKET).key("k").tagging(tags).send().await.unwrap();
    let read = async || {
        let answer = client.get_object_tagging().bucket(BUCKET).key("k").send().await.unwrap();
        answer.tag_set().iter().map(|tag| tag.key().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(read().await, ["a", "b"]);
    client.delete_object_tagging().bucket(BUCKET).key("k").send().await.unwrap();
    assert!(read().await.is_empty());
    let info = server.bucket(BUCKET).object("k").unwrap();
    assert_eq!(format!("\"{}\"", info.etag), etag);
    assert_eq!(
        code(client.get_object_tagging().bucket(BUCKET).key("none").send().await),
        "NoSuchKey"
    );
}

#[tokio::test]
async fn ranges_are_cut_at_the_end_and_refused_past_it() {
    let server = server().await;
    let client = client(&server);
    put(&client, "k", "0123456789").await;
    put(&client, "empty", "").await;
    let read = async |key: &str, range: &str| match client
        .get_object()
        .bucket(BUCKET)
        .key(key)
        .range(range)
        .send()
        .await
    {
        Err(error) => code::<(), _>(Err(error)),
        Ok(get) => {
            let span = get.content_range().unwrap().to_owned();
            let bytes = get.body.collect().await.unwrap().into_bytes();
            format!("{} = {}", span, String::from_utf8_lossy(&bytes))
        }
    };
    assert_eq!(read("k", "bytes=2-4").await, "bytes 2-4/10 = 234");
    assert_eq!(read("k", "bytes=8-99").await, "bytes 8-9/10 = 89");
    assert_eq!(read("k", "bytes=7-").await, "bytes 7-9/10 = 789");
    assert_eq!(read("k", "bytes=-3").await, "bytes 7-9/10 = 789");
    assert_eq!(read("k", "bytes=-99").await, "bytes 0-9/10 = 0123456789");
    assert_eq!(read("k", "bytes=10-").await, "InvalidRange");
    assert_eq!(read("empty", "bytes=0-").await, "InvalidRange");
    let ranges: Vec<_> = server.log().requests().into_iter().filter_map(|row| row.range).collect();
    assert_eq!(ranges[0], "bytes=2-4");
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
    let start = 1_000_000_000_001;
    let bytes = read(&format!("bytes={start}-{}", start + 999_999)).await;
    assert_eq!(bytes, synthetic_bytes(9, start..start + 1_000_000));
    assert_eq!(read("bytes=-10").await, synthetic_bytes(9, size - 10..size));
    assert_eq!(server.bucket(BUCKET).get_range("huge", 5..9).unwrap(), synthetic_bytes(9, 5..9));
}

#[tokio::test]
async fn large_bodies_spill_and_come_back() {
    for spill in [Some(std::env::temp_dir()), None] {
        let options = ServerOptions { spill, ..ServerOptions::with_bucket(BUCKET) };
        let server = TestServer::start(options).await.unwrap();
        let client = client(&server);
        let body = synthetic_bytes(1, 0..7 * MIB as u64 + 3);
        put(&client, "k", body.clone()).await;
        assert_eq!(get(&client, "k").await, body);
        assert_eq!(server.log().bytes_in(), body.len() as u64);
    }
}

#[tokio::test]
async fn quick_etags_differ_by_content_and_are_not_md5() {
    let options = ServerOptions { quick_etags: true, ..ServerOptions::with_bucket(BUCKET) };
    let server = TestServer::start(options).await.unwrap();
    let client = client(&server);
    let (first, second) = (put(&client, "k", "hello").await, put(&client, "k", "hallo").await);
    assert!(first != second && first == put(&client, "k", "hello").await);
    assert!(first.len() == 34 && first != "\"5d41402abc4b2a76b9719d911017c592\"");
}

#[tokio::test]
async fn limits_are_those_of_s3() {
    let server = server().await;
    let client = client(&server);
    let with_metadata = |size: usize| {
        let put = client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"x"));
        put.metadata("key", "v".repeat(size - 3)).send()
    };
    assert_eq!(code(with_metadata(2048).await), "OK");
    assert_eq!(code(with_metadata(2049).await), "MetadataTooLarge");
    let with_key = |size: usize| {
        let put = client.put_object().bucket(BUCKET).key("k".repeat(size));
        put.body(ByteStream::from_static(b"x")).send()
    };
    assert_eq!(code(with_key(1024).await), "OK");
    assert_eq!(code(with_key(1025).await), "KeyTooLongError");
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let server = server().await;
    let client = client(&server);
    assert_eq!(code(client.get_object().bucket(BUCKET).key("none").send().await), "NoSuchKey");
    assert_eq!(code(client.head_object().bucket(BUCKET).key("none").send().await), "404");
    assert_eq!(code(client.delete_object().bucket(BUCKET).key("none").send().await), "OK");
    assert_eq!(code(client.get_object().bucket("no-bucket").key("k").send().await), "NoSuchBucket");
    assert_eq!(code(client.list_objects_v2().bucket("no-bucket").send().await), "NoSuchBucket");
    assert_eq!(code(client.head_bucket().bucket("no-bucket").send().await), "404");
}

#[tokio::test]
async fn buckets_are_made_listed_and_described() {
    let options = ServerOptions { region: "eu-west-1".to_owned(), ..ServerOptions::default() };
    let server = TestServer::start(options).await.unwrap();
    let client = client(&server);
    client.create_bucket().bucket("second").send().await.unwrap();
    let list = client.list_buckets().send().await.unwrap();
    let names: Vec<_> = list.buckets().iter().filter_map(|bucket| bucket.name()).collect();
    assert_eq!(names, [BUCKET, "second"]);
    let head = client.head_bucket().bucket("second").send().await.unwrap();
    assert_eq!(head.bucket_region(), Some("eu-west-1"));
    let location = client.get_bucket_location().bucket("second").send().await.unwrap();
    assert_eq!(location.location_constraint().map(|at| at.as_str()), Some("eu-west-1"));
    client.delete_bucket().bucket("second").send().await.unwrap();
    assert_eq!(code(client.head_bucket().bucket("second").send().await), "404");
}

#[tokio::test]
async fn keys_that_do_not_fit_are_refused() {
    let server = server().await;
    let mut wrong_secret = server.s3_endpoint(BUCKET);
    wrong_secret.secret_key = "wrong".to_owned();
    let answer = client_at(&wrong_secret).list_objects_v2().bucket(BUCKET).send().await;
    assert_eq!(code(answer), "SignatureDoesNotMatch");
    let mut wrong_key = server.s3_endpoint(BUCKET);
    wrong_key.access_key = "wrong".to_owned();
    let answer = client_at(&wrong_key).list_objects_v2().bucket(BUCKET).send().await;
    assert_eq!(code(answer), "InvalidAccessKeyId");
}

#[tokio::test]
async fn a_wrong_region_is_corrected_where_that_is_asked() {
    let options = ServerOptions {
        region: "eu-west-1".to_owned(),
        enforce_region: true,
        ..ServerOptions::with_bucket(BUCKET)
    };
    let server = TestServer::start(options).await.unwrap();
    let mut at = server.s3_endpoint(BUCKET);
    assert_eq!(code(client_at(&at).head_bucket().bucket(BUCKET).send().await), "OK");
    at.region = "us-east-1".to_owned();
    let error = client_at(&at).list_objects_v2().bucket(BUCKET).send().await.unwrap_err();
    let header = error.raw_response().unwrap().headers().get("x-amz-bucket-region");
    assert_eq!(header, Some("eu-west-1"));
    assert_eq!(code::<(), _>(Err(error)), "AuthorizationHeaderMalformed");
}

#[tokio::test]
async fn many_keys_are_deleted_in_one_request() {
    use aws_sdk_s3::types::{Delete, ObjectIdentifier};
    let server = server().await;
    let client = client(&server);
    let bucket = server.bucket(BUCKET);
    for key in ["a", "b", "c"] {
        bucket.put(key, "x");
    }
    let named = |key: &str| ObjectIdentifier::builder().key(key);
    let delete = Delete::builder()
        .objects(named("a").build().unwrap())
        .objects(named("b").e_tag("\"00000000000000000000000000000000\"").build().unwrap())
        .objects(named("none").build().unwrap());
    let delete = client.delete_objects().bucket(BUCKET).delete(delete.build().unwrap());
    let answer = delete.send().await.unwrap();
    let deleted: Vec<_> = answer.deleted().iter().filter_map(|row| row.key()).collect();
    assert_eq!(deleted, ["a", "none"]);
    let errors: Vec<_> = answer.errors().iter().map(|row| (row.key(), row.code())).collect();
    assert_eq!(errors, [(Some("b"), Some("PreconditionFailed"))]);
    assert_eq!(bucket.keys(), ["b", "c"]);
    assert_eq!(server.log().count(Op::DeleteMany), 1);
}

#[test]
fn a_spawned_server_serves_blocking_tests_and_stops() {
    let server = TestServer::spawn(ServerOptions {
        latency: Duration::from_millis(1),
        ..ServerOptions::default()
    });
    server.bucket(BUCKET).put_with("k", "x", Attributes::with_metadata([("mode", "0100600")]));
    let address = server.address();
    let client = client(&server);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(get(&client, "k")), "x");
    assert_eq!(server.bucket(BUCKET).object("k").unwrap().metadata("mode"), Some("0100600"));
    drop(server);
    assert!(std::net::TcpStream::connect(address).is_err());
}
