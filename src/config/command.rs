//! The command line, made from the table.
//!
//! Owns what clap is told of options, and [`MountArguments`], what somebody typed behind
//! `s3pod mount`. Promises: reading it touches nothing; two flags that contradict each other are
//! an error, not a choice. Must not know what a mount is.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::asked::Options;
use super::definition::{Category, Definition, Kind};
use super::options::{self, OPTIONS};
use super::{Error, mount_options, values};

/// What somebody typed behind `s3pod mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountArguments {
    /// The bucket's name.
    pub bucket: String,
    /// Where its files shall appear.
    pub directory: PathBuf,
    /// Flags and `-o`, together.
    pub options: Options,
}

/// Adds `BUCKET`, `DIR`, `-o` and every option of the table to a command.
pub fn mount_command(command: Command) -> Command {
    let mut arguments: Vec<Arg> = OPTIONS.iter().map(flag).collect();
    // Stable: within a category the table's order stays.
    arguments.sort_by_key(|argument| {
        options::find(argument.get_id().as_str()).map(|option| option.category)
    });
    command.arg(bucket()).arg(directory()).args(arguments).arg(mount_option_list())
}

/// The same for a command whose mount somebody else makes: `SOCKET` stands where `DIR` does.
pub fn serve_command(command: Command) -> Command {
    let socket = |argument: Arg| {
        argument.value_name("SOCKET").help("Where the descriptor of the mount is handed over")
    };
    mount_command(command).mut_arg("DIR", socket)
}

fn bucket() -> Arg {
    Arg::new("BUCKET").required(true).help("The bucket, or s3://BUCKET/PREFIX for a part of it")
}

fn directory() -> Arg {
    Arg::new("DIR")
        .required(true)
        .value_parser(clap::value_parser!(PathBuf))
        .help("An empty directory in which its files appear")
}

fn mount_option_list() -> Arg {
    Arg::new("o")
        .short('o')
        .value_name("OPTIONS")
        .action(ArgAction::Append)
        .help("Flags as mount(8) and fstab write them: -o ro,uid=1000,metadata-ttl=5m")
        .help_heading(Category::Process.title())
}

fn flag(option: &'static Definition) -> Arg {
    let short = match option.default {
        "" => option.help.to_owned(),
        default => format!("{} [default: {default}]", option.help),
    };
    let argument = Arg::new(option.flag)
        .long(option.flag)
        .help_heading(option.category.title())
        .help(short)
        .long_help(long_help(option));
    match option.kind {
        Kind::Switch => argument.action(ArgAction::SetTrue),
        // The value is read by `Typed`: clap's own message would repeat a proxy's password.
        Kind::Value(name) => argument.value_name(name),
    }
}

fn long_help(option: &Definition) -> String {
    let mut text = format!("{}.", option.help);
    if !option.details.is_empty() {
        text = format!("{text} {}", option.details);
    }
    format!("{text}\n[default: {}] [env: {}]", option.default_text(), option.env())
}

impl MountArguments {
    /// Takes the arguments out of what clap found for a command of [`mount_command`].
    ///
    /// # Errors
    /// Where `-o` cannot be read, or two arguments contradict each other.
    pub fn from_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let text = |id: &str| matches.get_one::<String>(id).cloned().unwrap_or_default();
        let mut typed = Typed::default();
        let (bucket, prefix) = split_bucket(&text("BUCKET"))?;
        if let Some(prefix) = prefix {
            typed.add(find("prefix"), &prefix, "the bucket's URL")?;
        }
        for option in OPTIONS.iter().filter(|option| is_typed(matches, option)) {
            let value = match option.kind {
                Kind::Switch => "true".to_owned(),
                Kind::Value(_) => text(option.flag),
            };
            typed.add(option, &value, &format!("--{}", option.flag))?;
        }
        let lists = matches.get_many::<String>("o").into_iter().flatten().map(String::as_str);
        for (option, value) in mount_options::parse(lists)? {
            typed.add(option, &value, &format!("-o {}", option.flag))?;
        }
        let directory = matches.get_one::<PathBuf>("DIR").cloned().unwrap_or_default();
        Ok(Self { bucket, directory, options: typed.options })
    }
}

fn find(flag: &str) -> &'static Definition {
    options::find(flag).expect("the table has this flag; a test looks it up")
}

fn is_typed(matches: &ArgMatches, option: &Definition) -> bool {
    matches.value_source(option.flag) == Some(clap::parser::ValueSource::CommandLine)
}

