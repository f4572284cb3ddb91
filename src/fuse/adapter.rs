//! One method per FUSE operation: unpack, name the verb, say how its result is sent.
//!
//! Owns [`Adapter`] and what FUSE asks that no verb answers. Must not decide anything that POSIX
//! or S3 would have an opinion on: that is `vfs`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use nix::libc;
use tokio::runtime::Handle;

use super::flags::open_flags;
use super::negotiate::{Negotiated, negotiate};
use super::passthrough::Backings;
use super::registrar::Registrar;
use super::reply::{self, Page};
use super::request::{Call, Requests, Settings};
use crate::clock::Clock;
use crate::vfs::{Caller, Fh, FileKind, Ino, RenameMode, Seek, SetAttr, Vfs};

/// The most a COPY_FILE_RANGE answer can count (a u32), in whole pages; the kernel asks again for
/// the rest.
const MAX_COPY: u64 = 0xffff_f000;

/// The file system as fuser calls it.
#[derive(Debug)]
pub struct Adapter {
    vfs: Vfs,
    requests: Requests,
    negotiated: Arc<OnceLock<Negotiated>>,
    backings: Arc<Backings>,
    request_max: u32,
}

impl Adapter {
    /// An adapter that answers from `vfs` and finishes slow requests on `runtime`.
    pub fn new(vfs: Vfs, runtime: Handle, clock: Clock, settings: Settings) -> Self {
        let request_max = settings.request_max;
        let requests = Requests::new(runtime, clock, settings);
        let (backings, negotiated) = (Arc::default(), Arc::default());
        Self { vfs, requests, backings, request_max, negotiated }
    }

    /// What the connection begins with, once the kernel was answered.
    pub fn negotiated(&self) -> Arc<OnceLock<Negotiated>> {
        Arc::clone(&self.negotiated)
    }

    /// Has files registered with the kernel by somebody who may.
    pub fn use_registrar(&self, registrar: Arc<dyn Registrar>) {
        self.backings.use_registrar(registrar);
    }

    fn vfs(&self) -> Vfs {
        self.vfs.clone()
    }
}

const fn ino(nodeid: INodeNo) -> Ino {
    Ino(nodeid.0)
}

