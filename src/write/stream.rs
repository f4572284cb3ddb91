//! An upload that runs while its file is still being written.
//!
//! Owns the parts of a file that are full and on their way, and which of them were written again
//! since they were sent: those are sent once more at commit, everything else is not. A file that
//! goes on behind a version (after a checkpoint, or appended to) has that version's bytes in parts
//! that the store copies. A failure here is no error yet: the part counts as unsent, and the
//! commit that needs it reports. Must not know what a commit is.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::oneshot;

use super::extents::Extents;
use super::plan::{PartSource, Plan, plan, stream_part_size};
use super::stage::{Account, Stage};
use super::staging::Quota;
use super::upload::Open;
use super::{Engine, Limits, Result, Staged, Target, commit};
use crate::store::{self, ErrorKind, PartTag, PartTarget, Payload, Version};
use crate::units::{ByteRange, MIB};

/// Parts of one file on their way at once; 16 x 8 MiB saturates 10 Gbit/s at 100 ms.
pub(super) const PARTS_IN_FLIGHT_MAX: usize = 16;

/// A file that goes on behind a version is streamed again after so much new data, or a quarter of
/// the staging quota: what comes before costs less with the next commit.
const BEGIN_AFTER: u64 = 64 * MIB;

/// A part that the store copied and that was written to is sent whole; where it is larger than
/// this, another upload costs less.
const RESENT_COPY_MAX: u64 = 16 * MIB;

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
    source: PartSource,
    state: PartState,
}

#[derive(Debug)]
enum PartState {
    /// To be sent, or to be sent again since the store did not take it.
    Unsent,
    /// Written again since it was sent, or not all here. The commit sends it: a header that is
    /// patched once is often patched again.
    Touched,
    /// On its way; written again meanwhile where `stale`.
    Sending {
        answer: oneshot::Receiver<store::Result<PartTag>>,
        stale: bool,
    },
    Sent(PartTag),
}

impl Part {
    const fn new(range: ByteRange, source: PartSource) -> Self {
        Self { range, source, state: PartState::Unsent }
    }

    const fn is_sending(&self) -> bool {
        matches!(self.state, PartState::Sending { .. })
    }

    fn overlaps(&self, range: ByteRange) -> bool {
        !self.range.intersect(range).is_empty()
    }
}

impl Stream {
    /// Bytes were written: the parts they touch no longer are what was sent.
    pub(super) fn touched(&mut self, range: ByteRange) {
        let Some(running) = &mut self.running else { return };
        for (number, part) in (1..).zip(&mut running.parts) {
            if !part.overlaps(range) {
                continue;
            }
            let was_copied = part.source != PartSource::Upload;
            part.source = PartSource::Upload;
            match &mut part.state {
                PartState::Sending { stale, .. } => *stale = true,
                PartState::Sent(_) => {
                    running.open.changed(number);
                    part.state = PartState::Touched;
                }
                PartState::Unsent if was_copied => part.state = PartState::Touched,
                PartState::Unsent | PartState::Touched => {}
            }
        }
    }

    /// True where bytes in `range` can change without giving the upload up.
    pub(super) fn takes(&self, range: ByteRange, limits: &Limits) -> bool {
        let Some(running) = &self.running else { return true };
        let is_costly =
            |part: &Part| part.source != PartSource::Upload && part.range.len() > RESENT_COPY_MAX;
        let changed = running.parts.iter().filter(|part| part.overlaps(range));
        running.has_numbers_for(range.end, limits) && !changed.into_iter().any(is_costly)
    }

    /// True where the file can be cut without losing what only the upload has of it. A part that
    /// is still on its way could arrive after its number was sent anew.
    pub(super) fn can_be_cut(&self, size: u64, account: &Account) -> bool {
        let Some(running) = &self.running else { return true };
        let kept = ByteRange::new(0, size);
        let cut = running.parts.iter().filter(|part| part.range.end > size);
        cut.into_iter().all(|part| {
            !part.is_sending() && !account.punched.intersects(part.range.intersect(kept))
        })
    }

