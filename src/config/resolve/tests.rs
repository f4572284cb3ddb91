//! What follows from what.

use super::*;
use crate::config::{EndpointUrl, INDEFINITE, Sse};
use crate::telemetry::{LogFormat, LogLevel};

/// What `mount photos /mnt -o LIST` asks for.
fn asked(list: &str) -> MountArguments {
    let mut options = Options::default();
    for (option, value) in crate::config::parse_mount_options([list]).unwrap() {
        options.set(option, &value).unwrap();
    }
    MountArguments { bucket: "photos".to_owned(), directory: PathBuf::from("/mnt"), options }
}

fn host() -> Host {
    Host { uid: 1000, gid: 100, ..Host::default() }
}

/// Resolved without a folder, so that no test writes outside its own.
fn resolved(list: &str, host: &Host) -> Result<Config, Error> {
    Config::resolve(asked(&format!("cache-dir=none,{list}")), host)
}

fn refusal(list: &str, host: &Host) -> String {
    resolved(list, host).unwrap_err().to_string()
}

#[test]
fn nothing_asked_for_gives_the_documented_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let list = format!("cache-dir={}", folder.path().display());
    let config = Config::resolve(asked(&list), &host()).unwrap();
    assert_eq!((config.bucket.as_str(), &config.prefix), ("photos", &Prefix::root()));
    assert_eq!(config.metadata, MetadataMode::Posix);
    assert_eq!(config.metadata_ttl, Duration::from_secs(1));
    assert_eq!(config.attr_delay, Duration::from_secs(1));
    assert_eq!(config.exclusive_create, ExclusiveCreate::Commit);
    assert_eq!(config.delete, DeleteMode::Queue);
    assert_eq!((config.uid, config.gid), (1000, 100));
    assert_eq!((config.dir_mode, config.file_mode), (0o755, 0o644));
    assert_eq!(config.memory_limit, 192 * MIB);
    assert_eq!(config.op_timeout, Duration::from_secs(60));
    assert_eq!((config.s3.max_requests, config.upload.part_size), (64, 8 * MIB));
    assert_eq!(config.upload.checksums, Checksums::Auto);
    assert!(!config.s3.force_path_style);
    assert_eq!(config.cache_dir, Some(folder.path().canonicalize().unwrap()));
    assert!(config.staging_size > 0);
    // A quarter and a twentieth of the same file system.
    assert!(config.cache_size > 0 && config.cache_min_free.abs_diff(config.cache_size / 5) <= 1);
    assert!(config.notices.is_empty());
    assert_eq!(config.log, LogSettings::default());
}

#[test]
fn what_the_table_says_of_plain_defaults_is_what_resolve_does() {
    let config = resolved("", &host()).unwrap();
    for (flag, resolved) in [
        ("dir-mode", format!("{:04o}", config.dir_mode)),
        ("file-mode", format!("{:04o}", config.file_mode)),
        ("part-size", ByteSize(config.upload.part_size).to_string()),
        ("op-timeout", format!("{:?}", config.op_timeout)),
        ("max-requests", config.s3.max_requests.to_string()),
        ("exclusive-create", config.exclusive_create.to_string()),
    ] {
        assert_eq!(crate::config::find(flag).unwrap().default, resolved, "{flag}");
    }
}

#[test]
fn read_only_lists_and_says_so_unless_told() {
    let config = resolved("ro", &host()).unwrap();
    assert_eq!(config.metadata, MetadataMode::List);
    assert_eq!(config.metadata_ttl, Duration::from_secs(60));
    assert!(config.notices.iter().any(|line| line.contains("--metadata posix")));
    let config = resolved("ro,metadata=posix,metadata-ttl=indefinite", &host()).unwrap();
    assert_eq!((config.metadata, config.metadata_ttl), (MetadataMode::Posix, INDEFINITE));
    assert!(config.notices.is_empty());
}

#[test]
fn the_command_line_wins_over_the_environment() {
    let mut host = Host::with_environment([
        ("S3POD_UID", "7"),
        ("S3POD_GID", "8"),
        ("S3POD_READ_ONLY", "yes"),
        ("S3POD_LOG_LEVEL", "debug"),
        ("S3POD_LOG_FORMAT", ""),
        // Kubernetes sets this one where a service has our name.
        ("S3POD_SERVICE_HOST", "10.0.0.1"),
    ]);
    host.uid = 1;
    let config = resolved("uid=9,rw", &host).unwrap();
    assert_eq!((config.uid, config.gid, config.read_only), (9, 8, false));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Debug, LogFormat::Text));
}

