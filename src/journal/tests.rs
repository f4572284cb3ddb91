//! What is found again in a journal, whatever was done to it.

use super::*;

fn open(root: &Path) -> (Journal, Vec<Pending>) {
    let (slot, _) = Slot::acquire(root, "v").unwrap();
    let (journal, pending, _) = Journal::open(slot).unwrap();
    (journal, pending)
}

fn intents(pending: &[Pending]) -> Vec<String> {
    pending.iter().map(|pending| pending.intent().unwrap()).collect()
}

fn log_of(journal: &Journal) -> std::path::PathBuf {
    journal.folder().unwrap().join("log")
}

#[tokio::test]
async fn what_was_begun_is_found_until_it_is_ended() {
    let root = tempfile::tempdir().unwrap();
    let (journal, pending) = open(root.path());
    assert!(pending.is_empty());
    let first = journal.begin(Kind::Commit, &["7.stage"], &"first").unwrap();
    journal.begin(Kind::Delete, &[], &"second").unwrap().note(&1).unwrap();
    first.note(&"half").unwrap();
    journal.sync().await.unwrap();
    for name in ["7.stage", "8.stage"] {
        fs::write(journal.folder().unwrap().join(name), b"bytes").unwrap();
    }
    let folder = journal.folder().unwrap().to_owned();
    drop((journal, first));

    let (slot, _) = Slot::acquire(root.path(), "v").unwrap();
    let (journal, pending, leftover) = Journal::open(slot).unwrap();
    assert_eq!(leftover.files, 1, "only the file that no intent needs is removed");
    assert!(folder.join("7.stage").exists() && !folder.join("8.stage").exists());
    assert_eq!(intents(&pending), ["first", "second"]);
    assert_eq!(pending[0].steps::<String>().unwrap(), ["half"]);
    assert_eq!((pending[1].kind, pending[1].steps::<u64>().unwrap()), (Kind::Delete, vec![1]));
    pending[0].record().end();
    journal.begin(Kind::Move, &[], &"third").unwrap();
    drop((journal, pending));

    let (_, pending) = open(root.path());
    assert_eq!(intents(&pending), ["second", "third"]);
}

#[test]
fn a_torn_end_hides_nothing_before_it() {
    let root = tempfile::tempdir().unwrap();
    let (journal, _) = open(root.path());
    journal.begin(Kind::Commit, &[], &"first").unwrap();
    let log = log_of(&journal);
    let whole = fs::read(&log).unwrap();
    journal.begin(Kind::Commit, &[], &"second").unwrap();
    let both = fs::read(&log).unwrap();
    drop(journal);
    for end in whole.len()..both.len() {
        fs::write(&log, &both[..end]).unwrap();
        let (journal, pending) = open(root.path());
        assert_eq!(intents(&pending), ["first"], "cut at {end}");
        journal.begin(Kind::Commit, &[], &"third").unwrap();
        drop((journal, pending));
        let (_, pending) = open(root.path());
        assert_eq!(intents(&pending), ["first", "third"], "cut at {end}");
    }
}

#[test]
fn a_damaged_line_hides_nothing_but_itself() {
    let root = tempfile::tempdir().unwrap();
    let (journal, _) = open(root.path());
    let log = log_of(&journal);
    let first = journal.begin(Kind::Upload, &[], &"first").unwrap();
    first.note(&"part").unwrap();
    let before = fs::read(&log).unwrap().len();
    journal.begin(Kind::Commit, &["2.stage"], &"second").unwrap();
    journal.begin(Kind::Commit, &["3.stage"], &"third").unwrap();
    let folder = journal.folder().unwrap().to_owned();
    for name in ["2.stage", "3.stage"] {
        fs::write(folder.join(name), b"bytes").unwrap();
    }
    drop((journal, first));
    let mut bytes = fs::read(&log).unwrap();
    bytes[before + 20] ^= 1;
    fs::write(&log, &bytes).unwrap();

    for _ in 0..2 {
        let (_, pending) = open(root.path());
        assert_eq!(intents(&pending), ["first", "third"]);
        assert!(folder.join("3.stage").exists());
        assert!(folder.join("2.aside").exists(), "nobody throws away what may have been promised");
    }
    for _ in 0..2 {
        let (_, pending) = open(root.path());
        let unsure: Vec<bool> = pending.iter().map(Pending::is_unsure).collect();
        assert_eq!(unsure, [true, false], "the line may have been a step of the first");
    }
}

