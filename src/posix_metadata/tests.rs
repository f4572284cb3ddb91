//! One table per dialect, and the round trip.

use proptest::collection::btree_map;
use proptest::option;
use proptest::prelude::*;

use super::*;

fn map(lines: &[(&str, &str)]) -> UserMetadata {
    lines.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn at(seconds: u64, nanos: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)
}

/// What a `mode` says: type bits and permissions.
fn mode_of(key: &str, text: &str) -> Option<(Option<u32>, u16)> {
    let metadata = read(&map(&[(key, text)]));
    assert_eq!(metadata.unreadable, u32::from(metadata.perm.is_none()), "{text}");
    metadata.perm.map(|perm| (metadata.type_bits, perm))
}

const FILE: Option<u32> = Some(0o100_000);
const DIRECTORY: Option<u32> = Some(0o040_000);
const LINK: Option<u32> = Some(0o120_000);
const FIFO: Option<u32> = Some(0o010_000);

#[test]
fn a_mode_is_read_in_whichever_notation_it_makes_sense() {
    let cases = [
        // Ours: the zero says octal.
        ("0100644", Some((FILE, 0o644))),
        ("0040755", Some((DIRECTORY, 0o755))),
        ("0120777", Some((LINK, 0o777))),
        ("0010600", Some((FIFO, 0o600))),
        ("0104755", Some((FILE, 0o4755))),
        ("0767", Some((None, 0o767))),
        ("01777", Some((None, 0o1777))),
        ("0", Some((None, 0))),
        // s3fs and geesefs: decimal.
        ("33188", Some((FILE, 0o644))),
        ("33279", Some((FILE, 0o777))),
        ("16877", Some((DIRECTORY, 0o755))),
        ("17407", Some((DIRECTORY, 0o1777))),
        ("41471", Some((LINK, 0o777))),
        ("4516", Some((FIFO, 0o644))),
        ("0x81a4", Some((FILE, 0o644))),
        // rclone: octal without the zero.
        ("100644", Some((FILE, 0o644))),
        ("100664", Some((FILE, 0o664))),
        ("40755", Some((DIRECTORY, 0o755))),
        ("41777", Some((DIRECTORY, 0o1777))),
        // Its links are plain files, `name.rclonelink`.
        ("120777", Some((FILE, 0o777))),
        // Nobody's.
        ("644", None),
        ("", None),
        ("rw-r--r--", None),
        ("-1", None),
        ("0999", None),
        ("0300644", None),
        ("99999999999999999999", None),
    ];
    for (text, expected) in cases {
        assert_eq!(mode_of("mode", text), expected, "{text}");
    }
}

#[test]
fn every_permission_is_read_right_in_both_notations() {
    for perm in 0..=0o7777_u16 {
        for kind in [FILE, DIRECTORY] {
            let mode = kind.unwrap() | u32::from(perm);
            assert_eq!(mode_of("mode", &mode.to_string()), Some((kind, perm)), "{mode}");
            // One value in 8 192 is both: octal 41471 is also the decimal symlink.
            if mode != 0o41471 {
                assert_eq!(mode_of("mode", &format!("{mode:o}")), Some((kind, perm)), "{mode:o}");
            }
            assert_eq!(mode_of("mode", &format!("0{mode:o}")), Some((kind, perm)), "0{mode:o}");
        }
    }
}

#[test]
fn aws_and_google_have_keys_of_their_own() {
    let aws = read(&map(&[
        ("file-permissions", "0100755"),
        ("file-owner", "1000"),
        ("file-group", "100"),
        ("file-mtime", "1595002920000000001ns"),
        ("file-atime", "1595002920000000000ns"),
    ]));
    let expected = PosixMetadata {
        perm: Some(0o755),
        type_bits: FILE,
        uid: Some(1000),
        gid: Some(100),
        mtime: Some(at(1_595_002_920, 1)),
        ..PosixMetadata::default()
    };
    assert_eq!(aws, expected);
    let google = read(&map(&[
        ("goog-reserved-posix-mode", "640"),
        ("goog-reserved-posix-uid", "7"),
        ("goog-reserved-posix-gid", "8"),
        ("goog-reserved-file-mtime", "1595002920"),
    ]));
    let expected = PosixMetadata {
        perm: Some(0o640),
        uid: Some(7),
        gid: Some(8),
        mtime: Some(at(1_595_002_920, 0)),
        ..PosixMetadata::default()
    };
    assert_eq!(google, expected);
}

#[test]
fn times_of_every_dialect() {
    let cases = [
        ("1700000000.123456789", Some(at(1_700_000_000, 123_456_789))),
        // geesefs
        ("1700000000", Some(at(1_700_000_000, 0))),
        // rclone cuts zeros at the end
        ("1700000000.5", Some(at(1_700_000_000, 500_000_000))),
        ("1700000000.0000000019", Some(at(1_700_000_000, 1))),
        ("-1.5", SystemTime::UNIX_EPOCH.checked_sub(Duration::new(1, 500_000_000))),
        ("", None),
        ("1.", None),
        ("1.5e9", None),
        ("yesterday", None),
        ("+1", None),
        ("99999999999999999999999", None),
        ("18446744073709551615", None),
    ];
    for (text, expected) in cases {
        let metadata = read(&map(&[("mtime", text)]));
        assert_eq!(metadata.mtime, expected, "{text}");
        assert_eq!(metadata.unreadable, u32::from(expected.is_none()), "{text}");
    }
}

