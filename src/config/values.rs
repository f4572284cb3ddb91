//! The values options take, and how they are read.
//!
//! Owns the types that stand for one choice or one checked text, each with its `FromStr`.
//! Promises: an error is a sentence that names the value and what to write instead; none repeats
//! a password. Must not know which option a value belongs to, nor the machine.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use crate::naming::{MAX_KEY_BYTES, Prefix};
use crate::telemetry::Secret;
use crate::units::{ByteSize, parse_duration};

/// What stands for `indefinite`: a hundred years, longer than any mount, and short enough to be
/// added to the time of day without overflow.
pub const INDEFINITE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$word_doc])* $word,)+
        }

        impl $name {
            /// The value as it is written.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$word => $text,)+ }
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$word),)+
                    _ => Err(format!("`{text}` is not one of {}", [$($text),+].join(", "))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Where attributes come from: `--metadata`.
    MetadataMode {
        /// From object metadata: mode, owner, mtime and symlinks are real.
        Posix = "posix",
        /// From listings alone: cheap, and chmod and symlinks are refused.
        List = "list",
    }
}

words! {
    /// When `O_EXCL` is decided: `--exclusive-create`.
    ExclusiveCreate {
        /// At the first commit, without a request of its own.
        Commit = "commit",
        /// At open(), by a conditional PUT.
        Open = "open",
    }
}

words! {
    /// When the object of an unlinked file goes: `--delete`.
    DeleteMode {
        /// Before unlink() returns.
        Sync = "sync",
        /// Soon after, many in one request.
        Queue = "queue",
    }
}

words! {
    /// Which uploads carry a checksum: `--checksums`.
    Checksums {
        /// All on AWS; elsewhere all until the store refuses one.
        Auto = "auto",
        /// All.
        Always = "always",
        /// Those for which the API demands one.
        WhenRequired = "when-required",
    }
}

words! {
    /// Server-side encryption: `--sse`.
    Sse {
        /// Keys that S3 manages.
        Aes256 = "AES256",
        /// Keys in KMS.
        Kms = "aws:kms",
        /// Keys in KMS, two layers.
        KmsDsse = "aws:kms:dsse",
    }
}

/// Where cache and staging live: `--cache-dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheDir {
    /// Nowhere: everything is kept in memory.
    None,
    /// In this folder.
    At(std::path::PathBuf),
}

impl FromStr for CacheDir {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err("the folder's name is empty; write a path or `none`".to_owned()),
            "none" => Ok(Self::None),
            path => Ok(Self::At(path.into())),
        }
    }
}

/// An endpoint: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUrl(String);

impl EndpointUrl {
    /// The URL as text, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host, without port; an IPv6 address in its brackets.
    pub fn host(&self) -> &str {
        split_url(&self.0).map_or("", |url| url.host())
    }

    /// True where the host is one of AWS's own.
    pub fn is_aws(&self) -> bool {
        let host = self.host();
        [".amazonaws.com", ".amazonaws.com.cn"].iter().any(|domain| host.ends_with(domain))
    }
}

impl FromStr for EndpointUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = split_url(text).ok_or_else(|| {
            format!("`{text}` is not a URL; write http://HOST:PORT or https://HOST")
        })?;
        if url.userinfo.is_some() {
            return Err("credentials do not belong into the URL; put them into \
                 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or into a profile"
                .to_owned());
        }
        if !url.path.is_empty() {
            return Err(format!(
                "`{text}` has a path; write scheme, host and port alone (the bucket is an \
                 argument of its own)"
            ));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

/// A proxy's URL. It may carry a password, so it is only shown without one.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    whole: Secret,
    shown: String,
    has_password: bool,
}

impl ProxyUrl {
    /// The URL with its password, for the connector alone.
    pub fn expose(&self) -> &str {
        self.whole.expose()
    }

    /// True where the URL carries credentials.
    pub const fn has_password(&self) -> bool {
        self.has_password
    }
}

