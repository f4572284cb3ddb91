//! Work on the disk that somebody waits for.
//!
//! Owns how much of it there is at once, and how long anybody waits for it. Promises: who waits for
//! a disk that does not answer is let go, and until it does nobody begins to wait. Must not know
//! what is read.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::writer::Said;

/// Reads from disk at once: a few keep any disk busy, and the blocking threads are shared with
/// staging and journal.
const READS_MAX: usize = 8;

/// Disks answer within milliseconds, and within a second or two under the heaviest load; one that
/// takes longer than this hangs, and the store has the bytes too.
const PATIENCE: Duration = Duration::from_secs(5);

/// Turns at the disk.
#[derive(Debug)]
pub(super) struct Turns {
    free: Arc<Semaphore>,
    patience: Duration,
    /// What nobody waits for any more. It keeps its turn until it ends, so there are few.
    overdue: Mutex<Vec<AbortHandle>>,
    said: Arc<Said>,
}

impl Turns {
    pub(super) fn new(said: Arc<Said>) -> Self {
        let free = Arc::new(Semaphore::new(READS_MAX));
        Self { free, patience: PATIENCE, overdue: Mutex::default(), said }
    }

    /// Does some work in its turn; none where the disk does not answer.
    pub(super) async fn take<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.hangs() {
            return None;
        }
        let turn =
            timeout(self.patience, Arc::clone(&self.free).acquire_owned()).await.ok()?.ok()?;
        let mut working = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        match timeout(self.patience, &mut working).await {
            Ok(done) => done.ok(),
            Err(_) => {
                self.overdue().push(working.abort_handle());
                self.said.failure(&io::ErrorKind::TimedOut.into());
                None
            }
        }
    }

    /// True while something takes longer than anybody waits.
    fn hangs(&self) -> bool {
        let mut overdue = self.overdue();
        overdue.retain(|work| !work.is_finished());
        !overdue.is_empty()
    }

    fn overdue(&self) -> MutexGuard<'_, Vec<AbortHandle>> {
        self.overdue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::super::counters::Counters;
    use super::super::folder::Folder;
    use super::*;

    #[tokio::test]
    async fn nobody_waits_for_a_disk_that_hangs() {
        let root = tempfile::tempdir().unwrap();
        let folder = Arc::new(Folder::create(root.path()).unwrap());
        let said = Arc::new(Said::new(Arc::new(Counters::default()), folder));
        let turns = Turns { patience: Duration::from_millis(1), ..Turns::new(said) };
        let (release, held) = sync_channel::<()>(0);
        assert_eq!(turns.take(move || held.recv().is_err()).await, None);
        assert_eq!(turns.take(|| panic!("it is not begun")).await, None::<()>);
        drop(release);
        while turns.hangs() {
            tokio::task::yield_now().await;
        }
        let patient = Turns { patience: PATIENCE, ..turns };
        assert_eq!(patient.take(|| 7).await, Some(7));
    }
}
