//! The life of a request: span, first poll, reply, metric, one line in the log.
//!
//! Owns how a verb is run without ever blocking the thread that read the request. Promises: the
//! reply is sent exactly once, also after a panic; a verb that can answer from memory is answered
//! on the spot; one that cannot goes on in the runtime, and where it moves a bounded number of
//! bytes it has a last-resort deadline. Must not know what the verbs do.

use std::any::Any;
use std::error::Error as StdError;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use fuser::Errno;
use tokio::runtime::Handle;
use tracing::{Instrument, Level};

use super::errno;
use super::meter;
use super::reply::Answer;
use crate::clock::Clock;
use crate::vfs;

/// Lines about failed requests that may be logged at once, and per second after that: an
/// application that retries in a loop must not fill a disk.
const LOG_BURST: f64 = 20.0;
const LOG_PER_SECOND: f64 = 2.0;

/// What the adapter is told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `--op-timeout`: after so long without progress the verbs themselves give up.
    pub op_timeout: Duration,
    /// The largest READ or WRITE to ask the kernel for, in bytes.
    pub request_max: u32,
}

/// How long a verb may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// It moves little: when it has not answered in twice `--op-timeout` something is broken
    /// beneath, and it is given up. For verbs that change nothing.
    Bounded,
    /// It may move terabytes, or must not be left half done: `vfs` watches its progress.
    WhileItMoves,
}

/// Who asks for what.
#[derive(Debug)]
pub(super) struct Call {
    op: &'static str,
    patience: Patience,
    unique: u64,
    ino: u64,
    name: Option<OsString>,
}

impl Call {
    /// A request that moves little and changes nothing.
    pub(super) fn query(op: &'static str, request: &fuser::Request, ino: fuser::INodeNo) -> Self {
        let patience = Patience::Bounded;
        Self { op, patience, unique: request.unique().0, ino: ino.0, name: None }
    }

    /// A request that changes something, or moves as much as the caller likes.
    pub(super) fn change(op: &'static str, request: &fuser::Request, ino: fuser::INodeNo) -> Self {
        Self { patience: Patience::WhileItMoves, ..Self::query(op, request, ino) }
    }

    /// Says which name in the directory.
    pub(super) fn named(mut self, name: &OsStr) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    fn span(&self) -> tracing::Span {
        let name = self.name.as_deref().map(tracing::field::debug);
        tracing::debug_span!("fuse", op = self.op, unique = self.unique, ino = self.ino, name)
    }
}

/// Runs requests.
#[derive(Debug)]
pub(super) struct Requests {
    runtime: Handle,
    clock: Clock,
    settings: Settings,
    log: Arc<LogBudget>,
}

impl Requests {
    pub(super) fn new(runtime: Handle, clock: Clock, settings: Settings) -> Self {
        let log = Arc::new(LogBudget::new(clock.clone()));
        Self { runtime, clock, settings, log }
    }

    /// Answers a request with what `verb` comes to: on this thread if it comes to something at
    /// once, else from the runtime.
    ///
    /// The first poll is inside the runtime's context, with a waker that wakes nobody. If it is
    /// pending, the same future is polled again by a task of its own, which registers the waker
    /// that counts: nothing can be lost in between, since that poll happens in any case.
    pub(super) fn answer<T: Send + 'static>(
        &self,
        call: Call,
        verb: impl Future<Output = vfs::Result<T>> + Send + 'static,
        send: impl FnOnce(Answer<T>) + Send + 'static,
    ) {
        let patience = call.patience;
        let mut verb = Box::pin(verb.instrument(call.span()));
        let watch = self.watch(call);
        let context = self.runtime.enter();
        match poll_once(verb.as_mut()) {
            Ok(Poll::Ready(result)) => send(watch.judge(result)),
            Err(panic) => send(Err(watch.panicked(panic.as_ref()))),
            Ok(Poll::Pending) => {
                let deadline = self.settings.op_timeout * 2;
                // Should the verb panic, or the runtime go away, the reply is dropped in here and
                // fuser answers EIO for it.
                tokio::spawn(async move {
                    let result = match patience {
                        Patience::WhileItMoves => verb.await,
                        Patience::Bounded => match tokio::time::timeout(deadline, verb).await {
                            Ok(result) => result,
                            Err(_) => Err(vfs::Error::TimedOut),
                        },
                    };
                    send(watch.judge(result));
                });
            }
        }
        drop(context);
    }

    fn watch(&self, call: Call) -> Watch {
        let started = self.clock.now();
        Watch { call, started, clock: self.clock.clone(), log: Arc::clone(&self.log) }
    }
}

type Panic = Box<dyn Any + Send>;

