//! A file of options that changes while a mount runs.
//!
//! Owns the looking and the applying. It polls: the number of inotify instances is a limit of the
//! whole node, and a file is read in microseconds. Promises: a file that cannot be read is one
//! line in the log and changes nothing; sizes that cannot hold yet hold up no other change. Must
//! not know the file's grammar.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::allotment::Allotment;
use super::mountinfo;
use crate::config::{Change, Config, Host, Reload, Sizes, Tunables};
use crate::telemetry::Log;

/// A kubelet brings a changed ConfigMap within a minute or so; this adds little to it.
const EVERY: Duration = Duration::from_secs(10);

/// Looks at the file again and again; only returns where there is none.
pub(super) async fn watch(config: Config, allotment: Allotment, log: Log) {
    let Some(reload) = config.reload.clone() else { return };
    say_what_to_expect(&reload);
    let (asking, asked) = watch::channel(config.sizes());
    let found = |change: Change| {
        allotment.vfs.set_metadata_ttl(change.tunables.metadata_ttl);
        apply(&change, &log);
        asking.send_replace(change.tunables.sizes);
    };
    let resize = |sizes| {
        let allotment = allotment.clone();
        async move {
            allotment.resize(sizes).await;
            tracing::info!(budget = allotment.budget.limit(), "what is taken fits into the sizes");
        }
    };
    tokio::join!(look(config, reload, found), fit(asked, resize));
}

async fn look(config: Config, mut reload: Reload, mut found: impl FnMut(Change)) {
    let config = Arc::new(config);
    loop {
        tokio::time::sleep(EVERY).await;
        let of_look = Arc::clone(&config);
        let looked = tokio::task::spawn_blocking(move || {
            let found = reload.look(|options| of_look.tunables(options, &Host::read()));
            (reload, found)
        });
        let Ok((same, change)) = looked.await else { return };
        reload = same;
        match change {
            Ok(None) => {}
            Ok(Some(change)) => found(change),
            Err(error) => {
                metrics::counter!("s3pod_config_reload_failures_total").increment(1);
                tracing::error!(%error, "the options stay as they were");
            }
        }
    }
}

fn apply(change: &Change, log: &Log) {
    let Tunables { log_level, metadata_ttl, sizes } = change.tunables;
    log.set_level(log_level);
    tracing::info!(?metadata_ttl, ?sizes, "the options have changed");
    if !change.at_next_start.is_empty() {
        let flags = change.at_next_start.join(", ");
        tracing::warn!(flags, "these options hold from the next start of the mount on");
    }
}

/// Changes the sizes as they were asked for last, once what was asked for before holds: that may
/// take as long as what is being read or written does.
async fn fit<R: Future<Output = ()>>(
    mut asked: watch::Receiver<Sizes>,
    resize: impl Fn(Sizes) -> R,
) {
    while asked.changed().await.is_ok() {
        let sizes = *asked.borrow_and_update();
        resize(sizes).await;
    }
}

/// A file that is a mount point of its own is bound once and for all.
fn say_what_to_expect(reload: &Reload) {
    let mounts = mountinfo::read().unwrap_or_default();
    let path = reload.path().display();
    if mountinfo::topmost(&mounts, reload.path()).is_some() {
        tracing::warn!(
            %path,
            "this file is mounted by subPath, so that changes never arrive; mount the whole volume"
        );
    } else {
        tracing::info!(
            %path,
            "changes of this file take effect while the mount runs; in an immutable ConfigMap \
             there are none"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use std::sync::Mutex;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn sizes_that_cannot_hold_yet_hold_up_nobody_and_the_last_ones_come_next() {
        let of =
            |memory_limit| Sizes { memory_limit, cache_size: 0, staging_size: 0, max_requests: 1 };
        let (asking, asked) = watch::channel(of(0));
        let (begun, come_back) = (Mutex::new(Vec::new()), Semaphore::new(0));
        let mut fitting = Box::pin(fit(asked, |sizes| {
            begun.lock().unwrap().push(sizes.memory_limit);
            async { come_back.acquire().await.unwrap().forget() }
        }));
        for memory_limit in [1, 2, 3] {
            asking.send_replace(of(memory_limit));
            assert!(fitting.as_mut().now_or_never().is_none());
            assert_eq!(*begun.lock().unwrap(), [1], "one at a time");
        }
        come_back.add_permits(2);
        assert!(fitting.as_mut().now_or_never().is_none());
        assert_eq!(*begun.lock().unwrap(), [1, 3]);
        drop(asking);
        fitting.await;
    }
}
