//! What a call is answered: its work's result, or a refusal in the words of the wire.
//!
//! Owns the task that the work runs on, and the line in the log about a refusal. Promises: a call
//! that its caller gives up goes on to its end, so that the next one finds it done; every line
//! names the volume. Must not know what the work is.

use std::future::Future;

use tonic::{Response, Status};

use crate::volume::refusal::{Code, Refusal};

/// What a call is and whose, for the log.
#[derive(Clone, Debug)]
pub(super) struct Call {
    name: &'static str,
    volume: String,
}

impl Call {
    /// A call about a volume, by its id, or by its name where it has none yet.
    pub(super) fn new(name: &'static str, volume: &str) -> Self {
        Self { name, volume: volume.to_owned() }
    }

    /// Does its work in a task of its own: where the caller hangs up, the call's future is dropped.
    pub(super) async fn finish<T: Send + 'static>(
        self,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        match tokio::spawn(work).await {
            Ok(Ok(done)) => Ok(Response::new(done)),
            Ok(Err(refusal)) => Err(self.refuse(&refusal)),
            Err(error) => {
                Err(Status::internal(format!("{}: the driver failed: {error}", self.name)))
            }
        }
    }

    /// The refusal on the wire, and in the log: an event shows only the last one.
    fn refuse(&self, refusal: &Refusal) -> Status {
        let Self { name: call, volume } = self;
        // What comes with every race of calls is nobody's trouble.
        if refusal.code == Code::Aborted {
            tracing::debug!(call, volume, code = ?refusal.code, why = refusal.message, "refused");
        } else {
            tracing::warn!(call, volume, code = ?refusal.code, why = refusal.message, "refused");
        }
        Status::new(tonic::Code::from_i32(refusal.code as i32), refusal.message.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits_for_it_and_a_refusal_keeps_its_code() {
        let (go, told) = tokio::sync::oneshot::channel::<()>();
        let (done, is_done) = tokio::sync::oneshot::channel();
        let call = Call::new("NodePublishVolume", "v").finish(async move {
            let _ = told.await;
            let _ = done.send(());
            Ok(())
        });
        let waited = tokio::time::timeout(std::time::Duration::from_millis(10), call).await;
        assert!(waited.is_err(), "the caller has hung up");
        go.send(()).unwrap();
        is_done.await.unwrap();
        let refusal = Refusal::new(Code::FailedPrecondition, "why");
        let answer = Call::new("DeleteVolume", "v").finish::<()>(async { Err(refusal) }).await;
        let status = answer.unwrap_err();
        assert_eq!((status.code(), status.message()), (tonic::Code::FailedPrecondition, "why"));
    }
}