/// The first poll of a verb. A panic in it must not take a FUSE thread along: the mount would go
/// on with one fewer, and the caller would wait for ever.
fn poll_once<F: Future>(verb: Pin<&mut F>) -> Result<Poll<F::Output>, Panic> {
    let mut nobody = Context::from_waker(Waker::noop());
    catch_unwind(AssertUnwindSafe(|| verb.poll(&mut nobody)))
}

/// What is measured and logged of one request.
struct Watch {
    call: Call,
    started: Instant,
    clock: Clock,
    log: Arc<LogBudget>,
}

impl Watch {
    /// Turns a verb's result into what is sent; counts it, and logs a failure.
    fn judge<T>(&self, result: vfs::Result<T>) -> Answer<T> {
        match result {
            Ok(value) => {
                self.count("OK");
                Ok(value)
            }
            Err(error) => {
                let verdict = errno::judge(&error);
                self.count(errno::name(verdict.errno));
                self.tell(&error, verdict);
                Err(verdict.errno)
            }
        }
    }

    fn panicked(&self, panic: &(dyn Any + Send)) -> Errno {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        tracing::error!(op = self.call.op, ino = self.call.ino, panic = text, "a verb panicked");
        self.count("EIO");
        Errno::EIO
    }

    fn count(&self, errno: &'static str) {
        meter::count(self.call.op, errno, self.clock.now() - self.started);
    }

    fn tell(&self, error: &vfs::Error, verdict: errno::Verdict) {
        let level = level(self.call.op, verdict.errno);
        if level == Level::DEBUG {
            let errno = errno::name(verdict.errno);
            tracing::debug!(op = self.call.op, ino = self.call.ino, errno, "{}", Chain(error));
            return;
        }
        let Some(suppressed) = self.log.take() else { return };
        let line = Line { call: &self.call, error, verdict, suppressed };
        let (op, ino, errno) = (self.call.op, self.call.ino, errno::name(verdict.errno));
        if level == Level::WARN {
            tracing::warn!(op, ino, errno, "{line}");
        } else {
            tracing::info!(op, ino, errno, "{line}");
        }
    }
}

/// How loud a failure is. What programs ask for in passing is nobody's news; what a person should
/// act on is a warning. EACCES can only be the store's: the kernel checks permissions itself.
/// ESTALE where the kernel asks again by itself is how a remote replacement is noticed.
fn level(op: &str, errno: Errno) -> Level {
    let asked_again = matches!(op, "lookup" | "open" | "getattr" | "setattr");
    match errno {
        Errno::ESTALE if asked_again => Level::DEBUG,
        Errno::EIO | Errno::ESTALE | Errno::ENOSPC | Errno::EDQUOT | Errno::EACCES => Level::WARN,
        Errno::EPERM | Errno::EFBIG | Errno::EILSEQ | Errno::ENAMETOOLONG | Errno::EROFS => {
            Level::INFO
        }
        _ => Level::DEBUG,
    }
}

/// One line about one failure.
struct Line<'a> {
    call: &'a Call,
    error: &'a vfs::Error,
    verdict: errno::Verdict,
    suppressed: u64,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.call.op)?;
        if let Some(name) = &self.call.name {
            write!(f, " {name:?}")?;
        }
        write!(f, " failed: {}", Chain(self.error))?;
        if !self.verdict.advice.is_empty() {
            write!(f, "; {}", self.verdict.advice)?;
        }
        if self.suppressed > 0 {
            write!(f, " ({} more failures were not logged)", self.suppressed)?;
        }
        Ok(())
    }
}

/// An error and everything beneath it that says something new.
struct Chain<'a>(&'a vfs::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        let mut beneath = StdError::source(self.0);
        while let Some(source) = beneath {
            let more = source.to_string();
            if !said.contains(&more) {
                said = format!("{said}: {more}");
            }
            beneath = source.source();
        }
        f.write_str(&said)
    }
}

/// A token bucket over lines about failures.
#[derive(Debug)]
struct LogBudget {
    clock: Clock,
    state: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
    suppressed: u64,
}

impl LogBudget {
    fn new(clock: Clock) -> Self {
        let state = Bucket { tokens: LOG_BURST, filled: clock.now(), suppressed: 0 };
        Self { clock, state: Mutex::new(state) }
    }

