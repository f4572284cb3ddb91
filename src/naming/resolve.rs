//! Which keys become which files.
//!
//! Owns the two questions whose answers surprise people: what one listed key is within its
//! directory ([`classify`]), and what a directory holds when a listing says it key by key
//! ([`Merge`]). The tables of cases in the tests are the specification. Must not know how a
//! listing is fetched.

use std::collections::VecDeque;

use super::key::{Prefix, is_reserved};
use super::name::{MAX_NAME_BYTES, Name};

/// What one line of a delimited listing is within its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// The directory's own marker object.
    Marker,
    /// An object directly in the directory.
    File(Name),
    /// A common prefix: a directory below.
    Directory(Name),
    /// A key that cannot be a path.
    Hidden(HiddenReason),
    /// The provisioner's own keys at the bucket's root: not shown and not worth a word.
    Reserved,
}

/// Why a key is not shown as a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HiddenReason {
    /// `//` in the key, or a leading `/`: an empty component.
    EmptyComponent,
    /// A component is `.` or `..`.
    DotComponent,
    /// A component holds NUL.
    Nul,
    /// A component is over 255 bytes.
    ComponentTooLong,
}

impl HiddenReason {
    /// The reason in words, for the log and as a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EmptyComponent => "an empty component",
            Self::DotComponent => "a component that is . or ..",
            Self::Nul => "a NUL",
            Self::ComponentTooLong => "a component over 255 bytes",
        }
    }
}

/// Says what `key`, listed under `directory` with delimiter `/`, is. A key with a trailing slash
/// is a common prefix (or the directory's own marker).
pub fn classify(directory: &Prefix, key: &str) -> Listed {
    if is_reserved(key) {
        return Listed::Reserved;
    }
    let Some(rest) = directory.strip(key) else {
        return Listed::Hidden(HiddenReason::EmptyComponent);
    };
    if rest.is_empty() {
        return Listed::Marker;
    }
    let (component, is_directory) = match rest.strip_suffix('/') {
        Some(component) => (component, true),
        None => (rest, false),
    };
    let name = match Name::new(component.as_ref()) {
        Ok(name) => name,
        Err(_) => return Listed::Hidden(why_hidden(component)),
    };
    if is_directory { Listed::Directory(name) } else { Listed::File(name) }
}

fn why_hidden(component: &str) -> HiddenReason {
    if component.is_empty() || component.contains('/') {
        HiddenReason::EmptyComponent
    } else if component.contains('\0') {
        HiddenReason::Nul
    } else if component.len() > MAX_NAME_BYTES {
        HiddenReason::ComponentTooLong
    } else {
        HiddenReason::DotComponent
    }
}

/// One entry of a directory; `T` is what the caller knows of a file (its listed attributes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Child<T> {
    /// A file and what the listing said of it.
    File(Name, T),
    /// A directory, by common prefix or by marker.
    Directory(Name),
}

impl<T> Child<T> {
    /// The entry's name.
    pub const fn name(&self) -> &Name {
        match self {
            Self::File(name, _) | Self::Directory(name) => name,
        }
    }
}

/// Turns the lines of one directory's listing, in key order, into its entries.
///
/// A key `a` beside `a/b` is hidden by the directory `a`. S3 lists `a`, then perhaps thousands of
/// `a!`, `a-`, `a.` keys, and only then `a/`: so a file is held back until the listing has passed
/// `name/`. At most one file per byte of a component is held (each held name is a prefix of the
/// next), so the queue stays below 255.
#[derive(Debug)]
pub struct Merge<T> {
    held: VecDeque<(Name, T)>,
}

impl<T> Default for Merge<T> {
    fn default() -> Self {
        Self { held: VecDeque::new() }
    }
}

impl<T> Merge<T> {
    /// Takes the next file of the listing and appends to `out` what is certain by now.
    pub fn file(&mut self, name: Name, listed: T, out: &mut Vec<Child<T>>) {
        self.release(name.as_str(), out);
        self.held.push_back((name, listed));
    }

    /// Takes the next common prefix of the listing.
    pub fn directory(&mut self, name: Name, out: &mut Vec<Child<T>>) {
        self.held.retain(|(held, _)| *held != name);
        self.release(&format!("{name}/"), out);
        out.push(Child::Directory(name));
    }

    /// The listing is over: what was held back is certain.
    pub fn finish(&mut self, out: &mut Vec<Child<T>>) {
        out.extend(self.held.drain(..).map(|(name, listed)| Child::File(name, listed)));
    }

