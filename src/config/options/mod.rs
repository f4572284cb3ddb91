//! THE table of options: every one exists here and nowhere else.
//!
//! Owns [`OPTIONS`], which fills the typed options; each category's part is a file of its own. The
//! command line, the environment, `-o`, `--help` and `docs/configuration.md` are projections of it.
//! Promises: reading options touches nothing, neither environment nor disk. Must not know what is
//! done with a value.
//!
//! What is said nearer wins: a flag or `-o`, then `S3POD_<FLAG>`, then `--config`,
//! then the default.

mod access;
mod bucket;
mod files;
mod logging;
mod process;
mod resources;
mod writing;

use super::definition::Definition;

pub(super) use resources::MEMORY_LIMIT_MIN;

/// The option behind a flag.
pub fn find(flag: &str) -> Option<&'static Definition> {
    OPTIONS.iter().find(|option| option.flag == flag)
}

/// The categories' parts, in the order of [`super::Category::ALL`].
const PARTS: &[&[Definition]] = &[
    bucket::TABLE,
    access::TABLE,
    files::TABLE,
    writing::TABLE,
    resources::TABLE,
    process::TABLE,
    logging::TABLE,
];

const COUNT: usize = {
    let (mut count, mut part) = (0, 0);
    while part < PARTS.len() {
        count += PARTS[part].len();
        part += 1;
    }
    count
};

/// Every option, in the order in which they are shown.
pub static OPTIONS: &[Definition] = &joined();

/// The parts as one.
const fn joined() -> [Definition; COUNT] {
    let mut all = [PARTS[0][0]; COUNT];
    let (mut count, mut part) = (0, 0);
    while part < PARTS.len() {
        let mut at = 0;
        while at < PARTS[part].len() {
            all[count] = PARTS[part][at];
            count += 1;
            at += 1;
        }
        part += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Authority, LocalOptions, OperatorOptions, Options, TuningOptions};
    use std::collections::BTreeSet;

    #[test]
    fn no_option_is_there_twice() {
        let flags: BTreeSet<_> = OPTIONS.iter().map(|option| option.flag).collect();
        assert_eq!(flags.len(), OPTIONS.len());
        let names: BTreeSet<_> = OPTIONS.iter().map(Definition::env).collect();
        assert_eq!(names.len(), OPTIONS.len());
    }

    #[test]
    fn every_option_is_explained_in_one_line_of_plain_words() {
        for option in OPTIONS {
            let flag = option.flag;
            let plain = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(flag.chars().all(plain), "{flag}");
            assert!(!option.help.is_empty() && option.help.len() <= 80, "{flag}");
            assert!(!option.help.contains('\n') && !option.help.ends_with('.'), "{flag}");
            assert!(option.details.is_empty() || option.details.ends_with('.'), "{flag}");
        }
    }

    #[test]
    fn the_environment_names_follow_from_the_flags() {
        assert_eq!(find("endpoint-url").unwrap().env(), "S3POD_ENDPOINT_URL");
        for option in OPTIONS {
            let name = option.env();
            let back = name.strip_prefix("S3POD_").unwrap().to_ascii_lowercase().replace('_', "-");
            assert_eq!(back, option.flag);
        }
    }

    #[test]
    fn every_option_takes_its_example_and_no_two_share_a_field() {
        let mut results = BTreeSet::new();
        for option in OPTIONS {
            let mut options = Options::default();
            options.set(option, option.example).unwrap();
            assert_ne!(options, Options::default(), "{} changes nothing", option.flag);
            options.given.clear();
            assert!(results.insert(format!("{options:?}")), "{} writes another's", option.flag);
        }
    }

    #[test]
    fn an_option_writes_into_the_struct_of_its_authority() {
        for option in OPTIONS {
            let mut options = Options::default();
            options.set(option, option.example).unwrap();
            let written = [
                (Authority::Local, options.local != LocalOptions::default()),
                (Authority::Operator, options.operator != OperatorOptions::default()),
                (Authority::Tuning, options.tuning != TuningOptions::default()),
            ];
            for (authority, is_written) in written {
                assert_eq!(is_written, authority == option.authority, "{}", option.flag);
            }
        }
    }

    #[test]
    fn a_default_that_is_a_plain_value_is_one_the_option_takes() {
        for flag in [
            "dir-mode",
            "file-mode",
            "checksums",
            "exclusive-create",
            "part-size",
            "op-timeout",
            "max-requests",
            "log-level",
            "log-format",
        ] {
            let option = find(flag).unwrap();
            assert_eq!(option.check(option.default), Ok(()), "{flag}");
        }
    }
}
