//! The stores that volumes are made in.
//!
//! Owns the table of the controller's configuration, the endpoints that a driver with a folder of
//! its own adds to it, the way to them, and open connections. Promises: a volume's id and the
//! provisioner's Secret are enough to find its store again, since DeleteVolume brings nothing else;
//! a refusal says what the store said. Must not know markers.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use s3pod::clock::Clock;
use s3pod::config::{EndpointUrl, Way};
use s3pod::naming::Prefix;
use s3pod::store::s3::{Credentials, S3Settings, S3Store};
use s3pod::store::{
    Conditional, Error, ErrorKind, Limit, Metered, ObjectStore, Retry, RetryPolicy,
};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::class::Class;
use crate::volume::id::{Hash, is_store_name};
use crate::volume::refusal::{Code, Refusal};
use crate::volume::secret::StoreSecret;

/// Requests to one bucket at once.
const REQUESTS_MAX: u32 = 32;

/// Connections that are kept: each knows what its store can do.
const OPEN_MAX: usize = 64;

/// Of an endpoint's hash, in the name that it is kept under.
const KEPT_DIGITS: usize = 12;

/// A provisioner waits for 60 s; by then it should have an answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Whether a bucket is where it was asked for is not worth more.
const LOOK_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// A line of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    endpoint_url: Option<String>,
    region: Option<String>,
    /// A PEM text, or the path of a file with one.
    ca_bundle: Option<String>,
}

/// By the stores' names.
type Table = BTreeMap<String, Entry>;

/// Where a bucket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The name in the table; none where the Secret says it.
    pub(super) store: Option<String>,
    pub(super) endpoint_url: Option<String>,
    pub(super) region: Option<String>,
    /// Whom the table trusts there, as PEM: whoever mounts needs it too.
    pub(super) ca: Option<String>,
}

/// A bucket that is open.
#[derive(Debug)]
pub(super) struct Bucket {
    /// The bare connection, for making and removing the bucket.
    pub(super) bare: Arc<S3Store>,
    /// The patient one, for everything in it.
    pub(super) store: Arc<dyn ObjectStore>,
    /// What the connection trusts.
    _ca: Option<NamedTempFile>,
}

/// The table, and what is open.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    table: Mutex<Table>,
    /// The file of endpoints that classes alone have named; none where nothing is kept.
    kept: Option<PathBuf>,
    /// How they are reached, whoever's they are.
    way: Way,
    open: Mutex<Vec<(Opened, Arc<Bucket>)>>,
}

/// What a connection was opened with.
#[derive(Debug, PartialEq, Eq)]
struct Opened {
    settings: S3Settings,
    ca: Option<String>,
}

