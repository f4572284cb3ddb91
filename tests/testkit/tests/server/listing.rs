//! Listings: order, prefixes, pages, names.

use s3pod_testkit::{Op, TestServer};

use crate::common::{BUCKET, client, code, open_server, raw, server};

fn fill(server: &TestServer, keys: &[&str]) {
    for key in keys {
        server.bucket(BUCKET).put(key, "x");
    }
}

/// All entries in the order in which the pages told them, and the number of pages.
async fn walk(
    server: &TestServer,
    prefix: &str,
    delimiter: &str,
    max_keys: i32,
) -> (Vec<String>, usize) {
    let client = client(server);
    let (mut entries, mut pages, mut token) = (Vec::new(), 0, None);
    loop {
        let list = client.list_objects_v2().bucket(BUCKET).prefix(prefix).max_keys(max_keys);
        let list = list.delimiter(delimiter).set_continuation_token(token);
        let page = list.send().await.unwrap();
        let keys = page.contents().iter().filter_map(|row| row.key());
        let prefixes = page.common_prefixes().iter().filter_map(|row| row.prefix());
        let mut rows: Vec<_> = keys.chain(prefixes).map(str::to_owned).collect();
        rows.sort();
        assert_eq!(page.key_count(), i32::try_from(rows.len()).ok());
        assert!(rows.len() <= usize::try_from(max_keys).unwrap());
        entries.append(&mut rows);
        pages += 1;
        assert_eq!(page.is_truncated(), Some(page.next_continuation_token().is_some()));
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            return (entries, pages);
        }
    }
}

#[tokio::test]
async fn pages_of_every_size_tell_each_entry_once_and_in_order() {
    let server = server().await;
    fill(
        &server,
        &["a", "a-", "a.b", "a/", "a/1", "a/2/x", "a0", "b/1", "b/2", "c", "d//e", "ä/1"],
    );
    let top = ["a", "a-", "a.b", "a/", "a0", "b/", "c", "d/", "ä/"];
    let flat = server.bucket(BUCKET).keys();
    for size in 1..=13 {
        let (entries, pages) = walk(&server, "", "/", size).await;
        assert_eq!(entries, top, "pages of {size}");
        assert_eq!(pages, top.len().div_ceil(usize::try_from(size).unwrap()));
        assert_eq!(walk(&server, "", "", size).await.0, flat, "pages of {size}");
        assert_eq!(walk(&server, "a/", "/", size).await.0, ["a/", "a/1", "a/2/"]);
        assert_eq!(walk(&server, "d/", "/", size).await.0, ["d//"]);
        assert_eq!(walk(&server, "none", "/", size).await.0, [""; 0]);
    }
    assert_eq!(walk(&server, "a", ".", 10).await.0.iter().filter(|row| *row == "a.").count(), 1);
}

#[tokio::test]
async fn a_page_holds_at_most_a_thousand_and_skips_deep_prefixes_at_once() {
    let server = server().await;
    let bucket = server.bucket(BUCKET);
    for number in 0..2500 {
        bucket.put(&format!("d{}/f{number:04}", number % 3), "x");
    }
    let (entries, pages) = walk(&server, "", "", 1_000_000).await;
    assert_eq!((entries.len(), pages), (2500, 3));
    assert_eq!(
        walk(&server, "", "/", 1000).await,
        (vec!["d0/".into(), "d1/".into(), "d2/".into()], 1)
    );
    assert_eq!(server.log().count(Op::List), 4);
}

#[tokio::test]
async fn start_after_is_exclusive() {
    let server = server().await;
    let client = client(&server);
    fill(&server, &["a", "b", "c"]);
    let list = client.list_objects_v2().bucket(BUCKET).start_after("a").send().await.unwrap();
    let keys: Vec<_> = list.contents().iter().filter_map(|row| row.key()).collect();
    assert_eq!((keys, list.start_after()), (vec!["b", "c"], Some("a")));
    let none = client.list_objects_v2().bucket(BUCKET).max_keys(0).send().await.unwrap();
    assert_eq!((none.key_count(), none.is_truncated()), (Some(0), Some(false)));
    let wrong = client.list_objects_v2().bucket(BUCKET).continuation_token("?").send().await;
    assert_eq!(code(wrong), "InvalidArgument");
}

#[tokio::test]
async fn odd_names_are_url_encoded_on_request() {
    let server = open_server().await;
    fill(&server, &["a b", "a+b", "d/x\u{1}", "ä", "<&>"]);
    let list = async |query: &str| {
        let head = format!("GET /{BUCKET}?list-type=2{query} HTTP/1.1\r\n");
        raw(&server, &head, b"").await
    };
    let encoded = list("&encoding-type=url").await;
    for name in ["a+b", "a%2Bb", "d/x%01", "%C3%A4", "%3C%26%3E"] {
        assert!(encoded.contains(&format!("<Key>{name}</Key>")), "{name} in {encoded}");
    }
    assert!(encoded.contains("<EncodingType>url</EncodingType>"));
    let prefixed = list("&encoding-type=url&delimiter=%2F&prefix=d%2F&start-after=a%20b").await;
    assert!(
        prefixed.contains("<Prefix>d/</Prefix>")
            && prefixed.contains("<StartAfter>a+b</StartAfter>")
    );
    let plain = list("").await;
    for name in ["a b", "a+b", "ä", "&lt;&amp;&gt;"] {
        assert!(plain.contains(&format!("<Key>{name}</Key>")), "{name} in {plain}");
    }
    assert!(list("&encoding-type=base64").await.contains("<Code>InvalidArgument</Code>"));
}

#[tokio::test]
async fn version_1_listings_go_on_from_a_common_prefix() {
    let server = server().await;
    let client = client(&server);
    fill(&server, &["asdf", "boo/bar", "boo/baz/xyzzy", "cquux/thud", "cquux/bla"]);
    let page = async |marker: &str| {
        let list = client.list_objects().bucket(BUCKET).delimiter("/").max_keys(1).marker(marker);
        let page = list.send().await.unwrap();
        let keys = page.contents().iter().filter_map(|row| row.key());
        let prefixes = page.common_prefixes().iter().filter_map(|row| row.prefix());
        let entries: Vec<_> = keys.chain(prefixes).map(str::to_owned).collect();
        (entries.concat(), page.next_marker().map(str::to_owned))
    };
    assert_eq!(page("").await, ("asdf".to_owned(), Some("asdf".to_owned())));
    assert_eq!(page("asdf").await, ("boo/".to_owned(), Some("boo/".to_owned())));
    assert_eq!(page("boo/").await, ("cquux/".to_owned(), None));
}

#[tokio::test]
async fn entries_carry_what_a_listing_tells() {
    let server = server().await;
    let client = client(&server);
    let etag = server.bucket(BUCKET).put("k", "hello");
    let list = client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    let row = &list.contents()[0];
    assert_eq!((row.size(), row.e_tag()), (Some(5), Some(format!("\"{etag}\"").as_str())));
    assert_eq!(row.storage_class().map(|class| class.as_str()), Some("STANDARD"));
    assert!(row.last_modified().unwrap().secs() > 0 && row.owner().is_none());
}
