//! The grammar of `-o a,b=c`, as mount(8), fstab and Kubernetes' mountOptions write it.
//!
//! Owns [`parse`] and [`render`]. Promises: what is written is either an option of the table, a
//! word of mount(8)'s own that changes nothing here, or an error that names it. A value with a
//! comma stands in double quotes or has a backslash before the comma. Must not know where the
//! text came from.

use super::Error;
use super::asked::Options;
use super::definition::{Definition, Kind};
use super::options;

/// Words that mount(8) hands down and that say nothing to a mount of S3: those it acts on by
/// itself, and those that name what holds here anyhow.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "exec",
    "nodev",
    "nosuid",
    "async",
    "noatime",
    "nodiratime",
    "relatime",
    "uhelper",
    "helper",
];

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    value: Option<String>,
}

/// Reads lists; where an option stands in them twice, the last one holds, as with mount(8).
///
/// # Errors
/// [`Error::UnknownMountOption`] and [`Error::MountOption`].
pub fn parse<'t>(
    lists: impl IntoIterator<Item = &'t str>,
) -> Result<Vec<(&'static Definition, String)>, Error> {
    let mut found: Vec<(&'static Definition, String)> = Vec::new();
    for entry in lists.into_iter().flat_map(split) {
        let Some((option, value)) = interpret(&entry)? else { continue };
        found.retain(|(earlier, _)| earlier.flag != option.flag);
        found.push((option, value));
    }
    Ok(found)
}

/// Writes every option that was set as a list that [`parse`] reads back.
pub fn render(options: &Options) -> String {
    let entries: Vec<String> = options
        .given()
        .map(|(option, value)| match (option.kind, value) {
            (Kind::Switch, "true") => option.flag.to_owned(),
            _ => format!("{}={}", option.flag, quoted(value)),
        })
        .collect();
    entries.join(",")
}

/// What an entry means; none where it is one of mount(8)'s own words.
fn interpret(entry: &Entry) -> Result<Option<(&'static Definition, String)>, Error> {
    // libfuse's options are spelled with underscores.
    let name = entry.name.replace('_', "-");
    let (flag, shorthand) = match name.as_str() {
        "ro" => ("read-only", Some("true")),
        "rw" => ("read-only", Some("false")),
        _ if is_ignored(&entry.name) => return Ok(None),
        other => (other, None),
    };
    let option = options::find(flag)
        .ok_or_else(|| Error::UnknownMountOption { name: entry.name.clone() })?;
    let value = match (shorthand, &entry.value, option.kind) {
        (Some(value), None, _) => value.to_owned(),
        (None, None, Kind::Switch) => "true".to_owned(),
        (None, Some(value), _) => value.clone(),
        (Some(_), Some(_), _) => return Err(wrong(entry, "it takes no value")),
        (None, None, Kind::Value(_)) => return Err(wrong(entry, "it needs a value")),
    };
    option.check(&value).map_err(|reason| wrong(entry, &reason))?;
    Ok(Some((option, value)))
}

fn is_ignored(name: &str) -> bool {
    IGNORED.contains(&name) || ["x-", "X-", "comment="].iter().any(|start| name.starts_with(start))
}

fn wrong(entry: &Entry, reason: &str) -> Error {
    Error::MountOption { name: entry.name.clone(), reason: reason.to_owned() }
}

/// Splits at commas that are neither quoted nor escaped.
fn split(text: &str) -> Vec<Entry> {
    let mut entries = vec![Entry { name: String::new(), value: None }];
    let mut is_quoted = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let last = entries.last_mut().expect("the list starts with one entry and only grows");
        match (character, &mut last.value) {
            (',', _) if !is_quoted => entries.push(Entry { name: String::new(), value: None }),
            ('"', _) => is_quoted = !is_quoted,
            ('=', None) => last.value = Some(String::new()),
            ('\\', value) => value.as_mut().unwrap_or(&mut last.name).extend(characters.next()),
            (other, value) => value.as_mut().unwrap_or(&mut last.name).push(other),
        }
    }
    entries.retain(|entry| !entry.name.is_empty() || entry.value.is_some());
    entries
}

/// A value as it stands in a list: a comma in it would end it.
pub fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        if matches!(character, ',' | '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options::OPTIONS;
    use proptest::prelude::*;

    fn flags(text: &str) -> Vec<(&'static str, String)> {
        parse([text]).unwrap().into_iter().map(|(option, value)| (option.flag, value)).collect()
    }

    #[test]
    fn a_line_of_fstab_is_understood() {
        assert_eq!(
            flags("rw,_netdev,nofail,allow_other,uid=1000,x-systemd.automount,metadata-ttl=5m"),
            [
                ("read-only", "false".to_owned()),
                ("allow-other", "true".to_owned()),
                ("uid", "1000".to_owned()),
                ("metadata-ttl", "5m".to_owned()),
            ]
        );
        assert!(parse([""]).unwrap().is_empty());
        assert!(parse(["defaults,,noauto,user,x-systemd.idle-timeout=1min"]).unwrap().is_empty());
    }

    #[test]
    fn the_last_word_holds() {
        assert_eq!(flags("ro,rw,ro"), [("read-only", "true".to_owned())]);
    }

    #[test]
    fn an_unknown_option_is_named() {
        for (text, name) in [
            ("rw,endpont-url=http://a", "`endpont-url`"),
            ("noexec", "`noexec`"),
            ("=5", "``"),
            ("uid", "`uid`"),
            ("uid=root", "`uid`"),
            ("ro=1", "`ro`"),
            ("read-only=perhaps", "`read-only`"),
        ] {
            let said = parse([text]).unwrap_err().to_string();
            assert!(said.contains(name), "{text}: {said}");
        }
    }

    #[test]
    fn a_comma_in_a_value_is_quoted_or_escaped() {
        let hosts = [("no-proxy", "a,b".to_owned()), ("uid", "1".to_owned())];
        assert_eq!(flags("no-proxy=\"a,b\",uid=1"), hosts);
        assert_eq!(flags("no-proxy=a\\,b,uid=1"), hosts);
    }

    #[test]
    fn every_option_survives_being_written_and_read_back() {
        let mut options = Options::default();
        for option in OPTIONS {
            options.set(option, option.example).unwrap();
        }
        let mut back = Options::default();
        for (option, value) in parse([&*render(&options)]).unwrap() {
            back.set(option, &value).unwrap();
        }
        assert_eq!(back, options);
    }

    proptest! {
        #[test]
        fn every_value_survives_being_written_and_read_back(value in "[^\\s\\pC]{1,20}") {
            let mut options = Options::default();
            options.set(options::find("no-proxy").unwrap(), &value).unwrap();
            prop_assert_eq!(flags(&render(&options)), [("no-proxy", value)]);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,60}") {
            let _ = parse([&*text]);
        }
    }
}