    /// The file was cut: parts beyond the end are forgotten, or the upload is given up.
    pub(super) async fn truncate(&mut self, size: u64, engine: &Engine) {
        let Some(running) = &mut self.running else { return };
        running.settle();
        if running.parts.iter().any(|part| part.range.end > size && part.is_sending()) {
            self.abandon(engine).await;
        } else {
            let kept = running.parts.iter().filter(|part| part.range.end <= size).count();
            for (number, part) in (1..).zip(&running.parts).skip(kept) {
                if matches!(part.state, PartState::Sent(_)) {
                    running.open.changed(number);
                }
            }
            running.parts.truncate(kept);
        }
    }

    /// Sends the parts that are full by now, beginning the upload when it is worth it.
    pub(super) async fn advance<G: Send>(
        &mut self,
        staged: &Staged,
        target: impl FnOnce() -> Option<(Target, G)> + Send,
    ) {
        if self.running.is_none()
            && !self.refused
            && let Some(parts) = first_parts(staged)
            && let Some((target, _stays_so)) = target()
        {
            self.running = begin(staged, &target, parts).await;
            self.refused = self.running.is_none();
        }
        self.go_on(staged);
    }

    /// Takes the answers that have come; where a part was acknowledged, the next ones leave.
    pub(super) fn settle(&mut self, staged: &Staged) {
        if let Some(running) = &mut self.running
            && running.settle()
        {
            running.go_on(staged);
        }
    }

    /// Sends what is full and was not sent, or not taken.
    pub(super) fn go_on(&mut self, staged: &Staged) {
        if let Some(running) = &mut self.running {
            running.settle();
            running.go_on(staged);
        }
    }

    /// The bytes of parts that are read from the staging file while they are sent.
    pub(super) fn being_sent(&self) -> Extents {
        let parts = self.running.iter().flat_map(|running| &running.parts);
        parts.filter(|part| part.is_sending()).map(|part| part.range).collect()
    }

    /// Lets acknowledged parts go from the staging file, oldest first, until `enough`; not the
    /// first `head` bytes of the file.
    pub(super) fn punch(
        &self,
        staged: &Staged,
        head: u64,
        enough: &impl Fn() -> bool,
    ) -> std::io::Result<()> {
        let Some(running) = &self.running else { return Ok(()) };
        let behind_head = ByteRange::new(head, u64::MAX);
        let min_part = staged.engine.0.limits.min_part;
        let is_sent = |part: &&Part| matches!(part.state, PartState::Sent(_));
        // One that is too small to have others behind it may have to be sent in another one.
        let parts = running.parts.iter().filter(|part| part.range.len() >= min_part);
        for part in parts.filter(is_sent) {
            if enough() {
                break;
            }
            staged.stage.punch(part.range.intersect(behind_head))?;
        }
        Ok(())
    }

    /// The id of the commit that the running upload is for.
    pub(super) fn commit_id(&self) -> Option<&str> {
        self.running.as_ref().map(|running| running.open.commit_id.as_str())
    }

    /// A stream that goes on with an upload.
    pub(super) const fn resume(running: Running) -> Self {
        Self { running: Some(running), refused: false }
    }

    /// The begun upload, for the commit to finish; the stream is as if it had never begun.
    pub(super) fn take(&mut self) -> Option<Running> {
        self.refused = false;
        self.running.take()
    }

    /// Puts an upload back that the commit could not finish, for the next one.
    pub(super) fn put_back(&mut self, running: Running) {
        self.running = Some(running);
    }

    /// Gives the upload up.
    pub(super) async fn abandon(&mut self, engine: &Engine) {
        if let Some(running) = self.running.take() {
            running.open.abort(engine).await;
        }
    }
}