#[test]
fn every_option_is_read_from_the_environment() {
    for option in OPTIONS {
        let name = option.env();
        let host = Host::with_environment([(name.as_str(), option.example)]);
        let mut from_environment = Options::default();
        add_environment(&mut from_environment, &host).unwrap();
        let mut typed = Options::default();
        typed.set(option, option.example).unwrap();
        assert_eq!(from_environment, typed, "{name}");
    }
}

#[test]
fn a_wrong_variable_is_named() {
    let host = Host::with_environment([("S3POD_METADATA_TTL", "soon")]);
    let error = resolved("", &host).unwrap_err();
    assert!(error.to_string().contains("S3POD_METADATA_TTL"), "{error}");
    assert_eq!(error.exit_code(), 78);
}

#[test]
fn memory_is_a_quarter_of_the_cgroup_and_at_least_64_mib_or_what_fits() {
    for (cgroup, expected) in [
        (None, 192),
        (Some(80), 32),
        (Some(100), 52),
        (Some(128), 64),
        (Some(256), 64),
        (Some(1024), 256),
        (Some(8192), 2048),
    ] {
        let host = Host { memory_limit: cgroup.map(|mib: u64| mib * MIB), ..host() };
        assert_eq!(resolved("", &host).unwrap().memory_limit, expected * MIB, "{cgroup:?}");
    }
}

#[test]
fn more_memory_than_the_cgroup_has_is_refused() {
    let host = Host { memory_limit: Some(128 * MIB), ..host() };
    assert_eq!(resolved("memory-limit=80MiB", &host).unwrap().memory_limit, 80 * MIB);
    let said = refusal("memory-limit=81MiB", &host);
    assert!(said.contains("--memory-limit") && said.contains("128MiB"), "{said}");
}

#[test]
fn a_cgroup_that_no_mount_fits_into_is_refused() {
    let host = Host { memory_limit: Some(80 * MIB - 1), ..host() };
    let refused = resolved("", &host).unwrap_err();
    let said = refused.to_string();
    assert!(said.contains("needs 80MiB") && said.contains("resources.limits.memory"), "{said}");
    assert_eq!(refused.exit_code(), 78);
    assert!(refusal("memory-limit=32MiB", &host).contains("--memory-limit"));
}

#[test]
fn what_is_kept_in_memory_fits_beside_the_process() {
    // A file system in memory, and large, on every Linux.
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let within = |list: &str, cgroup: u64| {
        let list = format!("cache-dir={},{list}", folder.path().display());
        Config::resolve(asked(&list), &Host { memory_limit: Some(cgroup * MIB), ..host() })
    };
    // 256 MiB less 64 and 48, and of those 144 a twentieth to spare.
    let room = 144 * MIB / 100 * 95;
    let sizes = |list: &str| {
        let config = within(list, 256).unwrap();
        (config.cache_size, config.staging_size)
    };
    assert_eq!(sizes("disk-limit=1GiB"), (room / 2, room - room / 2));
    let less = 64 * MIB / 100 * 95 / 2;
    assert_eq!(sizes("disk-limit=64MiB"), (less, less), "it is smaller than the memory");
    assert_eq!(sizes("cache-size=100MiB"), (100 * MIB, room - 100 * MIB));
    assert_eq!(sizes("disk-limit=1GiB,staging-size=100MiB"), (room - 100 * MIB, 100 * MIB));
    assert_eq!(sizes("cache-size=0,staging-size=100MiB"), (0, 100 * MIB));
    for (list, cgroup) in [
        ("cache-size=1GiB", 256),
        ("cache-size=100MiB,staging-size=100MiB", 256),
        ("staging-size=137MiB", 256),
        ("", 120),
    ] {
        let refused = within(list, cgroup).unwrap_err();
        let said = refused.to_string();
        assert!(said.contains("medium: Memory") && said.contains("--memory-limit"), "{said}");
        assert_eq!(refused.exit_code(), 78);
    }
    // Apart, only what is in memory counts.
    let journal = tempfile::tempdir().unwrap();
    if !host::is_in_memory(journal.path()) {
        let list = format!("journal-dir={},staging-size=1GiB", journal.path().display());
        let config = within(&list, 256).unwrap();
        assert_eq!((config.cache_size, config.staging_size), (room, 1024 * MIB));
    }
}

#[test]
fn without_a_folder_everything_is_in_memory_and_nothing_is_queued() {
    let config = resolved("memory-limit=100MiB", &host()).unwrap();
    assert_eq!((config.cache_dir, config.staging_size), (None, 25 * MIB));
    assert_eq!((config.cache_size, config.cache_min_free), (0, 0));
    assert_eq!((config.attr_delay, config.delete), (Duration::ZERO, DeleteMode::Sync));
    assert_eq!(resolved("staging-size=16MiB", &host()).unwrap().staging_size, 16 * MIB);
}

