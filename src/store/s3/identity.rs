//! Credentials that are read anew while a mount runs.
//!
//! Owns when that happens. The SDK reads a file of credentials once and keeps what has no end for
//! ever; in a pod such a file is a Secret that may be rotated. So what has no end gets one, after
//! which the sources are looked at again: a file of 1 KiB now and then. Promises: what cannot be
//! read leaves the old credentials in place, with one line in the log. Must not know where
//! credentials come from.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use tokio::sync::Mutex;

use crate::clock::Clock;

/// How long credentials without an end are believed. The SDK asks again up to 10 s before, and a
/// kubelet brings a changed Secret within a minute or so.
const BELIEVED: Duration = Duration::from_secs(20);

/// Where credentials come from.
#[derive(Debug)]
pub(super) struct Source {
    /// A profile by its name; none is the SDK's chain, or the file's `default`.
    pub(super) profile: Option<String>,
    /// The one file to look into; none are the usual ones.
    pub(super) file: Option<PathBuf>,
    /// Whom STS and SSO are asked in: they need some region.
    pub(super) region: Region,
    /// By which way.
    pub(super) http: SharedHttpClient,
}

impl Source {
    async fn provider(&self) -> SharedCredentialsProvider {
        // A new one each time: it keeps the files that were read.
        let config = ProviderConfig::without_region()
            .with_http_client(self.http.clone())
            .with_region(Some(self.region.clone()));
        if self.profile.is_none() && self.file.is_none() {
            let chain = DefaultCredentialsChain::builder().configure(config);
            return SharedCredentialsProvider::new(chain.region(self.region.clone()).build().await);
        }
        let mut profile = ProfileFileCredentialsProvider::builder();
        if let Some(file) = &self.file {
            let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file);
            // Named, so that AWS_PROFILE does not choose another section.
            profile = profile.profile_files(files.build()).profile_name("default");
        }
        if let Some(name) = &self.profile {
            profile = profile.profile_name(name);
        }
        SharedCredentialsProvider::new(profile.configure(&config).build())
    }

    /// A profile is told by its name where it holds nothing.
    fn explain(&self, error: CredentialsError) -> CredentialsError {
        if !matches!(error, CredentialsError::CredentialsNotLoaded(_)) {
            return error;
        }
        let place = self.file.as_ref().map(|path| format!(" in {}", path.display()));
        match (&self.profile, place) {
            (None, None) => error,
            (name, place) => CredentialsError::not_loaded(format!(
                "the profile `{}`{} does not exist or holds none",
                name.as_deref().unwrap_or("default"),
                place.unwrap_or_default()
            )),
        }
    }
}

/// The credentials of a source, read anew.
#[derive(Debug)]
pub(super) struct Identity {
    source: Source,
    clock: Clock,
    state: Mutex<State>,
    is_failing: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Kept where its credentials have an end of their own: it renews them, and has caches.
    provider: Option<SharedCredentialsProvider>,
    /// The last that had no end.
    endless: Option<Credentials>,
}

impl Identity {
    pub(super) fn new(source: Source) -> Self {
        let (clock, state) = (Clock::system(), Mutex::default());
        Self { source, clock, state, is_failing: AtomicBool::new(false) }
    }

    async fn credentials(&self) -> provider::Result {
        let mut state = self.state.lock().await;
        let provider = match state.provider.take() {
            Some(provider) => provider,
            None => self.source.provider().await,
        };
        match provider.provide_credentials().await {
            Ok(credentials) => {
                self.is_failing.store(false, Ordering::Relaxed);
                if credentials.expiry().is_some() {
                    *state = State { provider: Some(provider), endless: None };
                    return Ok(credentials);
                }
                state.endless = Some(credentials.clone());
                Ok(self.for_a_while(credentials))
            }
            Err(error) => {
                let error = self.source.explain(error);
                let Some(old) = state.endless.clone() else { return Err(error) };
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "credentials cannot be read anew; the old ones stay");
                }
                Ok(self.for_a_while(old))
            }
        }
    }

    fn for_a_while(&self, mut credentials: Credentials) -> Credentials {
        *credentials.expiry_mut() = Some(self.clock.wall() + BELIEVED);
        credentials
    }
}

impl ProvideCredentials for Identity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}
