//! Asking the kernel to forget names.
//!
//! Owns the task that does so, for as long as the mount is served. The kernel takes the lock of
//! the directory for each name, which a request may hold that waits for us: so it is never asked
//! from a thread that requests need. Must not know why a name should go.

use std::ffi::OsString;

use fuser::{INodeNo, Notifier};

use crate::tasks::Tasks;
use crate::vfs::{Ino, Vfs};

/// Drops the names that are too many, as long as it lives.
#[derive(Debug)]
pub struct Dropper {
    _tasks: Tasks,
}

impl Dropper {
    /// Begins to ask through `notifier` for what `vfs` has too much of; on the runtime of the
    /// caller.
    pub fn start(vfs: &Vfs, notifier: Notifier) -> Self {
        let tasks = Tasks::new();
        let vfs = vfs.clone();
        tasks.spawn(async move {
            loop {
                let excess = vfs.excess().await;
                let notifier = notifier.clone();
                let asked = tokio::task::spawn_blocking(move || ask(&notifier, &excess));
                if asked.await.is_err() {
                    return;
                }
            }
        });
        Self { _tasks: tasks }
    }
}

fn ask(notifier: &Notifier, excess: &[(Ino, OsString)]) {
    let mut refused = 0;
    for (parent, name) in excess {
        // ENOENT: the kernel has forgotten the name by itself, and its FORGET is on the way.
        if notifier.inval_entry(INodeNo(parent.0), name).is_err() {
            refused += 1;
        }
    }
    tracing::debug!(names = excess.len(), refused, "asked the kernel to forget");
}
