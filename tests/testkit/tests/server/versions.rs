//! Versioning: what a write replaces, what a delete leaves, what a read finds.

use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};

use crate::common::{BUCKET, client, code, get, put, server};

#[tokio::test]
async fn old_versions_stay_readable_until_they_are_deleted_by_name() {
    let server = server().await;
    let client = client(&server);
    put(&client, "k", "before").await;
    let enabled =
        VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let call = client.put_bucket_versioning().bucket(BUCKET).versioning_configuration(enabled);
    call.send().await.unwrap();
    let write = async |body: &'static str| {
        let put = client.put_object().bucket(BUCKET).key("k").body(body.as_bytes().to_vec().into());
        put.send().await.unwrap().version_id().unwrap().to_owned()
    };
    let (first, second) = (write("first").await, write("second").await);
    let read = async |version: &str| {
        let call = client.get_object().bucket(BUCKET).key("k").version_id(version);
        match call.send().await {
            Ok(get) => {
                assert_eq!(get.version_id(), Some(version));
                String::from_utf8(get.body.collect().await.unwrap().to_vec()).unwrap()
            }
            Err(error) => code::<(), _>(Err(error)),
        }
    };
    assert_eq!(read(&first).await, "first");
    assert_eq!(read("null").await, "before");
    assert_eq!(get(&client, "k").await, "second");
    let head = client.head_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(head.version_id(), Some(second.as_str()));

    let gone = client.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(gone.delete_marker(), Some(true));
    let marker = gone.version_id().unwrap();
    assert_eq!(code(client.get_object().bucket(BUCKET).key("k").send().await), "NoSuchKey");
    assert_eq!(read(marker).await, "MethodNotAllowed");
    assert_eq!(read("unknown").await, "NoSuchVersion");
    assert_eq!(read(&second).await, "second");
    assert!(server.bucket(BUCKET).keys().is_empty());

    let delete =
        |version: &str| client.delete_object().bucket(BUCKET).key("k").version_id(version).send();
    delete(marker).await.unwrap();
    assert_eq!(get(&client, "k").await, "second");
    delete(&second).await.unwrap();
    assert_eq!(get(&client, "k").await, "first");
    assert_eq!(server.bucket(BUCKET).versions("k"), [("null".to_owned(), false), (first, false)]);
}

#[tokio::test]
async fn a_delete_marker_is_no_object_to_conditions() {
    let server = server().await;
    let client = client(&server);
    server.bucket(BUCKET).enable_versioning();
    put(&client, "k", "x").await;
    client.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    let create = client.put_object().bucket(BUCKET).key("k").if_none_match("*");
    assert_eq!(code(create.body(b"y".to_vec().into()).send().await), "OK");
}

#[tokio::test]
async fn suspended_writes_replace_only_the_null_version() {
    let server = server().await;
    let client = client(&server);
    let bucket = server.bucket(BUCKET);
    bucket.enable_versioning();
    put(&client, "k", "kept").await;
    let suspended = VersioningConfiguration::builder().status(BucketVersioningStatus::Suspended);
    let call = client.put_bucket_versioning().bucket(BUCKET);
    call.versioning_configuration(suspended.build()).send().await.unwrap();
    put(&client, "k", "null 1").await;
    put(&client, "k", "null 2").await;
    let ids: Vec<_> = bucket.versions("k").into_iter().map(|(id, _)| id).collect();
    assert_eq!((ids.len(), ids[1].as_str()), (2, "null"));
    let status = client.get_bucket_versioning().bucket(BUCKET).send().await.unwrap();
    assert_eq!(status.status(), Some(&BucketVersioningStatus::Suspended));
}

#[tokio::test]
async fn versions_are_listed_newest_first_in_pages() {
    let server = server().await;
    let client = client(&server);
    let bucket = server.bucket(BUCKET);
    bucket.enable_versioning();
    for key in ["a", "a", "b"] {
        bucket.put(key, "x");
    }
    bucket.delete("b");
    let (mut rows, mut key_marker, mut version_marker) = (Vec::new(), None, None);
    loop {
        let list = client.list_object_versions().bucket(BUCKET).max_keys(1);
        let list = list.set_key_marker(key_marker).set_version_id_marker(version_marker);
        let page = list.send().await.unwrap();
        let versions =
            page.versions().iter().map(|row| (row.key(), row.version_id(), row.is_latest()));
        let markers = page.delete_markers().iter();
        let markers = markers.map(|row| (row.key(), row.version_id(), row.is_latest()));
        for (key, id, latest) in versions.chain(markers) {
            rows.push((key.unwrap().to_owned(), id.unwrap().to_owned(), latest == Some(true)));
        }
        key_marker = page.next_key_marker().map(str::to_owned);
        version_marker = page.next_version_id_marker().map(str::to_owned);
        if page.is_truncated() != Some(true) {
            break;
        }
    }
    let mut expected = Vec::new();
    for key in ["a", "b"] {
        let newest_first = bucket.versions(key).into_iter().rev().enumerate();
        expected.extend(newest_first.map(|(age, (id, _))| (key.to_owned(), id, age == 0)));
    }
    assert_eq!(rows, expected);
}