/// The parts that an upload begins with, where it is time to begin one: none for a new file of
/// more than one part, and for one that goes on behind what objects have, those of its plan. The
/// last part of a plan may be small, so it is not one yet.
fn first_parts(staged: &Staged) -> Option<Vec<Part>> {
    let limits = &staged.engine.0.limits;
    let account = staged.stage.account();
    let old = account.base_len.max(account.copied.end());
    let new = account.dirty.next_covered(old).filter(|new| new.start == old)?;
    if old == 0 {
        // A file of one part is one PUT.
        return (new.len() > limits.upload_part).then(Vec::new);
    }
    let quota = staged.engine.0.staging.quota();
    let wanted = BEGIN_AFTER.min(quota / 4).max(limits.upload_part);
    if new.end != account.size || new.len() < wanted {
        return None;
    }
    let planned = plan(&account.edit(&account.holes()), limits).ok()?;
    let Plan::Multipart { mut parts, .. } = planned else { return None };
    parts.pop();
    Some(parts.into_iter().map(|part| Part::new(part.range, part.source)).collect())
}

async fn begin(staged: &Staged, target: &Target, parts: Vec<Part>) -> Option<Running> {
    let key = &target.key;
    for part in parts.iter().filter(|part| part.source == PartSource::Upload) {
        if let Err(error) = commit::fill(staged, key, part.range, Quota::MayBePassed).await {
            tracing::debug!(%key, %error, "no streamed upload yet; the commit will try again");
            return None;
        }
    }
    let commit_id = super::new_commit_id();
    match Open::begin(&staged.engine, target, &target.streamed, &commit_id).await {
        Ok(open) => Some(Running { open, parts }),
        Err(error) => {
            tracing::debug!(%key, %error, "no streamed upload yet; the commit will try again");
            None
        }
    }
}

impl Running {
    /// Adds the parts that are full when the file is written up to `written`.
    fn extend(&mut self, staged: &Staged, written: u64) {
        let limits = &staged.engine.0.limits;
        // The last part of a commit that failed, when the file was shorter.
        let is_short = |last: &Part| {
            last.range.len() < limits.min_part && last.range.end < written && !last.is_sending()
        };
        if self.parts.last().is_some_and(is_short) {
            self.open.changed(self.parts.len() as u32);
            self.parts.pop();
        }
        // A part is staged until it is acknowledged, so four must fit.
        let largest = (staged.engine.0.staging.quota() / 4).max(limits.upload_part);
        while self.parts.len() as u32 + 1 < limits.max_parts {
            let number = self.parts.len() as u32 + 1;
            let size = stream_part_size(number, limits.upload_part).min(largest);
            let range = ByteRange::at(self.end(), size);
            // Strictly less: the last byte of the file is sent by the commit, which knows it.
            if range.end >= written {
                return;
            }
            self.parts.push(Part::new(range, PartSource::Upload));
        }
    }

