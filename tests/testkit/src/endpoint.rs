//! What a client needs to reach a bucket, whichever server holds it.

use crate::seaweedfs::SeaweedFs;
use crate::server::{ServerOptions, TestServer};

/// A bucket on some server, so that a suite can run on each.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Endpoint {
    /// `http://host:port`
    pub endpoint: String,
    /// The access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The region to sign for.
    pub region: String,
    /// The bucket.
    pub bucket: String,
}

impl std::fmt::Debug for S3Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Endpoint")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

impl S3Endpoint {
    /// The environment in which AWS clients find these credentials and no others.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ACCESS_KEY_ID", self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
        ]
    }
}

/// Either server, for suites that run on both.
#[derive(Debug)]
pub enum Server {
    /// The one in-process.
    Ours(Box<TestServer>),
    /// SeaweedFS.
    Seaweed(SeaweedFs),
}

impl Server {
    /// Ours, on a thread of its own.
    pub fn ours() -> anyhow::Result<Self> {
        Ok(Self::Ours(Box::new(TestServer::try_spawn(ServerOptions::default())?)))
    }

    /// SeaweedFS.
    pub fn seaweed() -> anyhow::Result<Self> {
        SeaweedFs::spawn().map(Self::Seaweed)
    }

    /// What to call it in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => "ours",
            Self::Seaweed(_) => "seaweedfs",
        }
    }

    /// All a client needs to reach `bucket`, which is created if it is not there.
    pub fn s3_endpoint(&self, bucket: &str) -> anyhow::Result<S3Endpoint> {
        match self {
            Self::Ours(server) => Ok(server.s3_endpoint(bucket)),
            Self::Seaweed(server) => server.s3_endpoint(bucket),
        }
    }
}