#[test]
fn an_old_s3fs_counts_nanoseconds() {
    let s3fs = map(&[("mtime", "5.5"), ("ctime", "6.000000007")]);
    assert_eq!(read(&s3fs).mtime, Some(at(5, 5)));
    // rclone's times beside an mtime are RFC 3339 and no ctime.
    let rclone = map(&[("mtime", "5.5"), ("btime", "2024-01-01T00:00:00Z")]);
    assert_eq!(read(&rclone).mtime, Some(at(5, 500_000_000)));
}

#[test]
fn xattrs_of_s3fs() {
    let json = "%7B%22user.a%22%3A%22YWJj%22%2C%22user.B%22%3A%22%22%2C\
                %22security.x%22%3A%22AA%3D%3D%22%7D";
    let metadata = read(&map(&[("xattr", json)]));
    let expected = [("user.a".to_owned(), b"abc".to_vec()), ("user.B".to_owned(), vec![])];
    assert_eq!(metadata.xattrs, expected.into());
    assert_eq!(metadata.unreadable, 0);
    // Broken: all of it, or one of two.
    assert_eq!(read(&map(&[("xattr", "{")])).unreadable, 1);
    let half = read(&map(&[("xattr", r#"{"user.a":"!","user.b":"AA==","user.c":"AA"}"#)]));
    assert_eq!((half.unreadable, half.xattrs.len()), (1, 2));
}

#[test]
fn foreign_metadata_is_shown_as_xattrs_and_survives() {
    let mut foreign = map(&[
        ("team", "ml %26 data"),
        ("mode", "33188"),
        ("md5chksum", "x"),
        ("s3pod-commit", "17"),
        ("%c3%a4", "100%"),
    ]);
    let mut metadata = read(&foreign);
    let expected =
        [("user.team".to_owned(), b"ml & data".to_vec()), ("user.ä".to_owned(), b"100%".to_vec())];
    assert_eq!(metadata.xattrs, expected.into());

    // A caller that read nothing drops nothing foreign.
    write(&PosixMetadata::default(), &mut foreign);
    assert_eq!(foreign.get("team").unwrap(), "ml %26 data");
    assert_eq!(foreign.get("mode"), None);
    assert_eq!(foreign.get("s3pod-commit").unwrap(), "17");

    // Unchanged, it stays where it is; changed, it moves; removed, it goes.
    write(&metadata, &mut foreign);
    assert!(!foreign.contains_key("xattr"));
    metadata.xattrs.insert("user.team".to_owned(), b"ops".to_vec());
    write(&metadata, &mut foreign);
    assert!(!foreign.contains_key("team"));
    assert_eq!(foreign.get("xattr").unwrap(), r#"{"user.team":"b3Bz"}"#);
    assert_eq!(read(&foreign).xattrs, metadata.xattrs);
    assert!(remove_xattr("user.team", &mut metadata, &mut foreign));
    assert!(remove_xattr("user.ä", &mut metadata, &mut foreign));
    assert!(!remove_xattr("user.ä", &mut metadata, &mut foreign));
    assert_eq!(read(&foreign).xattrs, BTreeMap::new());
    assert_eq!(foreign.keys().collect::<Vec<_>>(), ["md5chksum", "mode", "s3pod-commit"]);
}

#[test]
fn xattrs_of_other_namespaces_survive_ours() {
    let mut all = map(&[("xattr", r#"{"system.posix_acl_access":"AA==","user.a":"AA=="}"#)]);
    write(&PosixMetadata::default(), &mut all);
    assert_eq!(all.get("xattr").unwrap(), r#"{"system.posix_acl_access":"AA=="}"#);
    // What nobody can read is not ours to drop.
    let mut broken = map(&[("xattr", "{"), ("mode", "dark"), ("mtime", "soon")]);
    write(&PosixMetadata::default(), &mut broken);
    assert_eq!(broken.len(), 3);
}

#[test]
fn a_symlink_of_geesefs() {
    let mut all = map(&[("--symlink-target", "../a%20b%25")]);
    let metadata = read(&all);
    assert_eq!(metadata.symlink_target.as_deref(), Some("../a b%"));
    assert_eq!((metadata.type_bits, metadata.perm), (LINK, None));
    write(&metadata, &mut all);
    assert_eq!(all, map(&[("--symlink-target", "../a%20b%25"), ("mode", "0120777")]));
    assert_eq!(read(&map(&[("--symlink-target", "%ff")])).unreadable, 1);
}

#[test]
fn we_write_what_all_of_them_read() {
    let metadata = PosixMetadata {
        perm: Some(0o644),
        type_bits: FILE,
        uid: Some(1000),
        gid: Some(0),
        mtime: Some(at(1_700_000_000, 5)),
        ..PosixMetadata::default()
    };
    let mut all = map(&[
        ("file-permissions", "0100600"),
        ("file-owner", "1"),
        ("goog-reserved-file-mtime", "1"),
        ("file-mtime", "broken"),
        ("color", "red"),
    ]);
    write(&metadata, &mut all);
    let expected = map(&[
        ("color", "red"),
        ("gid", "0"),
        ("mode", "0100644"),
        ("mtime", "1700000000.000000005"),
        ("uid", "1000"),
    ]);
    assert_eq!(all, expected);
    forget_checksums(&mut all);
    assert_eq!(all, expected);
    // 5 names of 11 bytes of prefix, 5+3+4+5+3 of names, 3+1+7+20+4 of values.
    assert_eq!(size_of(&all), 55 + 20 + 35);
}

#[test]
fn a_stale_checksum_is_forgotten() {
    let mut all = map(&[("md5chksum", "1B2M2Y8AsgTpgAmY7PhCfg=="), ("color", "red")]);
    forget_checksums(&mut all);
    assert_eq!(all, map(&[("color", "red")]));
}

fn metadata() -> impl Strategy<Value = PosixMetadata> {
    let kind = prop_oneof![Just(FILE), Just(DIRECTORY), Just(LINK), Just(FIFO), Just(None)];
    let mode = option::of((0..=0o7777_u16, kind));
    let ids = (option::of(0..u32::MAX), option::of(0..u32::MAX));
    let mtime = option::of((any::<bool>(), 0..1_u64 << 40, 0..1_000_000_000_u32));
    let xattrs =
        btree_map("user\\.[^\0]{1,12}", proptest::collection::vec(any::<u8>(), 0..9), 0..5);
    (mode, ids, mtime, option::of("[^\0]{1,20}"), xattrs).prop_map(
        |(mode, (uid, gid), mtime, target, xattrs)| PosixMetadata {
            perm: mode.map(|(perm, _)| perm),
            type_bits: mode.and_then(|(_, kind)| kind),
            uid,
            gid,
            mtime: mtime.map(|(back, s, n)| since_1970(back, Duration::new(s, n)).unwrap()),
            symlink_target: target,
            xattrs,
            unreadable: 0,
        },
    )
}

/// Keys of every dialect with values readable and not, and foreign ones.
fn before() -> impl Strategy<Value = UserMetadata> {
    let key = prop_oneof![
        Just("mode"),
        Just("uid"),
        Just("mtime"),
        Just("ctime"),
        Just("xattr"),
        Just("--symlink-target"),
        Just("file-permissions"),
        Just("file-mtime"),
        Just("goog-reserved-posix-gid"),
        Just("a"),
        Just("b"),
        Just("s3pod-commit"),
    ];
    let value = prop_oneof![
        Just("33188"),
        Just("100644"),
        Just("1.5"),
        Just("7ns"),
        Just("%7B%7D"),
        Just(r#"{"user.z":"AA==","trusted.t":""}"#),
        Just("x"),
        Just(""),
    ];
    btree_map(key.prop_map(str::to_owned), value.prop_map(str::to_owned), 0..8)
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(metadata in metadata(), before in before()) {
        let mut all = before.clone();
        write(&metadata, &mut all);
        let back = read(&all);
        let has_mode = metadata.perm.is_some() || metadata.type_bits.is_some();
        prop_assert_eq!(back.perm.is_some(), has_mode);
        prop_assert_eq!(back.perm, metadata.perm);
        let link = metadata.symlink_target.is_some().then_some(S_IFLNK);
        prop_assert_eq!(back.type_bits, metadata.type_bits.or(link));
        prop_assert_eq!((back.uid, back.gid), (metadata.uid, metadata.gid));
        prop_assert_eq!(back.mtime, metadata.mtime);
        prop_assert_eq!(&back.symlink_target, &metadata.symlink_target);
        for (name, value) in &metadata.xattrs {
            prop_assert_eq!(back.xattrs.get(name), Some(value));
        }
        // Foreign keys stand as they stood, or moved because their attribute changed.
        for (key, value) in before.iter().filter(|(key, _)| is_foreign(key)) {
            let moved = metadata.xattrs.contains_key(&format!("user.{key}"));
            prop_assert!(moved || all.get(key) == Some(value));
        }
        // Headers are ASCII without control characters.
        for (key, value) in all.iter().filter(|(key, _)| before.get(*key) != all.get(*key)) {
            let is_plain = value.bytes().all(|byte| (b' '..0x7f).contains(&byte));
            prop_assert!(is_plain, "{} {}", key, value);
            prop_assert_eq!(value.trim(), value);
        }
        // Writing again changes nothing.
        let once = all.clone();
        write(&metadata, &mut all);
        prop_assert_eq!(all, once);
    }

    #[test]
    fn nothing_is_an_error(all in btree_map("[a-z-]{1,9}|mode|mtime|xattr", ".{0,30}", 0..6)) {
        let _ = read(&all);
        let mut written = all;
        write(&PosixMetadata::default(), &mut written);
    }
}
