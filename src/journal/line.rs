//! The lines of a log.
//!
//! Owns what a line says and how it is spelled: a CRC-32 of the log's salt and the text, in
//! hexadecimal, a space, JSON, a line feed. Pure. Must not know files.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an intent is about, and so whose words it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Staged bytes of a file become an object.
    Commit,
    /// A multipart upload that nobody else would finish or abort.
    Upload,
    /// Names that were taken away, whose objects go.
    Delete,
    /// Objects that move to other keys.
    Move,
    /// Attributes that wait for a commit to ride on.
    Attributes,
    /// What a question leaves in the bucket while it is asked.
    Trace,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// Something is to be done.
    Begin {
        /// Counts up within the log.
        id: u64,
        kind: Kind,
        /// Names of files in the slot's folder that it needs.
        files: Vec<String>,
        intent: Value,
    },
    /// Part of it is done.
    Step { id: u64, step: Value },
    /// A line behind its first could not be read, and was left out.
    Unsure { id: u64 },
    /// It is done or given up.
    End { id: u64 },
}

impl Line {
    /// The line as it stands in a log of this `salt`.
    pub(super) fn encode(&self, salt: &str) -> serde_json::Result<Vec<u8>> {
        let json = serde_json::to_string(self)?;
        Ok(format!("{:08x} {json}\n", crc(salt, &json)).into_bytes())
    }

    /// Reads a line, without its line feed; none where it is damaged or another log's.
    pub(super) fn decode(text: &[u8], salt: &str) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (sum, json) = text.split_once(' ')?;
        if u32::from_str_radix(sum, 16).ok()? != crc(salt, json) {
            return None;
        }
        serde_json::from_str(json).ok()
    }
}

fn crc(salt: &str, json: &str) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32IsoHdlc);
    digest.update(salt.as_bytes());
    digest.update(json.as_bytes());
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written_and_damage_is_seen() {
        let line = Line::Step { id: 7, step: Value::from("ä\nb") };
        let text = line.encode("salt").unwrap();
        let (&end, body) = text.split_last().unwrap();
        assert_eq!(end, b'\n');
        assert!(!body.contains(&b'\n'));
        assert_eq!(Line::decode(body, "salt"), Some(line));
        assert_eq!(Line::decode(body, "another"), None);
        for at in 0..body.len() {
            let mut damaged = body.to_vec();
            damaged[at] ^= 1;
            assert_eq!(Line::decode(&damaged, "salt"), None, "byte {at}");
        }
    }
}
