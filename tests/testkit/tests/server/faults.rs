//! Faults do what they say, to whom they say, as often as they say.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use s3pod_testkit::{Fault, Op, ServerOptions, TestServer, synthetic_bytes};

use crate::common::{BUCKET, MIB, client, code, get, open_server, put, raw, server};

#[tokio::test]
async fn refusals_come_without_the_work_and_as_often_as_asked() {
    let server = server().await;
    let client = client(&server);
    let put = |key: &str| {
        client.put_object().bucket(BUCKET).key(key).body(ByteStream::from(vec![1; MIB])).send()
    };
    let slow = server.faults().add(Fault::SlowDown.on(Op::Put).key("x").times(2));
    server.faults().add(Fault::status(403, "AccessDenied").on(Op::Put).key("secret").always());
    assert_eq!(code(put("other").await), "OK");
    let codes = [code(put("x").await), code(put("x").await), code(put("x").await)];
    assert_eq!(codes, ["SlowDown", "SlowDown", "OK"]);
    assert_eq!(slow.hits(), 2);
    assert_eq!(code(put("secret").await), "AccessDenied");
    server.faults().clear();
    assert_eq!(code(put("secret").await), "OK");
    server.faults().add(Fault::InternalError.on(Op::Get));
    assert_eq!(code(client.get_object().bucket(BUCKET).key("x").send().await), "InternalError");
    let refused = &server.log().requests()[1];
    assert_eq!((refused.status, refused.fault.as_deref()), (Some(503), Some("SlowDown")));
    assert_eq!(refused.bytes_in, MIB as u64);
}

#[tokio::test]
async fn an_error_can_hide_in_a_200() {
    let server = server().await;
    let client = client(&server);
    put(&client, "k", "x").await;
    server.faults().add(Fault::ErrorIn200.on(Op::Copy));
    let copy = client.copy_object().bucket(BUCKET).key("copy").copy_source("bucket/k");
    assert_eq!(code(copy.send().await), "InternalError");
    assert!(!server.bucket(BUCKET).contains("copy"));
    assert_eq!(server.log().requests()[1].status, Some(200));
}

#[tokio::test]
async fn a_lost_response_leaves_the_work_done() {
    let server = server().await;
    let client = client(&server);
    server.faults().add(Fault::LoseResponse.on(Op::Put));
    let put = client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"x"));
    assert_eq!(code(put.send().await), "no answer");
    assert_eq!(server.bucket(BUCKET).get("k").unwrap(), "x");
    assert_eq!(server.log().count(Op::Put), 1);
}

#[tokio::test]
async fn bodies_break_where_they_are_told_to() {
    let server = open_server().await;
    let size = 3 * MIB;
    server.bucket(BUCKET).put_synthetic("k", size as u64, 1);
    let after = MIB + 17;
    let cut = after as u64;
    let get = format!("GET /{BUCKET}/k HTTP/1.1\r\n");
    for fault in [Fault::Truncate { after: cut }, Fault::ResetResponse { after: cut }] {
        let name = format!("{fault:?}");
        server.faults().add(fault.on(Op::Get));
        let answer = raw_bytes(&server, &get).await;
        assert!(answer.head.contains(&format!("content-length: {size}")), "{name}");
        assert_eq!(answer.body, synthetic_bytes(1, 0..cut), "{name}");
        assert_eq!(answer.reset, name.starts_with("Reset"), "{name}");
    }
    server.faults().add(Fault::FlipByte { at: cut }.on(Op::Get));
    let mut expected = synthetic_bytes(1, 0..size as u64);
    expected[after] ^= 0xFF;
    assert_eq!(raw_bytes(&server, &get).await.body, expected);
    assert_eq!(raw_bytes(&server, &get).await.body, synthetic_bytes(1, 0..size as u64));
}

struct Answer {
    head: String,
    body: Vec<u8>,
    reset: bool,
}

/// The answer as bytes, and whether a reset ended it.
async fn raw_bytes(server: &TestServer, head: &str) -> Answer {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let head = format!("{head}Host: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reset = match stream.read_to_end(&mut answer).await {
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let body = answer.split_off(end);
    Answer { head: String::from_utf8(answer).unwrap().to_lowercase(), body, reset }
}

#[tokio::test]
async fn a_request_reset_in_mid_body_leaves_nothing() {
    let server = open_server().await;
    server.faults().add(Fault::ResetRequest { after: MIB as u64 }.on(Op::Put));
    let head = format!("PUT /{BUCKET}/k HTTP/1.1\r\n");
    assert_eq!(raw(&server, &head, &vec![1; 8 * MIB]).await, "");
    assert!(server.bucket(BUCKET).keys().is_empty());
    let request = &server.log().requests()[0];
    assert!((MIB as u64..8 * MIB as u64).contains(&request.bytes_in), "{}", request.bytes_in);
    assert_eq!(request.status, None);
}

#[tokio::test]
async fn drips_and_delays_arrive_in_the_end() {
    let server = server().await;
    let client = client(&server);
    put(&client, "k", "0123456789").await;
    server.faults().add(Fault::Drip { bytes_per_second: 100 }.on(Op::Get));
    assert_eq!(get(&client, "k").await, "0123456789");
    server.faults().add(Fault::Delay(Duration::from_millis(1)).on(Op::Get));
    assert_eq!(get(&client, "k").await, "0123456789");
}

#[tokio::test]
async fn a_stalled_body_never_ends_by_itself() {
    let server = server().await;
    let client = client(&server);
    put(&client, "k", "0123456789").await;
    server.faults().add(Fault::Stall { after: 4 }.on(Op::Get));
    let mut answer = client.get_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(answer.body.next().await.unwrap().unwrap(), "0123");
    assert!(tokio::time::timeout(Duration::from_millis(100), answer.body.next()).await.is_err());
}

#[tokio::test]
async fn held_requests_wait_before_the_work_and_held_answers_after_it() {
    let server = server().await;
    let client = client(&server);
    let bucket = server.bucket(BUCKET);
    let put = |key: &'static str| {
        let put = client.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(b"x"));
        tokio::spawn(put.send())
    };
    let hold = server.faults().hold(Op::Put, "held");
    let tasks = [put("held-1"), put("held-2")];
    hold.wait_for(2).await;
    assert!(put("free").await.unwrap().is_ok());
    assert_eq!(bucket.keys(), ["free"]);
    assert_eq!(server.log().peak(Op::Put), 3);
    hold.release();
    for task in tasks {
        task.await.unwrap().unwrap();
    }

    let hold = server.faults().hold_answer(Op::Put, "late");
    let task = put("late");
    hold.wait_for(1).await;
    assert!(bucket.contains("late") && !task.is_finished());
    drop(hold);
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn bandwidth_and_latency_slow_but_do_not_break() {
    let options = ServerOptions {
        latency: Duration::from_millis(5),
        bandwidth_per_connection: Some(64 * MIB as u64),
        ..ServerOptions::with_bucket(BUCKET)
    };
    let server = TestServer::start(options).await.unwrap();
    let client = client(&server);
    let body = synthetic_bytes(2, 0..4 * MIB as u64);
    put(&client, "k", body.clone()).await;
    assert_eq!(get(&client, "k").await, body);
    let requests = server.log().requests();
    // Never less than the pace allows; how much more is the machine's business.
    let took = requests[1].finished.unwrap() - requests[1].started;
    assert!(took >= Duration::from_millis(50), "{took:?}");
}