#[test]
fn the_folder_is_the_systems_or_the_users() {
    let root = Host { uid: 0, ..host() };
    assert_eq!(default_cache_dir(&root).unwrap(), PathBuf::from("/var/cache/s3pod"));
    let user = |variables: &[(&'static str, &'static str)]| {
        default_cache_dir(&Host { uid: 5, ..Host::with_environment(variables.iter().copied()) })
    };
    let home = ("HOME", "/home/me");
    assert_eq!(user(&[home]).unwrap(), PathBuf::from("/home/me/.cache/s3pod"));
    assert_eq!(user(&[home, ("XDG_CACHE_HOME", "/x")]).unwrap(), PathBuf::from("/x/s3pod"));
    let relative = user(&[home, ("XDG_CACHE_HOME", "x")]).unwrap();
    assert_eq!(relative, PathBuf::from("/home/me/.cache/s3pod"));
    assert!(user(&[]).unwrap_err().to_string().contains("--cache-dir"));
}

#[test]
fn a_folder_that_cannot_be_written_names_the_emptydir_to_add() {
    let error = Config::resolve(asked("cache-dir=/dev/null/x"), &host()).unwrap_err();
    assert!(error.to_string().contains("emptyDir"), "{error}");
    assert_eq!(error.exit_code(), 78);
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    for (list, flag) in [
        ("no-sign-request,profile=a", "--profile"),
        ("no-sign-request,requester-pays", "--requester-pays"),
        ("sse=AES256,sse-kms-key-id=a", "--sse"),
        ("sse-kms-key-id=a", "--sse"),
        ("attr-delay=1s", "--cache-dir none"),
        ("delete=queue", "--delete queue"),
    ] {
        let said = refusal(list, &host());
        assert!(said.contains(flag) && said.contains("contradict"), "{list}: {said}");
    }
    let config = resolved("sse=aws:kms,sse-kms-key-id=a", &host()).unwrap();
    assert_eq!(config.upload.sse, Some(Sse::Kms));
}

#[test]
fn an_endpoint_outside_aws_gets_path_style() {
    let config = resolved("endpoint-url=http://127.0.0.1:9000", &host()).unwrap();
    assert!(config.s3.force_path_style);
    assert!(config.s3.endpoint_url.as_ref().is_some_and(EndpointUrl::is_address));
    let list = "endpoint-url=http://a,force-path-style=false,checksums=when-required";
    let config = resolved(list, &host()).unwrap();
    assert!(!config.s3.force_path_style);
    assert_eq!(config.upload.checksums, Checksums::WhenRequired);
    let config = resolved("endpoint-url=https://s3.eu-west-1.amazonaws.com", &host()).unwrap();
    assert!(!config.s3.force_path_style);
}

#[test]
fn proxies_come_from_the_flag_or_the_usual_variables() {
    let host = Host::with_environment([
        ("HTTPS_PROXY", "http://me:hunter2@one:1"),
        ("https_proxy", "http://two:2"),
        ("HTTP_PROXY", "three:3"),
        ("NO_PROXY", "localhost"),
    ]);
    let proxies = resolved("", &host).unwrap().s3.proxies;
    assert_eq!(proxies.https.unwrap().expose(), "http://two:2");
    assert_eq!(proxies.http.unwrap().expose(), "http://three:3");
    assert!(proxies.bypass.starts_with("localhost,169.254.169.254,"), "{}", proxies.bypass);
    let proxies = resolved("proxy=http://four,no-proxy=\"a,b\"", &host).unwrap().s3.proxies;
    assert_eq!(proxies.https, proxies.http);
    assert_eq!(proxies.http.unwrap().expose(), "http://four");
    assert!(proxies.bypass.starts_with("a,b,169.254.169.254,"), "{}", proxies.bypass);
}

#[test]
fn a_password_stays_out_of_argv_and_out_of_the_log() {
    let said = refusal("proxy=http://me:hunter2@proxy:1", &host());
    assert!(said.contains("S3POD_PROXY") && !said.contains("hunter2"), "{said}");
    let host = Host::with_environment([("S3POD_PROXY", "http://me:hunter2@proxy:1")]);
    let config = resolved("", &host).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let host = Host::with_environment([("HTTPS_PROXY", "ftp://me:hunter2@proxy:1")]);
    let said = refusal("", &host);
    assert!(said.contains("HTTPS_PROXY") && !said.contains("hunter2"), "{said}");
}

#[test]
fn a_bundle_that_cannot_be_read_names_who_asked_for_it() {
    let said = refusal("ca-bundle=/nonexistent.pem", &host());
    assert!(said.starts_with("--ca-bundle") && said.contains("/nonexistent.pem"), "{said}");
    let host = Host::with_environment([("AWS_CA_BUNDLE", "/nonexistent.pem")]);
    assert!(refusal("", &host).starts_with("AWS_CA_BUNDLE"));
    let bundle = tempfile::NamedTempFile::new().unwrap();
    let list = format!("ca-bundle={}", bundle.path().display());
    assert_eq!(resolved(&list, &host).unwrap().s3.ca_bundle.unwrap(), bundle.path());
}

