//! Open files, as a kernel uses them: open(2) by lookup and OPEN or CREATE, close(2) by FLUSH and
//! RELEASE.

use bytes::Bytes;
use s3pod::vfs::{Fh, FileKind, Ino, OpenFlags, Seek, SetAttr};
use s3pod_testkit::{Fault, Op};

use super::super::disk::Checked;
use super::super::operation::{HANDLES, How, Operation, Path, Slot};
use super::{CALLER, Subject, told};

/// What a refused commit would send.
const SENDS: [Op; 5] = [Op::Put, Op::Copy, Op::CreateUpload, Op::UploadPart, Op::CompleteUpload];

impl Subject {
    /// Bytes that no two writes share.
    pub(super) fn fresh(&mut self, len: u64) -> Vec<u8> {
        self.written += len;
        (self.written..self.written + len).map(|at| (at % 251) as u8).collect()
    }

    pub(super) async fn open(&mut self, path: Path, how: How) -> Checked {
        let path = path.text();
        let seen = self.seen(path).await?;
        if self.handles.len() == HANDLES {
            return Ok(());
        }
        let flags = OpenFlags {
            read: true,
            write: how.write,
            truncate: how.truncate,
            append: false,
            exclusive: how.exclusive,
            execute: false,
            direct: false,
        };
        let (ino, got) = match seen {
            Some(attr) if attr.kind != FileKind::File || how.exclusive => return Ok(()),
            Some(attr) => {
                let opened = told(self.vfs.open(attr.ino, flags).await);
                (attr.ino, opened.map(|opened| opened.fh.0))
            }
            None if how.create => {
                let Ok((parent, name)) = self.place(path).await else { return Ok(()) };
                let made = told(self.vfs.create(parent, name, 0o644, flags, CALLER).await);
                let entry = made.as_ref().ok().map(|(entry, _)| entry.attr);
                entry.iter().for_each(|attr| self.remember(attr));
                (entry.map_or(Ino(0), |attr| attr.ino), made.map(|(_, opened)| opened.fh.0))
            }
            None => return Ok(()),
        };
        if let Ok(fh) = got {
            self.handles.push(fh);
            self.open.insert(fh, ino);
        }
        self.disk.open(path, how, got)
    }

    /// The handle that a slot stands for; none where nothing is open.
    fn handle(&self, slot: Slot) -> Option<u64> {
        let count = self.handles.len();
        (count > 0).then(|| self.handles[slot.0 % count])
    }

    pub(super) async fn on_handle(&mut self, step: Operation) -> Checked {
        let (Operation::Close(slot)
        | Operation::Write(slot, ..)
        | Operation::Append(slot, _)
        | Operation::Read(slot, ..)
        | Operation::Resize(slot, _)
        | Operation::Flush(slot)
        | Operation::FlushRefused(slot)
        | Operation::Fsync(slot)
        | Operation::Seek(slot, _)) = step
        else {
            unreachable!("{step:?} is no operation on a handle")
        };
        let Some(fh) = self.handle(slot) else { return Ok(()) };
        match step {
            Operation::Close(_) => self.close(fh).await,
            Operation::Write(_, at, len) => self.write(fh, at, len).await,
            Operation::Append(_, len) => self.write(fh, self.disk.size(fh), len).await,
            Operation::Resize(_, size) => self.resize(fh, size).await,
            Operation::Read(_, at, len) => {
                let got = told(self.vfs.read(Fh(fh), at, len as u32).await);
                self.disk.read(fh, at, len, got.map(Vec::from))
            }
            Operation::Flush(_) => {
                let got = told(self.vfs.flush(Fh(fh)).await);
                self.disk.flush(fh, got)
            }
            Operation::FlushRefused(_) => self.flush_refused(fh).await,
            Operation::Seek(_, at) => self.seek(fh, at).await,
            _ => {
                let got = told(self.vfs.fsync(Fh(fh)).await);
                self.disk.fsync(fh, got)
            }
        }
    }

    async fn write(&mut self, fh: u64, at: u64, len: u64) -> Checked {
        if !self.disk.may_write(fh) {
            return Ok(());
        }
        let data = self.fresh(len);
        let bytes = Bytes::copy_from_slice(&data);
        let got = told(self.vfs.write(Fh(fh), at, bytes).await);
        self.disk.write(fh, at, &data, got.map(drop))
    }

    async fn resize(&mut self, fh: u64, size: u64) -> Checked {
        if !self.disk.may_write(fh) {
            return Ok(());
        }
        let ino = self.open[&fh];
        let change = SetAttr { size: Some(size), ..SetAttr::default() };
        let got = told(self.vfs.setattr(ino, Some(Fh(fh)), change).await);
        self.disk.resize(fh, size, got.map(drop))
    }

    async fn seek(&mut self, fh: u64, at: u64) -> Checked {
        let data = told(self.vfs.lseek(Fh(fh), at, Seek::Data).await);
        let hole = told(self.vfs.lseek(Fh(fh), at, Seek::Hole).await);
        self.disk.seek(fh, at, data, hole)
    }

    pub(super) async fn copy(
        &mut self,
        (from, at): (Slot, u64),
        (to, into): (Slot, u64),
        len: u64,
    ) -> Checked {
        let (Some(from), Some(to)) = (self.handle(from), self.handle(to)) else { return Ok(()) };
        if !self.disk.may_write(to) {
            return Ok(());
        }
        let len = len.min(self.disk.size(from).saturating_sub(at));
        let got = told(self.vfs.copy_file_range(Fh(from), at, Fh(to), into, len).await);
        self.disk.copy((from, at), (to, into), len, got)
    }

    /// The store refuses: the flush says so, and the bytes are there for the next one.
    async fn flush_refused(&mut self, fh: u64) -> Checked {
        if !self.disk.flush_sends(fh) {
            return Ok(());
        }
        self.world.faults().clear();
        let refused = |op| Fault::status(403, "AccessDenied").on(op).always();
        let rules = SENDS.map(|op| self.world.faults().add(refused(op)));
        let got = told(self.vfs.flush(Fh(fh)).await);
        rules.iter().for_each(s3pod_testkit::Injected::remove);
        // Nothing is sent but by the steps, so it was there to be sent.
        if got.is_ok() { Err("a refused flush answered Ok".to_owned()) } else { Ok(()) }
    }

    pub(super) async fn close(&mut self, fh: u64) -> Checked {
        let flushed = told(self.vfs.flush(Fh(fh)).await);
        self.disk.flush(fh, flushed)?;
        self.handles.retain(|open| *open != fh);
        let released = told(self.vfs.release(Fh(fh)).await);
        self.open.remove(&fh);
        self.disk.release(fh, released)
    }
}