#[test]
fn a_damaged_last_line_is_no_line_that_a_power_cut_has_torn() {
    for torn in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let (journal, _) = open(root.path());
        let log = log_of(&journal);
        let before = fs::read(&log).unwrap().len();
        journal.begin(Kind::Commit, &["1.stage"], &"only").unwrap();
        let folder = journal.folder().unwrap().to_owned();
        fs::write(folder.join("1.stage"), b"bytes").unwrap();
        drop(journal);
        let mut bytes = fs::read(&log).unwrap();
        bytes[before + 20] ^= 1;
        bytes.truncate(bytes.len() - usize::from(torn));
        fs::write(&log, &bytes).unwrap();
        let (_, pending) = open(root.path());
        assert!(pending.is_empty());
        assert_eq!(folder.join("1.aside").exists(), !torn);
    }
}

#[test]
fn a_log_stays_small_and_keeps_what_is_pending() {
    let root = tempfile::tempdir().unwrap();
    let (journal, _) = open(root.path());
    let kept = journal.begin(Kind::Commit, &[], &"kept").unwrap();
    let long = "x".repeat(4096);
    for _ in 0..3000 {
        journal.begin(Kind::Commit, &[], &long).unwrap().end();
    }
    let len = |journal: &Journal| fs::metadata(log_of(journal)).unwrap().len();
    assert!(len(&journal) < 5 * crate::units::MIB);
    kept.note(&"late").unwrap();
    drop((journal, kept));
    let (journal, pending) = open(root.path());
    assert_eq!(intents(&pending), ["kept"]);
    assert_eq!(pending[0].steps::<String>().unwrap(), ["late"]);
    pending[0].record().end();
    for _ in 0..100 {
        journal.begin(Kind::Commit, &[], &long).unwrap().end();
    }
    assert!(len(&journal) < 128 * crate::units::KIB, "nothing is pending");
}

#[test]
fn a_log_that_cannot_begin_anew_stays_and_takes_what_comes() {
    let root = tempfile::tempdir().unwrap();
    let (journal, _) = open(root.path());
    // Nothing can be written beside the log.
    let beside = log_of(&journal).with_extension("new");
    fs::create_dir(&beside).unwrap();
    let long = "x".repeat(4096);
    for _ in 0..40 {
        journal.begin(Kind::Commit, &[], &long).unwrap().end();
    }
    journal.begin(Kind::Commit, &[], &"kept").unwrap();
    drop(journal);
    let (journal, pending) = open(root.path());
    assert_eq!(intents(&pending), ["kept"]);
    fs::remove_dir(&beside).unwrap();
    pending[0].record().end();
    assert!(fs::metadata(log_of(&journal)).unwrap().len() < crate::units::KIB, "it begins anew");
}

#[test]
fn lines_of_an_older_log_are_no_lines_of_this_one() {
    let root = tempfile::tempdir().unwrap();
    let (journal, _) = open(root.path());
    let old = journal.begin(Kind::Commit, &[], &"old").unwrap();
    let stale = fs::read(log_of(&journal)).unwrap();
    old.end();
    let long = "x".repeat(4096);
    for _ in 0..20 {
        journal.begin(Kind::Commit, &[], &long).unwrap().end();
    }
    let log = log_of(&journal);
    drop((journal, old));
    // A power cut may bring blocks back that were cut off, behind the new header.
    let mut text = fs::read(&log).unwrap();
    let header = stale.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    text.truncate(header);
    text.extend_from_slice(&stale[header..]);
    fs::write(&log, text).unwrap();
    let (_, pending) = open(root.path());
    assert!(pending.is_empty());
}

#[test]
fn a_log_of_a_newer_release_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let (journal, _) = open(root.path());
    let log = log_of(&journal);
    drop(journal);
    fs::write(&log, "s3pod-journal-2 abc\nwhatever\n").unwrap();
    let (slot, _) = Slot::acquire(root.path(), "v").unwrap();
    let refused = Journal::open(slot).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    assert_eq!(fs::read_to_string(&log).unwrap(), "s3pod-journal-2 abc\nwhatever\n");
}

#[tokio::test]
async fn without_a_folder_nothing_is_kept() {
    let journal = Journal::none();
    let record = journal.begin(Kind::Commit, &[], &"nothing").unwrap();
    record.note(&1).unwrap();
    journal.sync().await.unwrap();
    record.end();
    assert!(journal.folder().is_none());
}