impl FromStr for ProxyUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // curl and others take a bare host:port for http.
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let Some(url) = split_url(&whole) else {
            return Err("not a proxy's URL; write http://HOST:PORT".to_owned());
        };
        let shown = format!("{}://{}", url.scheme, url.authority);
        let has_password = url.userinfo.is_some();
        Ok(Self { shown, has_password, whole: Secret::new(whole) })
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

struct Url<'t> {
    scheme: &'t str,
    userinfo: Option<&'t str>,
    authority: &'t str,
    path: &'t str,
}

impl<'t> Url<'t> {
    fn host(&self) -> &'t str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => self.authority,
        }
    }
}

/// Takes an http(s) URL apart; none where it is not one.
fn split_url(text: &str) -> Option<Url<'_>> {
    let (scheme, rest) = text.split_once("://")?;
    if !matches!(scheme, "http" | "https") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (userinfo, authority) = match authority.rsplit_once('@') {
        Some((userinfo, authority)) => (Some(userinfo), authority),
        None => (None, authority),
    };
    let url = Url { scheme, userinfo, authority, path: path.trim_end_matches('/') };
    let port = url.authority.strip_prefix(url.host())?.strip_prefix(':');
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let host = url.host();
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    let is_host = !host.is_empty()
        && (is_bracketed || !host.contains(':'))
        && !host.contains(|c: char| c.is_whitespace() || c.is_control());
    (is_port && is_host).then_some(url)
}

/// `true` or `false`, as people write it in the environment and behind `-o`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// Permission bits in octal.
pub(super) fn mode(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u16::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("`{text}` is not a mode; write it in octal, like 0644"))
}

/// A user's or a group's number.
pub(super) fn id(text: &str) -> Result<u32, String> {
    // 2^32 - 1 is chown(2)'s "leave it as it is".
    text.parse()
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| format!("`{text}` is not a numeric id; `id -u NAME` prints a user's"))
}

/// A length of time, or `indefinite`.
pub(super) fn ttl(text: &str) -> Result<Duration, String> {
    if text == "indefinite" {
        return Ok(INDEFINITE);
    }
    parse_duration(text).map(|ttl| ttl.min(INDEFINITE))
}

/// A length of time between two bounds, in seconds.
pub(super) fn seconds_within(text: &str, least: u64, most: u64) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < Duration::from_secs(least) || duration > Duration::from_secs(most) {
        return Err(format!("`{text}` is not between {least} s and {most} s"));
    }
    Ok(duration)
}

/// A value of a type that reads itself.
pub(super) fn parsed<T: FromStr<Err = String>>(text: &str) -> Result<Option<T>, String> {
    text.parse().map(Some)
}

/// A size between two bounds.
pub(super) fn size_within(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let ByteSize(bytes) = text.parse()?;
    if bytes < least || bytes > most {
        return Err(format!("`{text}` is not between {} and {}", ByteSize(least), ByteSize(most)));
    }
    Ok(bytes)
}

/// A whole number between two bounds.
pub(super) fn count_within(text: &str, least: u32, most: u32) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|count| (least..=most).contains(count))
        .ok_or_else(|| format!("`{text}` is not a whole number from {least} to {most}"))
}

/// A word without spaces or control characters.
pub(super) fn word(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("the value is empty".to_owned());
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("{text:?} has a space or a control character in it"));
    }
    Ok(text.to_owned())
}

/// Where to listen: an address and a port, or a port of every address.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let of_all = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let address = text.parse().ok().or_else(|| text.parse().ok().map(of_all));
    address.filter(|address| address.port() != 0).ok_or_else(|| {
        format!("`{text}` is neither a port like 9808 nor an address with one like 127.0.0.1:9808")
    })
}

/// The path of a file.
pub(super) fn path(text: &str) -> Result<std::path::PathBuf, String> {
    if text.is_empty() { Err("the path is empty".to_owned()) } else { Ok(text.into()) }
}

/// A prefix of keys.
pub(super) fn prefix(text: &str) -> Result<Prefix, String> {
    let prefix = Prefix::from_user(text);
    if prefix.as_str().len() > MAX_KEY_BYTES {
        return Err(format!("the prefix is longer than a key may be ({MAX_KEY_BYTES} bytes)"));
    }
    Ok(prefix)
}

