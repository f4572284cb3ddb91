//! An upload that runs while its file is still being written.
//!
//! Owns the parts of a new file that are full and on their way, and which of them were written
//! again since they were sent: those are sent once more at commit, everything else is not. A
//! failure here is no error yet: the part counts as unsent, and the commit that needs it reports.
//! Must not know what a commit is.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::oneshot;

use super::plan::stream_part_size;
use super::upload::Open;
use super::{Engine, Staged, Target};
use crate::store::{PartTag, Payload, Result};
use crate::units::ByteRange;

/// Parts of one file on their way at once; 16 x 8 MiB saturates 10 Gbit/s at 100 ms.
pub(super) const PARTS_IN_FLIGHT_MAX: usize = 16;

/// The streamed upload of one file; not begun until there is more than one part to send.
#[derive(Debug, Default)]
pub(super) struct Stream {
    running: Option<Running>,
    /// The store would not begin an upload: the commit will ask again and report.
    refused: bool,
}

/// A begun upload.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) open: Open,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    range: ByteRange,
    state: PartState,
}

#[derive(Debug)]
enum PartState {
    /// To be sent, or to be sent again.
    Unsent,
    /// On its way; written again meanwhile where `stale`.
    Sending {
        answer: oneshot::Receiver<Result<PartTag>>,
        stale: bool,
    },
    Sent(PartTag),
}

impl Stream {
    /// Bytes were written: the parts they touch no longer are what was sent.
    pub(super) fn touched(&mut self, range: ByteRange) {
        let Some(running) = &mut self.running else { return };
        for (number, part) in (1..).zip(&mut running.parts) {
            if part.range.intersect(range).is_empty() {
                continue;
            }
            match &mut part.state {
                PartState::Unsent => {}
                PartState::Sending { stale, .. } => *stale = true,
                PartState::Sent(_) => {
                    running.open.changed(number);
                    part.state = PartState::Unsent;
                }
            }
        }
    }

    /// The file was cut: parts beyond the end are forgotten. One that is still on its way could
    /// arrive after its number was sent anew, so then the upload is given up.
    pub(super) async fn truncate(&mut self, size: u64, engine: &Engine) {
        let Some(running) = &mut self.running else { return };
        running.settle();
        let cut = running.parts.iter().filter(|part| part.range.end > size);
        if cut.into_iter().any(|part| matches!(part.state, PartState::Sending { .. })) {
            self.abandon(engine).await;
        } else {
            running.parts.retain(|part| part.range.end <= size);
        }
    }

    /// Sends the parts that are full by now, beginning the upload with the first one.
    pub(super) async fn advance(
        &mut self,
        staged: &Staged,
        target: impl FnOnce() -> Target + Send,
    ) {
        let (base_part, written) = {
            let account = staged.stage.account();
            if account.base_len > 0 {
                return;
            }
            // The end of what was written in order, from the file's beginning.
            let first = account.present.next_covered(0).filter(|range| range.start == 0);
            (staged.engine.0.limits.upload_part, first.map_or(0, |range| range.end))
        };
        // More than one part: a file of one part is one PUT.
        if self.running.is_none() && !self.refused && written > base_part {
            self.running = begin(&staged.engine, &target()).await;
            self.refused = self.running.is_none();
        }
        let Some(running) = &mut self.running else { return };
        running.settle();
        running.extend(written, base_part);
        running.send(staged, PARTS_IN_FLIGHT_MAX);
    }

    /// A stream that goes on with an upload.
    pub(super) const fn resume(running: Running) -> Self {
        Self { running: Some(running), refused: false }
    }

    /// The begun upload, for the commit to finish; the stream is as if it had never begun.
    pub(super) fn take(&mut self) -> Option<Running> {
        self.running.take()
    }

    /// Gives the upload up.
    pub(super) async fn abandon(&mut self, engine: &Engine) {
        if let Some(running) = self.running.take() {
            running.open.abort(engine).await;
        }
    }
}

async fn begin(engine: &Engine, target: &Target) -> Option<Running> {
    let commit_id = super::commit::new_id();
    match Open::begin(engine, target, &target.streamed, &commit_id).await {
        Ok(open) => Some(Running { open, parts: Vec::new() }),
        Err(error) => {
            let key = &target.key;
            tracing::debug!(%key, %error, "no streamed upload yet; the commit will try again");
            None
        }
    }
}