impl Stores {
    /// Reads the table: a JSON object, by the stores' names.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        Self::parse(&text)
    }

    /// Adds what an earlier driver kept in this file, and keeps there what classes say.
    pub(crate) fn keeping(mut self, file: PathBuf) -> Result<Self, String> {
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let mut table = Self::parse(&text)?.into_table();
                table.append(&mut self.table());
                self.table = Mutex::new(table);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.to_string()),
        }
        self.kept = Some(file);
        Ok(self)
    }

    /// The same, reached as the process's environment says.
    pub(crate) fn by(self, way: Way) -> Self {
        Self { way, ..self }
    }

    fn into_table(self) -> Table {
        self.table.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut table: Table = serde_json::from_str(text).map_err(|error| error.to_string())?;
        for (name, entry) in &mut table {
            if !is_store_name(name) {
                return Err(format!("`{name}` is no name: lower-case letters, digits and dashes"));
            }
            if let Some(url) = &mut entry.endpoint_url {
                let plain = url.parse::<EndpointUrl>();
                let plain = plain.map_err(|why| format!("{name}.endpointUrl: {why}"))?;
                plain.as_str().clone_into(url);
            }
            if let Some(bundle) = &entry.ca_bundle {
                let pem = certificates(bundle).map_err(|why| format!("{name}.caBundle: {why}"))?;
                entry.ca_bundle = Some(pem);
            }
        }
        Ok(Self { table: Mutex::new(table), ..Self::default() })
    }

    /// The place that a new volume's class names.
    pub(super) fn of_class(&self, class: &Class, secret: &StoreSecret) -> Result<Place, Refusal> {
        let mut place = match &class.store {
            Some(name) => self.named(name).ok_or_else(|| {
                let reason = format!("`{name}` is not in the controller's table of stores; {}", {
                    self.known()
                });
                Refusal::field("parameters.store", reason)
            })?,
            None => self.unnamed(class.endpoint_url.as_deref(), secret),
        };
        let is_news =
            place.endpoint_url.is_none() || (place.region.is_none() && class.region.is_some());
        if let (Some(file), Some(url), true) = (&self.kept, &class.endpoint_url, is_news) {
            place = self.keep(file, url, class.region.as_deref()).map_err(|error| {
                let reason = format!("{} cannot be written to: {error}", file.display());
                Refusal::new(Code::Internal, reason)
            })?;
        }
        let is_aws = is_aws(place.endpoint_url.as_deref().or(class.endpoint_url.as_deref()));
        for (name, said, known) in [
            ("endpointUrl", &class.endpoint_url, &mut place.endpoint_url),
            ("region", &class.region, &mut place.region),
        ] {
            // AWS itself says where a bucket is, and no other store has to.
            let is_found = said.is_none() || said == known || (name == "region" && is_aws);
            if !is_found {
                return Err(Refusal::field(
                    format!("parameters.{name}"),
                    "nobody will say this again when the volume is deleted; put it into the \
                     provisioner's Secret, or name a store of the controller's table as `store`",
                ));
            }
            if known.is_none() {
                known.clone_from(said);
            }
        }
        Ok(place)
    }

    /// The place that a volume's id names.
    pub(super) fn of_id(
        &self,
        store: Option<&str>,
        secret: &StoreSecret,
    ) -> Result<Place, Refusal> {
        match store {
            None => Ok(self.unnamed(None, secret)),
            Some(name) => self.named(name).ok_or_else(|| {
                let reason = format!(
                    "the volume is in the store `{name}`, which is no longer in the controller's \
                     table of stores; add it again"
                );
                Refusal::new(Code::FailedPrecondition, reason)
            }),
        }
    }

    /// Adds an endpoint to the table, under a name that ids can carry.
    fn keep(&self, file: &Path, url: &str, region: Option<&str>) -> std::io::Result<Place> {
        let name = format!("at-{}", &Hash::of(url).to_string()[..KEPT_DIGITS]);
        let entry = Entry {
            endpoint_url: Some(url.to_owned()),
            region: region.map(str::to_owned),
            ca_bundle: None,
        };
        let mut table = self.table();
        table.insert(name.clone(), entry);
        let text = serde_json::to_vec_pretty(&*table)?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        let mut new = NamedTempFile::new_in(folder)?;
        new.write_all(&text)?;
        new.as_file().sync_data()?;
        new.persist(file).map_err(|error| error.error)?;
        drop(table);
        self.named(&name).ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }

    fn named(&self, name: &str) -> Option<Place> {
        let table = self.table();
        let entry = table.get(name)?;
        Some(Place {
            store: Some(name.to_owned()),
            endpoint_url: entry.endpoint_url.clone(),
            region: entry.region.clone(),
            ca: entry.ca_bundle.clone(),
        })
    }

    /// Where the Secret says, or a line of the table that means the same endpoint.
    fn unnamed(&self, endpoint_url: Option<&str>, secret: &StoreSecret) -> Place {
        let same =
            |entry: &Entry| endpoint_url.is_some() && entry.endpoint_url.as_deref() == endpoint_url;
        let line = self.table().iter().find(|(_, entry)| same(entry)).map(|(name, _)| name.clone());
        if let (None, Some(place)) = (&secret.endpoint_url, line.and_then(|name| self.named(&name)))
        {
            return place;
        }
        Place {
            store: None,
            endpoint_url: secret.endpoint_url.clone(),
            region: secret.region.clone(),
            ca: None,
        }
    }

    fn known(&self) -> String {
        let table = self.table();
        if table.is_empty() {
            return "it is empty".to_owned();
        }
        let names: Vec<&str> = table.keys().map(String::as_str).collect();
        format!("there are {}", names.join(", "))
    }

    /// Opens a bucket as whoever the Secret names, or as the controller.
    pub(super) async fn open(
        &self,
        place: &Place,
        bucket: &str,
        secret: &StoreSecret,
    ) -> Result<Arc<Bucket>, Refusal> {
        let proxy = self.way.proxies.towards(place.endpoint_url.as_deref());
        let settings = S3Settings {
            endpoint_url: place.endpoint_url.clone(),
            region: place.region.clone(),
            force_path_style: !is_aws(place.endpoint_url.as_deref()),
            credentials: secret.keys.as_ref().map(|keys| Credentials {
                access_key_id: keys.access_key_id.expose().to_owned(),
                secret_access_key: keys.secret_access_key.expose().to_owned(),
                session_token: keys.session_token.as_ref().map(|token| token.expose().to_owned()),
            }),
            proxy: proxy.map(|url| url.expose().to_owned()),
            no_proxy: Some(self.way.proxies.bypass.clone()).filter(|hosts| !hosts.is_empty()),
            ..S3Settings::new(bucket)
        };
        let opened = Opened { settings, ca: secret.ca.clone().or_else(|| place.ca.clone()) };
        if let Some(known) = self.known_bucket(&opened) {
            return Ok(known);
        }
        let bucket = Arc::new(self.connect_where_it_is(&opened).await?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN_MAX {
            open.remove(0);
        }
        open.push((opened, Arc::clone(&bucket)));
        Ok(bucket)
    }

    /// Where nobody says the region, the store may: a class said it when the bucket's volume was
    /// made, and says nothing when it is deleted.
    async fn connect_where_it_is(&self, opened: &Opened) -> Result<Bucket, Refusal> {
        let bucket = self.connect(opened).await?;
        if opened.settings.region.is_some() {
            return Ok(bucket);
        }
        let asked = tokio::time::timeout(LOOK_PATIENCE, bucket.bare.probe("")).await;
        let Ok(Err(error)) = asked else { return Ok(bucket) };
        let ErrorKind::WrongRegion(Some(region)) = error.kind() else { return Ok(bucket) };
        let settings = S3Settings { region: Some(region.clone()), ..opened.settings.clone() };
        self.connect(&Opened { settings, ca: opened.ca.clone() }).await
    }

    async fn connect(&self, opened: &Opened) -> Result<Bucket, Refusal> {
        let unusable = |reason: String| Refusal::new(Code::FailedPrecondition, reason);
        let (ca_bundle, kept) = match (&opened.ca, &self.way.ca_bundle) {
            (None, ca_bundle) => (ca_bundle.clone(), None),
            (Some(pem), others) => {
                let file = written(pem, others.as_deref()).map_err(unusable)?;
                (Some(file.path().to_owned()), Some(file))
            }
        };
        let settings = S3Settings { ca_bundle, ..opened.settings.clone() };
        let bare = S3Store::connect(settings).await.map_err(|error| unusable(error.to_string()))?;
        let bare = Arc::new(bare);
        let clock = Clock::system();
        let policy = RetryPolicy { op_timeout: PATIENCE, ..RetryPolicy::default() };
        let limited = Limit::new(Metered::new(Arc::clone(&bare)), REQUESTS_MAX);
        let patient = Retry::new(limited, policy, clock);
        // What is asked with lies where mounts do not look.
        let store = Conditional::new(patient, Prefix::from_user(".s3pod"));
        Ok(Bucket { bare, store: Arc::new(store), _ca: kept })
    }

    fn known_bucket(&self, opened: &Opened) -> Option<Arc<Bucket>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().find(|(known, _)| known == opened).map(|(_, bucket)| Arc::clone(bucket))
    }
}

