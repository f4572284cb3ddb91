//! What the SDK alone reaches: the same bytes in the same requests, into nothing.
//!
//! Owns the measure that a mount is compared with. It is a process of its own, so that its CPU
//! time is its own. Must not know the mount.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, ResponseChecksumValidation};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

/// A key and, where not all of it is wanted, the range.
pub(crate) type Get = (String, Option<(u64, u64)>);

/// What to fetch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) endpoint: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) bucket: String,
    pub(crate) gets: Vec<Get>,
    /// At once.
    pub(crate) parallel: usize,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
}

/// Fetches what the plan on standard input says, and prints what was measured.
pub(crate) fn run() -> anyhow::Result<()> {
    let plan: Plan = serde_json::from_reader(std::io::stdin()).context("the plan")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = runtime.block_on(fetch(plan))?;
    serde_json::to_writer(std::io::stdout(), &measured)?;
    Ok(())
}

async fn fetch(plan: Plan) -> anyhow::Result<Measured> {
    let pair = (plan.access_key.as_str(), plan.secret_key.as_str());
    let credentials = Credentials::new(pair.0, pair.1, None, None, "plan");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(credentials)
        .region(Region::new("us-east-1"))
        .endpoint_url(&plan.endpoint)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(true)
        .build();
    let client = Client::from_conf(config);
    let bucket: Arc<str> = plan.bucket.as_str().into();
    let (started, before) = (now(), cpu()?);
    let gets = plan.gets.into_iter().map(|one| {
        let (client, bucket) = (client.clone(), Arc::clone(&bucket));
        async move { tokio::spawn(get(client, bucket, one)).await? }
    });
    let bytes = futures::stream::iter(gets)
        .buffered(plan.parallel)
        .try_fold(0, |sum, bytes| async move { anyhow::Ok(sum + bytes) })
        .await?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(Measured { bytes, seconds, cpu_seconds: (cpu()? - before).as_secs_f64() })
}

async fn get(client: Client, bucket: Arc<str>, (key, range): Get) -> anyhow::Result<u64> {
    let range = range.map(|(start, end)| format!("bytes={start}-{}", end - 1));
    let request = client.get_object().bucket(&*bucket).key(key).set_range(range);
    let mut body = request.send().await?.body;
    let mut bytes = 0;
    while let Some(frame) = body.try_next().await? {
        bytes += frame.len() as u64;
    }
    Ok(bytes)
}

fn cpu() -> anyhow::Result<Duration> {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::{TimeVal, TimeValLike};
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: TimeVal| time.num_microseconds();
    let micros = micros(usage.user_time()) + micros(usage.system_time());
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures the machine's own time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