impl Running {
    /// Adds the parts that are full when the file is written up to `written`.
    fn extend(&mut self, written: u64, base_part: u64) {
        loop {
            let start = self.parts.last().map_or(0, |part| part.range.end);
            let number = self.parts.len() as u32 + 1;
            let range = ByteRange::at(start, stream_part_size(number, base_part));
            // Strictly less: the last byte of the file is sent by the commit, which knows it.
            if range.end >= written {
                return;
            }
            self.parts.push(Part { range, state: PartState::Unsent });
        }
    }

    /// Takes the answers that have come.
    fn settle(&mut self) {
        for part in &mut self.parts {
            if let PartState::Sending { answer, stale } = &mut part.state {
                let next = match answer.try_recv() {
                    Ok(Ok(tag)) if !*stale => {
                        self.open.sent(&tag, part.range);
                        PartState::Sent(tag)
                    }
                    Err(oneshot::error::TryRecvError::Empty) => continue,
                    _ => PartState::Unsent,
                };
                part.state = next;
            }
        }
    }

    /// Sends unsent parts, at most so many at once.
    fn send(&mut self, staged: &Staged, in_flight_max: usize) {
        let is_sending = |part: &&Part| matches!(part.state, PartState::Sending { .. });
        let sending = self.parts.iter().filter(is_sending).count();
        let room = in_flight_max.saturating_sub(sending);
        let open = &self.open;
        let unsent = self.parts.iter_mut().enumerate();
        for (index, part) in
            unsent.filter(|(_, part)| matches!(part.state, PartState::Unsent)).take(room)
        {
            let (sender, answer) = oneshot::channel();
            let target = open.target(index as u32 + 1);
            let payload = Payload::File(staged.stage.file(), part.range);
            let store = Arc::clone(&staged.engine.0.store);
            staged.engine.0.tasks.spawn(async move {
                let sent = store.upload_part(&target, &payload).await;
                // Nobody listens where the upload was given up meanwhile.
                let _nobody_waits = sender.send(sent);
            });
            part.state = PartState::Sending { answer, stale: false };
        }
    }

    /// Waits for what is on its way, sends everything else up to `size` and returns all parts.
    pub(super) async fn finish(&mut self, staged: &Staged, size: u64) -> Result<Vec<PartTag>> {
        for part in &mut self.parts {
            if let PartState::Sending { answer, stale } = &mut part.state {
                let answer = answer.await;
                part.state = match answer {
                    Ok(Ok(tag)) if !*stale => {
                        self.open.sent(&tag, part.range);
                        PartState::Sent(tag)
                    }
                    // The operation timeout is used up: whoever waits has waited long enough.
                    Ok(Err(error)) if error.kind().is_unanswered() => return Err(error),
                    _ => PartState::Unsent,
                };
            }
        }
        let base_part = staged.engine.0.limits.upload_part;
        self.extend(size, base_part);
        let start = self.parts.last().map_or(0, |part| part.range.end);
        if start < size {
            self.parts.push(Part { range: ByteRange::new(start, size), state: PartState::Unsent });
        }
        self.send_rest(staged).await?;
        let sent = self.parts.iter().filter_map(|part| match &part.state {
            PartState::Sent(tag) => Some(tag.clone()),
            _ => None,
        });
        Ok(sent.collect())
    }

    async fn send_rest(&mut self, staged: &Staged) -> Result<()> {
        let (open, store) = (&self.open, &staged.engine.0.store);
        let mut unsent: Vec<BoxFuture<'_, Result<()>>> = Vec::new();
        for (index, part) in self.parts.iter_mut().enumerate() {
            if matches!(part.state, PartState::Sent(_)) {
                continue;
            }
            let target = open.target(index as u32 + 1);
            let payload = Payload::File(staged.stage.file(), part.range);
            let send = async move {
                let tag = store.upload_part(&target, &payload).await?;
                open.sent(&tag, part.range);
                part.state = PartState::Sent(tag);
                Ok(())
            };
            unsent.push(send.boxed());
        }
        let sending = futures::stream::iter(unsent).buffer_unordered(PARTS_IN_FLIGHT_MAX);
        sending.try_collect().await
    }

    /// The streamed upload of an earlier process, with the parts it had sent.
    pub(super) fn resume(open: Open, size: u64, base_part: u64) -> Self {
        let mut running = Self { open, parts: Vec::new() };
        running.extend(size, base_part);
        for (number, part) in (1..).zip(&mut running.parts) {
            let known = running.open.parts.get(&number);
            // Another --part-size cuts the file elsewhere.
            if let Some(sent) = known.filter(|sent| sent.range == part.range) {
                part.state = PartState::Sent(sent.tag.clone());
            }
        }
        running
    }
}