/// No endpoint is Amazon's.
fn is_aws(endpoint_url: Option<&str>) -> bool {
    endpoint_url.is_none_or(|url| url.parse::<EndpointUrl>().is_ok_and(|url| url.is_aws()))
}

/// Certificates as they stand in the table, or in the file that it names.
fn certificates(bundle: &str) -> Result<String, String> {
    if bundle.contains("-----BEGIN") {
        return Ok(bundle.to_owned());
    }
    std::fs::read_to_string(bundle).map_err(|error| {
        format!("`{bundle}` is no PEM text, and no file that can be read: {error}")
    })
}

/// A volume's own authorities, and those of the process behind them.
fn written(pem: &str, others: Option<&Path>) -> Result<NamedTempFile, String> {
    let unreadable = |path: &Path, error| format!("{} cannot be read: {error}", path.display());
    let others = others.map(|path| std::fs::read(path).map_err(|error| unreadable(path, error)));
    let others = others.transpose()?.unwrap_or_default();
    let write = || {
        let mut file = NamedTempFile::new()?;
        file.write_all(&[pem.as_bytes(), others.as_slice()].join(&b'\n'))?;
        Ok(file)
    };
    write().map_err(|error: std::io::Error| {
        format!("the authorities cannot be written to a temporary file: {error}")
    })
}

