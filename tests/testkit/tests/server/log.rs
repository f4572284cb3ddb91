//! The request log: order, counters, concurrency.

use futures::future::join_all;
use s3pod_testkit::{Op, ServerOptions, TestServer};

use crate::common::{BUCKET, client, code, get, put, server};

#[tokio::test]
async fn records_stand_in_the_order_of_arrival_with_what_they_moved() {
    let server = server().await;
    let client = client(&server);
    put(&client, "a", "12345").await;
    get(&client, "a").await;
    let _ = client.get_object().bucket(BUCKET).key("none").send().await;
    let _ = client.list_objects_v2().bucket(BUCKET).prefix("p/").send().await;
    let rows: Vec<_> = server.log().requests();
    let told: Vec<_> = rows.iter().map(|row| (row.op, row.key.as_str(), row.status)).collect();
    let expected = [
        (Op::Put, "a", Some(200)),
        (Op::Get, "a", Some(200)),
        (Op::Get, "none", Some(404)),
        (Op::List, "p/", Some(200)),
    ];
    assert_eq!(told, expected);
    assert!(rows.iter().map(|row| row.order).eq(0..4));
    assert_eq!((rows[0].bytes_in, rows[1].bytes_out), (5, 5));
    assert!(rows.windows(2).all(|pair| pair[0].started <= pair[1].started));
    assert!(rows[0].header("authorization").is_none() && rows[0].header("x-amz-date").is_some());
    assert_eq!(server.log().requests_of(Op::Get).len(), 2);

    server.log().clear();
    assert_eq!((server.log().total(), server.log().bytes_in()), (0, 0));
    assert!(server.log().requests().is_empty() && server.log().counts().is_empty());
    put(&client, "b", "x").await;
    assert_eq!((server.log().count(Op::Put), server.log().requests()[0].order), (1, 4));
}

#[tokio::test]
async fn peaks_count_what_was_under_way_at_once() {
    let server = server().await;
    let client = client(&server);
    put(&client, "k", "x").await;
    let hold = server.faults().hold(Op::Get, "");
    let gets = join_all((0..5).map(|_| get(&client, "k")));
    let (_, ()) = tokio::join!(gets, async {
        hold.wait_for(5).await;
        assert_eq!((server.log().peak(Op::Get), server.log().under_way()), (5, 5));
        hold.release();
    });
    assert_eq!((server.log().peak(Op::Put), server.log().peak_total()), (1, 5));
    server.log().clear();
    assert_eq!(server.log().peak(Op::Get), server.log().under_way());
}

#[tokio::test]
async fn a_stopped_server_answers_nobody() {
    let server = TestServer::start(ServerOptions::with_bucket(BUCKET)).await.unwrap();
    let client = client(&server);
    put(&client, "k", "x").await;
    server.shutdown().await;
    assert_eq!(code(client.get_object().bucket(BUCKET).key("k").send().await), "no answer");
}