/// A bucket's name or an access point's ARN. Stores differ in what they take, so only what none
/// takes is refused.
pub(super) fn bucket(text: &str) -> Result<String, String> {
    let foreign = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if text.is_empty() {
        return Err("the bucket's name is empty".to_owned());
    }
    if text.starts_with("arn:") {
        return word(text);
    }
    if text.contains('/') {
        return Err(format!("`{text}` is not a bucket's name; write s3://BUCKET/PREFIX"));
    }
    // 63 is today's limit; 255 was that of us-east-1 before 2018.
    if text.len() > 255 || text.contains(foreign) || text.starts_with('-') {
        return Err(format!(
            "{text:?} is not a bucket's name; it has letters, digits, dots and dashes"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_every_address() {
        assert_eq!(listen_address("9808").unwrap().to_string(), "[::]:9808");
        assert_eq!(listen_address("127.0.0.1:80").unwrap().to_string(), "127.0.0.1:80");
        for text in ["", "0", "70000", "localhost", "127.0.0.1", "127.0.0.1:0"] {
            assert!(listen_address(text).unwrap_err().contains("9808"), "{text}");
        }
    }

    #[test]
    fn an_endpoint_is_scheme_host_and_port() {
        for (text, host) in [
            ("http://127.0.0.1:9000", "127.0.0.1"),
            ("https://minio.example.com/", "minio.example.com"),
            ("http://[::1]:9000", "[::1]"),
            ("http://[::1]", "[::1]"),
        ] {
            assert_eq!(text.parse::<EndpointUrl>().unwrap().host(), host, "{text}");
        }
        for text in ["127.0.0.1:9000", "ftp://a", "http://", "http://a/bucket", "http://a:x", ""] {
            assert!(text.parse::<EndpointUrl>().is_err(), "{text}");
        }
        let aws: EndpointUrl = "https://s3.eu-west-1.amazonaws.com".parse().unwrap();
        assert!(aws.is_aws());
        assert!(!"https://amazonaws.com.example.org".parse::<EndpointUrl>().unwrap().is_aws());
    }

    #[test]
    fn a_password_in_a_url_is_never_shown() {
        let refused = "https://me:hunter2@host".parse::<EndpointUrl>().unwrap_err();
        assert!(!refused.contains("hunter2"), "{refused}");
        let proxy: ProxyUrl = "http://me:hunter2@proxy:3128".parse().unwrap();
        assert!(proxy.has_password());
        assert_eq!(proxy.expose(), "http://me:hunter2@proxy:3128");
        assert_eq!(format!("{proxy} {proxy:?}"), "http://proxy:3128 http://proxy:3128");
        let refused = "socks5://me:hunter2@host".parse::<ProxyUrl>().unwrap_err();
        assert!(!refused.contains("hunter2"), "{refused}");
        assert_eq!("proxy:3128".parse::<ProxyUrl>().unwrap().expose(), "http://proxy:3128");
    }

    #[test]
    fn modes_ids_and_lifetimes_are_read_as_people_write_them() {
        assert_eq!(mode("0644"), Ok(0o644));
        assert_eq!(mode("2775"), Ok(0o2775));
        assert!(mode("0999").is_err() && mode("10000").is_err() && mode("rwx").is_err());
        assert_eq!(id("1000"), Ok(1000));
        assert!(id("root").is_err() && id("-1").is_err() && id("4294967295").is_err());
        assert_eq!(ttl("indefinite"), Ok(INDEFINITE));
        assert_eq!(ttl("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(ttl("18446744073709551615"), Ok(INDEFINITE));
    }

    #[test]
    fn a_bucket_is_a_name_and_nothing_else() {
        let access_point = "arn:aws:s3:eu-west-1:123456789012:accesspoint/team-a";
        for text in ["logs", "my.bucket-1", "Old_Bucket", access_point] {
            assert!(bucket(text).is_ok(), "{text}");
        }
        for text in ["", "a/b", "a b", "-a", "a:b"] {
            assert!(bucket(text).is_err(), "{text}");
        }
    }
}
