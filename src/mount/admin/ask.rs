//! The other end of a mount's unix socket, for programs of a few hundred KiB.
//!
//! Owns one question and its answer, with plain blocking calls: no runtime. Promises: it ends
//! within the time it was given, and never looks at the mount itself. Must not know why it asks.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::listen;
use crate::mount::mountinfo::Device;

/// The longest answer that is read: a page of numbers, each verb with its own.
const ANSWER_MAX: u64 = 1 << 20;

/// What a mount said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The sentence or page that came with it.
    pub text: String,
}

/// Where a mount's server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// By the device of the mount.
    Mount(Device),
    /// By a path ([`path_beside`](super::path_beside)).
    Socket(PathBuf),
}

/// Sends one request to the server of a mount.
///
/// # Errors
/// `ConnectionRefused` where nobody serves that mount (any more); `TimedOut` or `WouldBlock`
/// where its server does not answer within `patience`.
pub fn ask(place: &Place, method: &str, path: &str, patience: Duration) -> io::Result<Answer> {
    // Connecting to a full backlog would block, but the backlog (1 024 and more) is larger than
    // what any prober leaves behind.
    let mut stream = match place {
        Place::Mount(device) => UnixStream::connect_addr(&listen::address(*device)?)?,
        Place::Socket(path) => UnixStream::connect(path)?,
    };
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: s3pod\r\nConnection: close\r\n\r\n")?;
    let mut said = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut said)?;
    parse(&String::from_utf8_lossy(&said))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no HTTP answer"))
}

fn parse(said: &str) -> Option<Answer> {
    let status = said.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let (_, text) = said.split_once("\r\n\r\n")?;
    Some(Answer { status, text: text.trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_sentence() {
        let said = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 9\r\n\r\nstarting\n";
        let answer = Answer { status: 503, text: "starting".to_owned() };
        assert_eq!(parse(said), Some(answer));
        for nonsense in ["", "HTTP/1.1 ", "HTTP/1.1 2x0 \r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert_eq!(parse(nonsense), None, "{nonsense:?}");
        }
    }
}