    /// Lets go of the files whose `name/` sorts before `position`. They are not always in front:
    /// of the held `a` and `a-`, `a-/` is passed before `a/`.
    fn release(&mut self, position: &str, out: &mut Vec<Child<T>>) {
        let mut index = 0;
        while index < self.held.len() {
            let name = self.held[index].0.as_str();
            let passed = position.as_bytes() > name.as_bytes()
                && position.bytes().cmp(name.bytes().chain([b'/'])).is_gt();
            match passed.then(|| self.held.remove(index)).flatten() {
                Some((name, listed)) => out.push(Child::File(name, listed)),
                None => index += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_listed_key_is_what_the_table_says() {
        let directory = Prefix::from_user("d");
        let file = |text: &str| Listed::File(Name::new(text.as_ref()).unwrap());
        let below = |text: &str| Listed::Directory(Name::new(text.as_ref()).unwrap());
        let long = "x".repeat(256);
        let cases = [
            ("d/", Listed::Marker),
            ("d/a", file("a")),
            ("d/a b", file("a b")),
            ("d/...", file("...")),
            ("d/.s3pod", file(".s3pod")),
            ("d/b/", below("b")),
            ("d//", Listed::Hidden(HiddenReason::EmptyComponent)),
            ("d/.", Listed::Hidden(HiddenReason::DotComponent)),
            ("d/..", Listed::Hidden(HiddenReason::DotComponent)),
            ("d/../", Listed::Hidden(HiddenReason::DotComponent)),
            ("d/a\0b", Listed::Hidden(HiddenReason::Nul)),
            (&format!("d/{long}"), Listed::Hidden(HiddenReason::ComponentTooLong)),
            (&format!("d/{long}/"), Listed::Hidden(HiddenReason::ComponentTooLong)),
        ];
        for (key, want) in cases {
            assert_eq!(classify(&directory, key), want, "{key:?}");
        }
        assert_eq!(classify(&Prefix::root(), ".s3pod/"), Listed::Reserved);
        assert_eq!(classify(&Prefix::root(), "/"), Listed::Hidden(HiddenReason::EmptyComponent));
    }

    /// Lists `keys` with delimiter `/` as S3 does and merges the lines.
    fn entries_of(keys: &BTreeSet<String>) -> Vec<Child<()>> {
        let mut merge = Merge::default();
        let mut out = Vec::new();
        let mut last = None;
        for key in keys {
            let line = match key.split_once('/') {
                Some((first, _)) => format!("{first}/"),
                None => key.clone(),
            };
            if last.as_ref() == Some(&line) {
                continue;
            }
            match classify(&Prefix::root(), &line) {
                Listed::File(name) => merge.file(name, (), &mut out),
                Listed::Directory(name) => merge.directory(name, &mut out),
                _ => {}
            }
            last = Some(line);
        }
        merge.finish(&mut out);
        out
    }

    #[test]
    fn the_directory_wins_however_far_away_it_is_listed() {
        let keys = ["a", "a!", "a-", "a-/x", "a.txt", "a/b", "b"].map(String::from);
        let mut shown: Vec<_> =
            entries_of(&keys.into_iter().collect()).iter().map(|c| format!("{c:?}")).collect();
        shown.sort();
        assert_eq!(
            shown,
            [
                r#"Directory("a")"#,
                r#"Directory("a-")"#,
                r#"File("a!", ())"#,
                r#"File("a.txt", ())"#,
                r#"File("b", ())"#,
            ]
        );
    }

    proptest! {
        #[test]
        fn every_name_appears_once_and_directories_win(
            keys in proptest::collection::btree_set("[a!./-]{1,6}", 0..40)
        ) {
            let shown = entries_of(&keys);
            let valid = |first: &str| Name::new(first.as_ref()).is_ok();
            let directories: BTreeSet<&str> = keys.iter()
                .filter_map(|k| k.split_once('/')).map(|(first, _)| first)
                .filter(|f| valid(f)).collect();
            let files: BTreeSet<&str> = keys.iter().map(String::as_str)
                .filter(|k| !k.contains('/') && valid(k) && !directories.contains(k)).collect();
            let mut want: Vec<String> =
                directories.iter().map(|n| format!("{n}/"))
                    .chain(files.iter().map(|n| n.to_string())).collect();
            want.sort();
            let mut got: Vec<String> = shown.iter().map(|child| match child {
                Child::File(name, ()) => name.to_string(),
                Child::Directory(name) => format!("{name}/"),
            }).collect();
            got.sort();
            prop_assert_eq!(got, want);
        }
    }
}