#[test]
fn a_command_looks_where_a_mount_would_keep_things() {
    let host = Host { uid: 1000, ..Host::with_environment([("HOME", "/home/me")]) };
    let default = PathBuf::from("/home/me/.cache/s3pod");
    assert_eq!(journal_folder(None, &host).unwrap(), default);
    assert_eq!(journal_folder(Some("/a"), &host).unwrap(), PathBuf::from("/a"));
    let told = Host::with_environment([("S3POD_CACHE_DIR", "/b")]);
    assert_eq!(journal_folder(None, &told).unwrap(), PathBuf::from("/b"));
    assert_eq!(journal_folder(Some("/a"), &told).unwrap(), PathBuf::from("/a"));
    assert_eq!(journal_folder(None, &Host::default()).unwrap(), PathBuf::from("/var/cache/s3pod"));
    let apart = Host::with_environment([("S3POD_CACHE_DIR", "/b"), ("S3POD_JOURNAL_DIR", "/c")]);
    assert_eq!(journal_folder(None, &apart).unwrap(), PathBuf::from("/c"));
    assert_eq!(journal_folder(Some("none"), &host).unwrap_err().exit_code(), 2);
}

#[test]
fn a_journal_may_be_apart_from_the_cache() {
    let (cache, journal) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = |folder: &tempfile::TempDir| Some(folder.path().canonicalize().unwrap());
    let list = format!("cache-dir={},write-back", cache.path().display());
    let config = Config::resolve(asked(&list), &host()).unwrap();
    assert_eq!((config.cache_dir, config.journal_dir), (folder(&cache), folder(&cache)));
    let list = format!("{list},journal-dir={}", journal.path().display());
    let config = Config::resolve(asked(&list), &host()).unwrap();
    assert_eq!((config.cache_dir, config.journal_dir), (folder(&cache), folder(&journal)));
    let list = format!("write-back,journal-dir={}", journal.path().display());
    let config = resolved(&list, &host()).unwrap();
    assert_eq!((config.cache_dir, config.journal_dir), (None, folder(&journal)));
    assert_eq!((config.cache_size, config.delete), (0, DeleteMode::Queue));
    assert!(config.staging_size > config.memory_limit, "staged on disk");
    assert!(refusal(&format!("{list},cache-size=1GiB"), &host()).contains("--cache-size"));
    assert!(refusal("journal-dir=/dev/null/x", &host()).starts_with("--journal-dir: cannot write"));
}

#[test]
fn a_cache_on_the_mount_itself_is_refused() {
    for option in ["cache-dir=/mnt", "cache-dir=/mnt/cache", "cache-dir=none,journal-dir=/mnt/j"] {
        let refused = Config::resolve(asked(option), &host()).unwrap_err();
        assert!(refused.to_string().contains("on the mount itself"), "{refused}");
    }
}

#[test]
fn a_limit_of_the_disk_is_divided_with_a_twentieth_to_spare() {
    let folder = tempfile::tempdir().unwrap();
    let within = |list: &str, host: &Host| {
        let folder = folder.path().display();
        Config::resolve(asked(&format!("cache-dir={folder}{list}")), host)
    };
    let sizes = |list: &str| {
        let config = within(&format!(",disk-limit=1000MiB{list}"), &host()).unwrap();
        (config.cache_size / MIB, config.staging_size / MIB)
    };
    assert_eq!(sizes(""), (475, 475));
    assert_eq!(sizes(",cache-size=900MiB"), (900, 50));
    assert_eq!(sizes(",staging-size=100MiB"), (850, 100));
    assert_eq!(sizes(",cache-size=0"), (0, 950));
    assert_eq!(sizes(",cache-size=100MiB,staging-size=200MiB"), (100, 200));
    // As the downward API writes it.
    let host_of_pod = Host::with_environment([("S3POD_DISK_LIMIT", "1048576000")]);
    assert_eq!(within("", &host_of_pod).unwrap().cache_size / MIB, 475);
    for list in
        ["cache-size=940MiB", "staging-size=960MiB", "cache-size=500MiB,staging-size=500MiB"]
    {
        let refused = within(&format!(",disk-limit=1000MiB,{list}"), &host()).unwrap_err();
        let said = refused.to_string();
        assert!(said.starts_with("--disk-limit") && said.contains("ask for less"), "{said}");
    }
    let said = refusal("disk-limit=1GiB", &host());
    assert!(said.contains("no disk to limit"), "{said}");
}
