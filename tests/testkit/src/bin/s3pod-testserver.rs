//! The test server as a program: for benchmarks, demos and other clients.
//!
//! Prints its endpoint on one line when it is ready and runs until SIGINT or SIGTERM.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use s3pod_testkit::{ServerOptions, TestServer};
use tokio::signal::unix::{SignalKind, signal};

/// An S3 server in memory, correct where it matters to s3pod.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Added to every request: 25ms, 1s.
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = parse_time)]
    latency: Duration,
    /// Bytes a second per connection and direction: 90MB, 64KiB.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    bandwidth_per_connection: Option<u64>,
    /// A bucket to create; may be repeated.
    #[arg(long, value_name = "NAME")]
    bucket: Vec<String>,
    /// The access key to accept.
    #[arg(long, value_name = "KEY", default_value = "s3podtestkey")]
    access_key: String,
    /// The secret of that key.
    #[arg(long, value_name = "SECRET", default_value = "s3podtestsecret")]
    secret_key: String,
    /// Serve unsigned requests too.
    #[arg(long)]
    anonymous: bool,
    /// The region to be in.
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    region: String,
    /// A synthetic object as BUCKET/KEY=SIZE, without the memory; may be repeated.
    #[arg(long, value_name = "OBJECT")]
    synthetic: Vec<String>,
    /// ETags that are no MD5: writes cost a third of the CPU.
    #[arg(long)]
    quick_etags: bool,
    /// The folder for bodies above 1 MiB.
    #[arg(long, value_name = "DIR", default_value = "/tmp")]
    spill: PathBuf,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no time"))?;
    match unit {
        "ms" => Ok(Duration::from_secs_f64(number / 1e3)),
        "s" => Ok(Duration::from_secs_f64(number)),
        "us" => Ok(Duration::from_secs_f64(number / 1e6)),
        _ => Err(format!("{text:?} needs a unit: us, ms or s")),
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no size"))?;
    let factor = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "TB" => 1000 * 1000 * 1000 * 1000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1_u64 << 40,
        _ => return Err(format!("{text:?} has an unknown unit")),
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"))
}

fn add_synthetic(server: &TestServer, text: &str) -> anyhow::Result<()> {
    let wrong = || anyhow::anyhow!("{text:?} is not BUCKET/KEY=SIZE");
    let (path, size) = text.rsplit_once('=').ok_or_else(wrong)?;
    let (bucket, key) = path.split_once('/').ok_or_else(wrong)?;
    let size = parse_bytes(size).map_err(anyhow::Error::msg)?;
    server.bucket(bucket).put_synthetic(key, size, 0);
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new("warn,s3s=off"))
        .init();
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let server = TestServer::start(ServerOptions {
        listen: arguments.listen,
        buckets: arguments.bucket,
        latency: arguments.latency,
        bandwidth_per_connection: arguments.bandwidth_per_connection,
        credentials: (arguments.access_key, arguments.secret_key),
        anonymous: arguments.anonymous,
        region: arguments.region,
        spill: Some(arguments.spill),
        quick_etags: arguments.quick_etags,
        ..ServerOptions::default()
    })
    .await?;
    for object in &arguments.synthetic {
        add_synthetic(&server, object)?;
    }
    writeln!(std::io::stdout(), "{}", server.endpoint())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    server.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_carry_their_units() {
        assert_eq!(parse_time("25ms"), Ok(Duration::from_millis(25)));
        assert_eq!(parse_time("1.5s"), Ok(Duration::from_millis(1500)));
        assert!(parse_time("25").is_err());
        assert_eq!(parse_bytes("90MB"), Ok(90_000_000));
        assert_eq!(parse_bytes("64KiB"), Ok(65_536));
        assert!(parse_bytes("1XB").is_err());
    }
}
