//! S3 without any client of ours: plain, unsigned HTTP to look at a bucket from outside.
//!
//! Owns one request per connection. Promises to share no code with what is tested. Must not know
//! mounts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3pod_testkit::S3Endpoint;

const IN_A_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_');
const IN_A_QUERY: &AsciiSet = NON_ALPHANUMERIC;
/// A server on this machine that says nothing for this long is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// One answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header of the answer.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

/// A bucket, seen from outside.
pub(crate) struct Raw {
    endpoint: S3Endpoint,
}

impl Raw {
    pub(crate) fn new(endpoint: S3Endpoint) -> Self {
        Self { endpoint }
    }

    /// Any request, and its answer.
    pub(crate) fn call(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let authority = self.endpoint.endpoint.strip_prefix("http://").expect("a plain endpoint");
        let mut stream = TcpStream::connect(authority).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // HTTP/1.0, so that the body's end is the connection's.
        let mut request = format!(
            "{method} {target} HTTP/1.0\r\nHost: {authority}\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an HTTP answer");
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: answer.split_off(end + 4) }
    }

    /// What a request for the object asks for.
    pub(crate) fn target(&self, key: &str) -> String {
        format!("/{}/{}", self.endpoint.bucket, utf8_percent_encode(key, IN_A_PATH))
    }

    /// The object's bytes; none where there is no such key.
    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.call("GET", &self.target(key), &[], b"");
        match answer.status {
            200 => Some(answer.body),
            404 => None,
            status => panic!("GET {key} answered {status}"),
        }
    }

    /// What HEAD says of the object.
    pub(crate) fn head(&self, key: &str) -> Option<Answer> {
        let answer = self.call("HEAD", &self.target(key), &[], b"");
        (answer.status == 200).then_some(answer)
    }

    pub(crate) fn put(&self, key: &str, body: &[u8]) {
        self.put_with(key, body, &[]);
    }

    pub(crate) fn put_with(&self, key: &str, body: &[u8], headers: &[(&str, &str)]) {
        let answer = self.call("PUT", &self.target(key), headers, body);
        assert_eq!(answer.status, 200, "PUT {key}: {}", answer.head);
    }

    /// The keys that begin with `prefix`, in order; a case has fewer than a page of them.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let prefix = utf8_percent_encode(prefix, IN_A_QUERY);
        let target = format!("/{}?list-type=2&prefix={prefix}", self.endpoint.bucket);
        let answer = self.call("GET", &target, &[], b"");
        assert_eq!(answer.status, 200, "{}", answer.head);
        let text = String::from_utf8(answer.body).unwrap();
        assert!(text.contains("<IsTruncated>false</IsTruncated>"), "{text}");
        let keys = text.split("<Key>").skip(1);
        keys.map(|rest| rest.split("</Key>").next().unwrap().to_owned()).collect()
    }
}