const fn handle(fh: FileHandle) -> Fh {
    Fh(fh.0)
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

/// The permission bits of a mode; the umask is applied already, by the kernel.
const fn perm(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

/// True for the attributes that can be kept. The kernel asks for `security.capability` before
/// every write and for ACLs on every `ls -l`: those are answered without a thought.
fn is_user_attribute(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"user.")
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let negotiated = negotiate(config, self.vfs.lists_attributes(), self.request_max);
        if negotiated.max_stack_depth == 0 {
            self.vfs.without_passthrough();
        }
        // A connection begins once.
        let _ = self.negotiated.set(negotiated);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let call = Call::query("lookup", req, parent).named(name);
        let (vfs, name) = (self.vfs(), name.to_owned());
        let verb = async move { vfs.lookup(ino(parent), &name).await };
        self.requests.answer(call, verb, |answer| reply::entry(reply, answer));
    }

    fn forget(&self, _: &Request, nodeid: INodeNo, count: u64) {
        self.vfs.forget(ino(nodeid), count);
    }

    fn getattr(&self, req: &Request, nodeid: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let vfs = self.vfs();
        let verb = async move { vfs.getattr(ino(nodeid), fh.map(handle)).await };
        let call = Call::query("getattr", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::attr(reply, answer));
    }

    fn setattr(
        &self,
        req: &Request,
        nodeid: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(reply::new_time), mtime.map(reply::new_time));
        let change = SetAttr { perm: mode.map(perm), uid, gid, size, atime, mtime };
        let vfs = self.vfs();
        let verb = async move { vfs.setattr(ino(nodeid), fh.map(handle), change).await };
        let call = Call::change("setattr", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::attr(reply, answer));
    }

    fn readlink(&self, req: &Request, nodeid: INodeNo, reply: ReplyData) {
        let vfs = self.vfs();
        let verb = async move { vfs.readlink(ino(nodeid)).await };
        let call = Call::query("readlink", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::bytes(reply, answer));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if FileKind::from_mode(mode).is_none() {
            return reply.error(Errno::EPERM);
        }
        let call = Call::change("mknod", req, parent).named(name);
        let (vfs, name, caller) = (self.vfs(), name.to_owned(), caller(req));
        let verb = async move { vfs.mknod(ino(parent), &name, mode, caller).await };
        self.requests.answer(call, verb, |answer| reply::entry(reply, answer));
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let call = Call::change("mkdir", req, parent).named(name);
        let (vfs, name, caller) = (self.vfs(), name.to_owned(), caller(req));
        let verb = async move { vfs.mkdir(ino(parent), &name, perm(mode), caller).await };
        self.requests.answer(call, verb, |answer| reply::entry(reply, answer));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let call = Call::change("unlink", req, parent).named(name);
        let (vfs, name) = (self.vfs(), name.to_owned());
        let verb = async move { vfs.unlink(ino(parent), &name).await };
        self.requests.answer(call, verb, |answer| reply::empty(reply, answer));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let call = Call::change("rmdir", req, parent).named(name);
        let (vfs, name) = (self.vfs(), name.to_owned());
        let verb = async move { vfs.rmdir(ino(parent), &name).await };
        self.requests.answer(call, verb, |answer| reply::empty(reply, answer));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let call = Call::change("symlink", req, parent).named(name);
        let (vfs, name, caller) = (self.vfs(), name.to_owned(), caller(req));
        let target = target.as_os_str().to_owned();
        let verb = async move { vfs.symlink(ino(parent), &name, &target, caller).await };
        self.requests.answer(call, verb, |answer| reply::entry(reply, answer));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            none if none.is_empty() => RenameMode::Replace,
            RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
            _ => return reply.error(Errno::EINVAL),
        };
        let call = Call::change("rename", req, parent).named(name);
        let (vfs, name, new_name) = (self.vfs(), name.to_owned(), new_name.to_owned());
        let verb =
            async move { vfs.rename(ino(parent), &name, ino(new_parent), &new_name, mode).await };
        self.requests.answer(call, verb, |answer| reply::empty(reply, answer));
    }

    /// S3 has no second name for an object.
    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn open(&self, req: &Request, nodeid: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        let flags = open_flags(flags.0);
        let vfs = self.vfs();
        let verb = async move { vfs.open(ino(nodeid), flags).await };
        let call = Call::change("open", req, nodeid);
        let (backings, vfs) = (Arc::clone(&self.backings), self.vfs());
        self.requests.answer(call, verb, move |answer| {
            backings.opened(reply, &vfs, ino(nodeid), answer);
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let call = Call::change("create", req, parent).named(name);
        let (vfs, name, caller) = (self.vfs(), name.to_owned(), caller(req));
        let flags = open_flags(flags);
        let verb = async move { vfs.create(ino(parent), &name, perm(mode), flags, caller).await };
        self.requests.answer(call, verb, |answer| reply::created(reply, answer));
    }

    fn read(
        &self,
        req: &Request,
        nodeid: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let vfs = self.vfs();
        let verb = async move { vfs.read(handle(fh), offset, size).await };
        let call = Call::query("read", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::bytes(reply, answer));
    }

    fn write(
        &self,
        req: &Request,
        nodeid: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The one copy of a written byte in this process: `data` is the thread's read buffer.
        let bytes = Bytes::copy_from_slice(data);
        let vfs = self.vfs();
        let verb = async move { vfs.write(handle(fh), offset, bytes).await };
        let call = Call::change("write", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::written(reply, answer));
    }

    fn flush(
        &self,
        req: &Request,
        nodeid: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs();
        let verb = async move { vfs.flush(handle(fh)).await };
        let call = Call::change("flush", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::empty(reply, answer));
    }

    fn fsync(
        &self,
        req: &Request,
        nodeid: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs();
        let verb = async move { vfs.fsync(handle(fh)).await };
        let call = Call::change("fsync", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::empty(reply, answer));
    }

    fn release(
        &self,
        req: &Request,
        nodeid: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs();
        let backings = Arc::clone(&self.backings);
        let verb = async move {
            backings.released(handle(fh));
            vfs.release(handle(fh)).await
        };
        let call = Call::change("release", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::empty(reply, answer));
    }

    fn opendir(&self, req: &Request, nodeid: INodeNo, _: fuser::OpenFlags, reply: ReplyOpen) {
        let vfs = self.vfs();
        let verb = async move { vfs.opendir(ino(nodeid)).await };
        let call = Call::change("opendir", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::opened_dir(reply, answer));
    }

    fn readdir(
        &self,
        req: &Request,
        nodeid: INodeNo,
        fh: FileHandle,
        cookie: u64,
        reply: ReplyDirectory,
    ) {
        let (vfs, page) = (self.vfs(), Page::new(reply));
        let sink = page.clone();
        let verb = async move {
            vfs.readdir(handle(fh), cookie, false, &mut |entry| sink.add(entry)).await
        };
        let call = Call::query("readdir", req, nodeid);
        self.requests.answer(call, verb, |answer| page.send(answer));
    }

    fn readdirplus(
        &self,
        req: &Request,
        nodeid: INodeNo,
        fh: FileHandle,
        cookie: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let (vfs, page) = (self.vfs(), Page::new(reply));
        let sink = page.clone();
        let verb = async move {
            vfs.readdir(handle(fh), cookie, true, &mut |entry| sink.add(entry)).await
        };
        let call = Call::change("readdirplus", req, nodeid);
        self.requests.answer(call, verb, |answer| page.send(answer));
    }

    fn releasedir(
        &self,
        req: &Request,
        nodeid: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs();
        let verb = async move { vfs.releasedir(handle(fh)).await };
        let call = Call::change("releasedir", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::empty(reply, answer));
    }

    fn fsyncdir(
        &self,
        req: &Request,
        nodeid: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs();
        let verb = async move { vfs.fsyncdir(handle(fh)).await };
        let call = Call::change("fsyncdir", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::empty(reply, answer));
    }

    fn statfs(&self, req: &Request, nodeid: INodeNo, reply: ReplyStatfs) {
        let vfs = self.vfs();
        let verb = async move { Ok(vfs.statfs()) };
        let call = Call::query("statfs", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::fs_stat(reply, answer));
    }

    fn setxattr(
        &self,
        req: &Request,
        nodeid: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        if !is_user_attribute(name) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let call = Call::change("setxattr", req, nodeid).named(name);
        let (vfs, name, value) = (self.vfs(), name.to_owned(), Bytes::copy_from_slice(value));
        let verb = async move { vfs.setxattr(ino(nodeid), &name, &value, flags).await };
        self.requests.answer(call, verb, |answer| reply::empty(reply, answer));
    }

    fn getxattr(
        &self,
        req: &Request,
        nodeid: INodeNo,
        name: &OsStr,
        buffer: u32,
        reply: ReplyXattr,
    ) {
        if !is_user_attribute(name) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let call = Call::query("getxattr", req, nodeid).named(name);
        let (vfs, name) = (self.vfs(), name.to_owned());
        let verb = async move { vfs.getxattr(ino(nodeid), &name).await };
        self.requests.answer(call, verb, move |answer| reply::xattr(reply, buffer, answer));
    }

    fn listxattr(&self, req: &Request, nodeid: INodeNo, buffer: u32, reply: ReplyXattr) {
        let vfs = self.vfs();
        let verb = async move { vfs.listxattr(ino(nodeid)).await };
        let call = Call::query("listxattr", req, nodeid);
        self.requests.answer(call, verb, move |answer| reply::xattr(reply, buffer, answer));
    }

    fn removexattr(&self, req: &Request, nodeid: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if !is_user_attribute(name) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let call = Call::change("removexattr", req, nodeid).named(name);
        let (vfs, name) = (self.vfs(), name.to_owned());
        let verb = async move { vfs.removexattr(ino(nodeid), &name).await };
        self.requests.answer(call, verb, |answer| reply::empty(reply, answer));
    }

    fn fallocate(
        &self,
        req: &Request,
        nodeid: INodeNo,
        fh: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs();
        let verb = async move { vfs.fallocate(handle(fh), offset, len, mode).await };
        let call = Call::change("fallocate", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::empty(reply, answer));
    }

    fn lseek(
        &self,
        req: &Request,
        nodeid: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let seek = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let vfs = self.vfs();
        let verb = async move { vfs.lseek(handle(fh), offset, seek).await };
        let call = Call::query("lseek", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::offset(reply, answer));
    }

    fn copy_file_range(
        &self,
        req: &Request,
        nodeid: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _to_nodeid: INodeNo,
        to: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to, len) = (handle(from), handle(to), len.min(MAX_COPY));
        let vfs = self.vfs();
        let verb = async move {
            let copied = vfs.copy_file_range(from, from_offset, to, to_offset, len).await?;
            Ok(u32::try_from(copied).unwrap_or(u32::MAX))
        };
        let call = Call::change("copy_file_range", req, nodeid);
        self.requests.answer(call, verb, |answer| reply::written(reply, answer));
    }

    /// Not for terminals: ENOTTY is what isatty(3) and ioctls of other file systems want to hear.
    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// ENOSYS once, and the kernel answers by itself from then on: files are always ready.
    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    /// The kernel checks permissions itself (`default_permissions`).
    fn access(&self, _: &Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// There is no block device beneath.
    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_user_attributes_reach_the_file_system() {
        assert!(is_user_attribute(OsStr::new("user.mime_type")));
        for foreign in ["security.capability", "system.posix_acl_access", "trusted.x", "user"] {
            assert!(!is_user_attribute(OsStr::new(foreign)), "{foreign}");
        }
    }

    #[test]
    fn modes_lose_their_type_and_keep_the_rest() {
        assert_eq!(perm(0o100_644), 0o644);
        assert_eq!(perm(0o104_755), 0o4755);
    }
}