    /// The number of lines that were dropped before this one, if this one may be written.
    fn take(&self) -> Option<u64> {
        let now = self.clock.now();
        let mut bucket = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = now.duration_since(bucket.filled).as_secs_f64() * LOG_PER_SECOND;
        bucket.tokens = (bucket.tokens + grown).min(LOG_BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.tokens -= 1.0;
        Some(std::mem::take(&mut bucket.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn requests(runtime: &tokio::runtime::Runtime) -> Requests {
        let settings = Settings { op_timeout: Duration::from_millis(20), request_max: 1 << 20 };
        Requests::new(runtime.handle().clone(), Clock::system(), settings)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    fn call(patience: Patience) -> Call {
        Call { op: "test", patience, unique: 1, ino: 1, name: None }
    }

    /// Runs `verb` as a request; its answer, and whether this thread sent it.
    fn ask<T: Send + fmt::Debug + 'static>(
        patience: Patience,
        verb: impl Future<Output = vfs::Result<T>> + Send + 'static,
    ) -> (Result<T, Errno>, bool) {
        let runtime = runtime();
        let (sender, receiver) = mpsc::channel();
        requests(&runtime).answer(call(patience), verb, move |answer| {
            sender.send((answer, thread::current().id())).unwrap();
        });
        let (answer, sent_by) = receiver.recv_timeout(Duration::from_secs(30)).unwrap();
        (answer, sent_by == thread::current().id())
    }

    #[test]
    fn an_answer_from_memory_is_sent_by_the_asking_thread() {
        assert_eq!(ask(Patience::Bounded, async { Ok(5) }), (Ok(5), true));
        let failed = ask(Patience::Bounded, async { Err::<(), _>(vfs::Error::NotFound) });
        assert_eq!(failed, (Err(Errno::ENOENT), true));
    }

    #[test]
    fn an_answer_that_takes_time_is_sent_by_the_runtime() {
        let slow = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            tokio::task::yield_now().await;
            Ok(5)
        };
        assert_eq!(ask(Patience::Bounded, slow), (Ok(5), false));
    }

    #[test]
    fn a_wake_up_between_the_two_polls_is_not_lost() {
        for _ in 0..200 {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let waker = thread::spawn(move || sender.send(7).unwrap());
            let verb = async move { receiver.await.map_err(|_| vfs::Error::Invalid) };
            assert_eq!(ask(Patience::WhileItMoves, verb).0, Ok(7));
            waker.join().unwrap();
        }
    }

    #[test]
    fn a_query_that_never_answers_is_given_up() {
        let never = async { std::future::pending::<vfs::Result<()>>().await };
        assert_eq!(ask(Patience::Bounded, never), (Err(Errno::EIO), false));
    }

    #[test]
    fn a_change_is_left_to_its_own_progress() {
        let slow = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(1)
        };
        assert_eq!(ask(Patience::WhileItMoves, slow), (Ok(1), false));
    }

    #[test]
    fn a_panic_is_an_answer_too() {
        let panics = async { panic!("a bug") };
        assert_eq!(ask::<()>(Patience::Bounded, panics), (Err(Errno::EIO), true));
    }

    #[test]
    fn failures_are_logged_at_a_bounded_rate() {
        let clock = Clock::manual();
        let budget = LogBudget::new(clock.clone());
        let written = (0..100).filter(|_| budget.take().is_some()).count();
        assert_eq!(written, 20);
        clock.advance(Duration::from_millis(500));
        assert_eq!(budget.take(), Some(80));
        assert_eq!(budget.take(), None);
    }

    #[test]
    fn what_programs_ask_in_passing_is_quiet() {
        let quiet = [Errno::ENOENT, Errno::ENODATA, Errno::EEXIST, Errno::ENOTEMPTY];
        for errno in quiet {
            assert_eq!(level("lookup", errno), Level::DEBUG, "{errno:?}");
        }
        for errno in [Errno::EIO, Errno::ENOSPC, Errno::EACCES] {
            assert_eq!(level("lookup", errno), Level::WARN, "{errno:?}");
        }
        assert_eq!(level("open", Errno::ESTALE), Level::DEBUG);
        assert_eq!(level("read", Errno::ESTALE), Level::WARN);
    }

    #[test]
    fn a_line_says_which_what_and_what_to_do() {
        use crate::naming::Key;
        use crate::store::{Error, ErrorKind, Operation};
        let error = Error::new(Operation::Put, ErrorKind::Denied)
            .with_key(&Key::from("a/b"))
            .with_request_id(Some("R1"))
            .with_source("AccessDenied by policy")
            .into();
        let call = Call { name: Some("b".into()), ..call(Patience::Bounded) };
        let line =
            Line { call: &call, error: &error, verdict: errno::judge(&error), suppressed: 3 };
        assert_eq!(
            line.to_string(),
            "test \"b\" failed: PutObject a/b: access denied (request R1): AccessDenied by \
             policy; allow it in the identity's or the bucket's policy (3 more failures were not \
             logged)"
        );
    }
}