/// What a failure of the store is to who called.
pub(super) fn refusal(error: &Error) -> Refusal {
    let code = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NoSuchBucket => Code::NotFound,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::Unauthenticated(_) => Code::Unauthenticated,
        ErrorKind::Changed | ErrorKind::Conflict => Code::Aborted,
        ErrorKind::Throttled
        | ErrorKind::Unavailable
        | ErrorKind::Timeout
        | ErrorKind::Connection(_)
        | ErrorKind::Damaged(_) => Code::Unavailable,
        ErrorKind::WrongRegion(_) | ErrorKind::NotS3(_) | ErrorKind::Tls(_) => {
            Code::FailedPrecondition
        }
        _ => Code::Internal,
    };
    let fix = match error.kind() {
        ErrorKind::Denied => "; allow this to the keys of the provisioner's Secret",
        ErrorKind::Unauthenticated(_) => "; look at the provisioner's Secret",
        ErrorKind::Changed | ErrorKind::Conflict => "; somebody else was quicker, so try again",
        ErrorKind::WrongRegion(_) => "; name that region",
        ErrorKind::NotS3(_) => "; look at endpointUrl",
        _ => "",
    };
    Refusal::new(code, format!("the store refused {error}{fix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r#"{"minio": {"endpointUrl": "http://minio:9000", "region": "home"}}"#;

    fn class(store: Option<&str>, endpoint_url: Option<&str>) -> Class {
        let said = [("store", store), ("endpointUrl", endpoint_url), ("bucket", Some("data"))];
        let said = said.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let map = said.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Class::read("pvc-1", &map, &[]).unwrap()
    }

    #[test]
    fn a_table_is_read_or_refused_by_its_line() {
        assert!(Stores::parse(TABLE).is_ok());
        for (text, words) in [
            ("[]", "invalid type"),
            (r#"{"My Store": {}}"#, "`My Store`"),
            (r#"{"a": {"endpointUrl": "minio"}}"#, "a.endpointUrl"),
            (r#"{"a": {"caBundle": "/no/such.pem"}}"#, "a.caBundle: `/no/such.pem`"),
            (r#"{"a": {"endpoint": "x"}}"#, "endpoint"),
        ] {
            let said = Stores::parse(text).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_driver_with_a_folder_keeps_what_a_class_alone_has_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("stores.json");
        let start = || Stores::parse(TABLE).unwrap().keeping(file.clone()).unwrap();
        let none = StoreSecret::default();
        let class = class(None, Some("http://other:9000"));
        let made = start().of_class(&class, &none).unwrap();
        let name = made.store.clone().unwrap();
        assert!(is_store_name(&name), "{name}");
        assert_eq!(made.endpoint_url.as_deref(), Some("http://other:9000"));
        // The next driver, too, and for another volume of the class.
        assert_eq!(start().of_id(Some(&name), &none), Ok(made.clone()));
        assert_eq!(start().of_class(&class, &none), Ok(made));
        assert!(start().of_id(Some("minio"), &none).is_ok());
    }

    #[test]
    fn a_volumes_store_can_be_found_again_or_the_volume_is_not_made() {
        let stores = Stores::parse(TABLE).unwrap();
        let none = StoreSecret::default();
        let with = |url: &str| StoreSecret {
            endpoint_url: Some(url.to_owned()),
            ..StoreSecret::default()
        };
        let named = stores.of_class(&class(Some("minio"), None), &none).unwrap();
        assert_eq!(named.endpoint_url.as_deref(), Some("http://minio:9000"));
        assert_eq!(stores.of_id(Some("minio"), &none), Ok(named.clone()));
        for (line, said) in [("", "/"), ("/", ""), ("/", "/"), ("", "")] {
            let table = TABLE.replace(":9000", &format!(":9000{line}"));
            let class = class(None, Some(&format!("http://minio:9000{said}")));
            let known = Stores::parse(&table).unwrap().of_class(&class, &none);
            assert_eq!(known, Ok(named.clone()), "the table has that endpoint: {line:?} {said:?}");
        }
        let secret = with("http://other:9000");
        let by_secret = stores.of_class(&class(None, None), &secret).unwrap();
        assert_eq!(by_secret.store, None);
        assert_eq!(stores.of_id(None, &secret), Ok(by_secret));
        let lost = stores.of_class(&class(None, Some("http://other:9000")), &none).unwrap_err();
        assert!(lost.message.starts_with("parameters.endpointUrl: "), "{lost}");
        let unknown = stores.of_class(&class(Some("ceph"), None), &none).unwrap_err();
        assert!(unknown.message.contains("there are minio"), "{unknown}");
        let gone = stores.of_id(Some("ceph"), &none).unwrap_err();
        assert_eq!(gone.code, Code::FailedPrecondition);
    }
}