    /// One past the last byte that a part has.
    fn end(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.range.end)
    }

    /// True where part numbers are left for a file of `size` bytes.
    fn has_numbers_for(&self, size: u64, limits: &Limits) -> bool {
        let is_last = self.parts.len() as u32 + 1 >= limits.max_parts;
        !is_last || size.saturating_sub(self.end()) <= limits.max_part
    }

    /// True where the upload can become the file of `size` bytes.
    pub(super) fn fits(&self, size: u64, limits: &Limits) -> bool {
        size > limits.upload_part && self.has_numbers_for(size, limits)
    }

    /// Takes the answers that have come; true where a part was acknowledged.
    fn settle(&mut self) -> bool {
        let mut is_acknowledged = false;
        for part in &mut self.parts {
            if let PartState::Sending { answer, stale } = &mut part.state {
                part.state = match answer.try_recv() {
                    Err(oneshot::error::TryRecvError::Empty) => continue,
                    Ok(Ok(_)) if *stale => PartState::Touched,
                    Ok(Ok(tag)) => {
                        self.open.sent(&tag, part.range);
                        PartState::Sent(tag)
                    }
                    _ => PartState::Unsent,
                };
                is_acknowledged |= matches!(part.state, PartState::Sent(_));
            }
        }
        is_acknowledged
    }

    /// Sends what is full and unsent, at most so many parts at once.
    fn go_on(&mut self, staged: &Staged) {
        let end = self.end();
        let next = staged.stage.account().present.next_covered(end);
        // The end of what was written in order.
        let written = next.filter(|next| next.start == end).map_or(end, |next| next.end);
        self.extend(staged, written);
        let sending = self.parts.iter().filter(|part| part.is_sending()).count();
        let room = PARTS_IN_FLIGHT_MAX.saturating_sub(sending);
        let open = &self.open;
        let unsent = self.parts.iter_mut().enumerate();
        for (index, part) in
            unsent.filter(|(_, part)| matches!(part.state, PartState::Unsent)).take(room)
        {
            let order = Order::of(part, staged);
            if matches!(order, Order::Send(_)) && !staged.stage.is_whole(part.range) {
                part.state = PartState::Touched;
                continue;
            }
            let (sender, answer) = oneshot::channel();
            let target = open.target(index as u32 + 1);
            let store = Arc::clone(&staged.engine.0.store);
            let under_way = staged.engine.0.traffic.enter();
            staged.engine.0.tasks.spawn(async move {
                let sent = order.send(&*store, &target).await;
                // Nobody listens where the upload was given up meanwhile.
                let _nobody_waits = sender.send(sent);
                drop(under_way);
            });
            part.state = PartState::Sending { answer, stale: false };
        }
    }

    /// Waits for what is on its way, sends everything else up to `size` and returns all parts.
    pub(super) async fn finish(&mut self, staged: &Staged, size: u64) -> Result<Vec<PartTag>> {
        for part in &mut self.parts {
            let PartState::Sending { answer, stale } = &mut part.state else { continue };
            let answer = answer.await;
            let is_stale = *stale;
            part.state = match answer {
                Ok(Ok(tag)) if !is_stale => {
                    self.open.sent(&tag, part.range);
                    PartState::Sent(tag)
                }
                // Written to while it was sent, so that its checksum was wrong: it is sent anew.
                Ok(Err(error)) if is_stale && matches!(error.kind(), ErrorKind::Damaged(_)) => {
                    PartState::Unsent
                }
                // The operation timeout is used up: whoever waits has waited long enough.
                Ok(Err(error)) if error.kind().is_unanswered() => {
                    part.state = PartState::Unsent;
                    return Err(error.into());
                }
                _ => PartState::Unsent,
            };
        }
        self.extend(staged, size);
        let rest = ByteRange::new(self.end(), size);
        if !rest.is_empty() {
            self.parts.push(Part::new(rest, PartSource::Upload));
        }
        let sent = self.send_rest(staged).await;
        if sent.is_err() && !rest.is_empty() {
            // The file may be longer when this is tried again.
            self.parts.pop();
        }
        sent?;
        let tags = self.parts.iter().filter_map(|part| match &part.state {
            PartState::Sent(tag) => Some(tag.clone()),
            _ => None,
        });
        Ok(tags.collect())
    }

    async fn send_rest(&mut self, staged: &Staged) -> Result<()> {
        let (open, store) = (&self.open, &staged.engine.0.store);
        let mut unsent: Vec<BoxFuture<'_, Result<()>>> = Vec::new();
        for (index, part) in self.parts.iter_mut().enumerate() {
            if matches!(part.state, PartState::Sent(_)) {
                continue;
            }
            let target = open.target(index as u32 + 1);
            let send = async move {
                let order = Order::of(part, staged);
                if let Order::Send(_) = order {
                    check_staged(staged, part.range)?;
                    commit::fill(staged, &open.upload.key, part.range, Quota::MayBePassed).await?;
                }
                let tag = match (order.send(&**store, &target).await, &order) {
                    (Err(error), Order::Copy(..)) if *error.kind() == ErrorKind::Unsupported => {
                        // The bytes go through here instead.
                        let key = &open.upload.key;
                        commit::fill(staged, key, part.range, Quota::MayBePassed).await?;
                        part.source = PartSource::Upload;
                        Order::of(part, staged).send(&**store, &target).await?
                    }
                    (Err(error), Order::Copy(source, _)) => {
                        return Err(commit::source_error(error, source));
                    }
                    (sent, _) => sent?,
                };
                open.sent(&tag, part.range);
                part.state = PartState::Sent(tag);
                Ok(())
            };
            unsent.push(send.boxed());
        }
        let sending = futures::stream::iter(unsent).buffer_unordered(PARTS_IN_FLIGHT_MAX);
        sending.try_collect().await
    }

    /// The streamed upload of an earlier process, with the parts it had sent. What lies between
    /// those is cut as it comes: nobody has sent it yet.
    pub(super) fn resume(open: Open, staged: &Stage) -> Self {
        let account = staged.account();
        // Of a smaller object no range is copied (`plan`).
        let may_copy = account.base.as_ref().is_some_and(|base| base.size > Limits::S3.min_part);
        let source = |range: ByteRange| {
            let is_base =
                may_copy && range.end <= account.base_len && !account.dirty.intersects(range);
            if is_base { PartSource::Base(range) } else { PartSource::Upload }
        };
        let mut running = Self { open, parts: Vec::new() };
        let sent = Arc::clone(&running.open.parts);
        for (&number, part) in sent.iter() {
            let missing = u64::from(number).saturating_sub(running.parts.len() as u64 + 1);
            let gap = ByteRange::new(running.end(), part.range.start);
            // Beyond the end is what was sent since, or was about to be cut away.
            if missing == 0 && !gap.is_empty()
                || part.range.start < running.end()
                || part.range.end > account.size
            {
                break;
            }
            for index in 0..missing {
                let at = |index| gap.start + gap.len() * index / missing;
                let range = ByteRange::new(at(index), at(index + 1));
                running.parts.push(Part::new(range, source(range)));
            }
            let state = PartState::Sent(part.tag.clone());
            running.parts.push(Part { state, ..Part::new(part.range, source(part.range)) });
        }
        running
    }
}

