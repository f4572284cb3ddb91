//! How full a volume is.
//!
//! Owns NodeGetVolumeStats: which volumes are known, and what their servers are asked.
//! Promises: it asks the server and never the mount, which could hang. Must not know where a
//! server has its numbers from.

use std::io;
use std::path::Path;

use serde::Deserialize;

use super::asked;
use super::volumes::Volumes;
use crate::csi::proto::{VolumeUsage, volume_usage};
use crate::csi::servers::Serving;
use crate::volume::refusal::{Code, Refusal};

/// The usage of a volume that is published at `path`.
pub(super) async fn usage(
    volumes: &Volumes,
    volume: &str,
    path: &str,
) -> Result<Vec<VolumeUsage>, Refusal> {
    asked::volume_id(volume)?;
    if path.is_empty() {
        return Err(Refusal::field("volume_path", "is missing"));
    }
    let unknown = || {
        let why = format!("volume_path: the volume {volume} is not published at {path}");
        Refusal::new(Code::NotFound, why)
    };
    let target = match volumes.places.target("volume_path", path) {
        Ok(target) => target,
        Err(_) => Path::new(path).to_owned(),
    };
    let key = {
        let state = volumes.state();
        let key = state.key_of(&target).ok_or_else(unknown)?;
        if !state.mounts()[key].is_of(volume) {
            return Err(unknown());
        }
        key.to_owned()
    };
    let silent = |why: &str| {
        Refusal::new(Code::Unavailable, format!("the volume {volume}: its server {why}"))
    };
    let serving = volumes.serving(&key).ok_or_else(|| silent("has gone"))?;
    let room = tokio::task::spawn_blocking(move || room(&serving)).await;
    let room = room.map_err(|error| silent(&error.to_string()))?;
    let room = room.map_err(|error| silent(&format!("does not answer: {error}")))?;
    Ok(vec![room.usage()])
}

/// What a server says of its file system.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Room {
    total_bytes: u64,
    free_bytes: u64,
}

fn room(serving: &Serving) -> io::Result<Room> {
    Ok(serde_json::from_str(&serving.ask("/statfs")?)?)
}

impl Room {
    fn usage(self) -> VolumeUsage {
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        VolumeUsage {
            available: number(self.free_bytes),
            total: number(self.total_bytes),
            used: number(self.total_bytes.saturating_sub(self.free_bytes)),
            unit: volume_usage::Unit::Bytes.into(),
        }
    }
}