/// Options with the place each was said in.
#[derive(Default)]
struct Typed {
    options: Options,
    places: Vec<(&'static str, String)>,
}

impl Typed {
    fn add(&mut self, option: &'static Definition, value: &str, place: &str) -> Result<(), Error> {
        let before = self.options.clone();
        self.options
            .set(option, value)
            .map_err(|reason| Error::Argument { argument: place.to_owned(), reason })?;
        let earlier = self.places.iter().find(|(flag, _)| *flag == option.flag);
        if let Some((_, earlier)) = earlier
            && !before.agrees(&self.options)
        {
            return Err(Error::Contradiction {
                one: earlier.clone(),
                other: place.to_owned(),
                fix: "leave one of them out".to_owned(),
            });
        }
        self.places.push((option.flag, place.to_owned()));
        Ok(())
    }
}

/// `BUCKET` or `s3://BUCKET/PREFIX`.
fn split_bucket(text: &str) -> Result<(String, Option<String>), Error> {
    let wrong = |reason| Error::Argument { argument: "BUCKET".to_owned(), reason };
    let Some(place) = text.strip_prefix("s3://") else {
        return values::bucket(text).map(|bucket| (bucket, None)).map_err(wrong);
    };
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let bucket = values::bucket(bucket).map_err(wrong)?;
    let prefix = Some(prefix.trim_matches('/')).filter(|prefix| !prefix.is_empty());
    Ok((bucket, prefix.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naming::Prefix;

    fn typed(arguments: &[&str]) -> Result<MountArguments, Error> {
        placed("photos", arguments)
    }

    fn placed(bucket: &str, arguments: &[&str]) -> Result<MountArguments, Error> {
        let all = ["mount", bucket, "/mnt"].into_iter().chain(arguments.iter().copied());
        let matches = mount_command(Command::new("mount")).try_get_matches_from(all).unwrap();
        MountArguments::from_matches(&matches)
    }

    #[test]
    fn clap_finds_no_fault_with_the_table() {
        mount_command(Command::new("mount")).debug_assert();
    }

    #[test]
    fn every_option_survives_from_flags_to_a_list_and_back() {
        for option in OPTIONS {
            let by_flag = match option.kind {
                Kind::Switch => typed(&[&format!("--{}", option.flag)]),
                Kind::Value(_) => typed(&[&format!("--{}={}", option.flag, option.example)]),
            }
            .unwrap();
            let list = mount_options::render(&by_flag.options);
            let by_list = typed(&["-o", &list]).unwrap();
            assert_eq!(by_list, by_flag, "{}", option.flag);
        }
    }

    #[test]
    fn a_url_names_bucket_and_prefix() {
        let arguments = placed("s3://photos/2024/june/", &[]).unwrap();
        assert_eq!(arguments.bucket, "photos");
        assert_eq!(arguments.options.operator.prefix, Some(Prefix::from_user("2024/june")));
        assert_eq!(placed("s3://photos", &[]).unwrap().options.operator.prefix, None);
        assert_eq!(
            placed("s3://photos/", &["--prefix=a"]).unwrap(),
            typed(&["--prefix=a"]).unwrap()
        );
        for bucket in ["photos/2024", "s3://", "s3:///a", "https://photos"] {
            let said = placed(bucket, &[]).unwrap_err().to_string();
            assert!(said.contains("BUCKET"), "{said}");
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_flag_and_without_a_password() {
        let said = typed(&["--metadata-ttl", "soon"]).unwrap_err().to_string();
        assert!(said.starts_with("--metadata-ttl: `soon` is not a duration"), "{said}");
        let said = typed(&["--proxy", "ftp://me:hunter2@proxy"]).unwrap_err().to_string();
        assert!(said.starts_with("--proxy: ") && !said.contains("hunter2"), "{said}");
    }

    #[test]
    fn arguments_that_contradict_each_other_are_refused() {
        for (bucket, arguments) in [
            ("s3://photos/a", vec!["--prefix", "b"]),
            ("s3://photos/a", vec!["-o", "prefix=b"]),
            ("photos", vec!["--uid", "1", "-o", "uid=2"]),
            ("photos", vec!["--read-only", "-o", "rw"]),
        ] {
            let said = placed(bucket, &arguments).unwrap_err().to_string();
            assert!(said.contains("contradict"), "{said}");
        }
        assert!(placed("s3://photos/a", &["--prefix", "/a/"]).is_ok());
        assert!(placed("photos", &["--read-only", "-o", "ro"]).is_ok());
    }
}