/// What only the upload has cannot be sent: its part was lost.
fn check_staged(staged: &Staged, range: ByteRange) -> Result<()> {
    if staged.stage.account().punched.intersects(range) {
        let kind = store::ErrorKind::NoSuchUpload;
        return Err(store::Error::new(store::Operation::UploadPart, kind).into());
    }
    Ok(())
}

/// How a part gets to the store.
enum Order {
    Send(Payload),
    Copy(Arc<Version>, ByteRange),
}

impl Order {
    fn of(part: &Part, staged: &Staged) -> Self {
        let account = staged.stage.account();
        let copy = match &part.source {
            PartSource::Base(range) => account.base.clone().map(|base| (base, *range)),
            PartSource::Other(version, range) => {
                // Its bytes may have been brought here since: then that object is going.
                let run = account.copied.within(part.range).next();
                let is_still =
                    run.is_some_and(|run| run.version == *version && run.source() == *range);
                is_still.then(|| (Arc::clone(version), *range))
            }
            PartSource::Upload => None,
        };
        match copy {
            Some((version, range)) => Self::Copy(version, range),
            None => Self::Send(Payload::File(staged.stage.file(), part.range)),
        }
    }

    async fn send(
        &self,
        store: &dyn store::ObjectStore,
        target: &PartTarget,
    ) -> store::Result<PartTag> {
        match self {
            Self::Send(payload) => store.upload_part(target, payload).await,
            Self::Copy(version, range) => store.copy_part(target, version, *range).await,
        }
    }
}
