//! `s3pod recover`: what another writer won over, listed, saved or discarded.
//!
//! Owns the three actions, their output and exit codes. Works on the cache folder alone: it needs
//! no store, and mounts may live on meanwhile. Must not know how bytes came there.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{self, Host};
use crate::journal::{Found, Item, Recovered, find_recovered};
use crate::units::ByteRange;

use super::say;

/// The subcommand's name.
pub(super) const NAME: &str = "recover";

const CACHE_DIR: &str = "cache-dir";
const ID: &str = "ID";
const FILE: &str = "FILE";
const JSON: &str = "json";
const FORCE: &str = "force";
const ALL: &str = "all";

/// Saved, but with zeros where bytes are missing.
const INCOMPLETE: u8 = 3;

const NOTES: &str = "\
Where two writers change one object, one of them wins, and the close() of the other fails with
ESTALE or EEXIST. What the other had written is kept here until somebody decides.

Of an edited file the changed bytes are kept, and of the unchanged ones those that were at hand.
What is missing is zeros in the saved file and named on standard error.

An ID may be cut short as long as only one begins so.

Exit code: 0 done; 3 saved, but bytes are missing; 2 the command line is wrong; 78 there is no
cache folder; 1 anything else.";

/// The subcommand.
pub(super) fn command() -> Command {
    let cache_dir = Arg::new(CACHE_DIR)
        .long(CACHE_DIR)
        .visible_alias("journal-dir")
        .value_name("DIR")
        .global(true)
        .help(
            "The mount's --journal-dir, or its --cache-dir where it has none [default: that of a \
             mount] [env: S3POD_JOURNAL_DIR, S3POD_CACHE_DIR]",
        );
    let id = || Arg::new(ID).required(true).help("As `s3pod recover list` shows it");
    let list = Command::new("list").about("List what is kept").arg(
        Arg::new(JSON).long(JSON).action(ArgAction::SetTrue).help("One JSON array, for programs"),
    );
    let save = Command::new("save")
        .about("Write kept bytes to a file; they stay kept")
        .arg(id())
        .arg(
            Arg::new(FILE)
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Where to; made readable for you alone"),
        )
        .arg(Arg::new(FORCE).long(FORCE).action(ArgAction::SetTrue).help("Replace FILE"));
    let discard = Command::new("discard")
        .about("Remove kept bytes for good")
        .arg(id().required(false).required_unless_present(ALL).num_args(1..))
        .arg(
            Arg::new(ALL)
                .long(ALL)
                .action(ArgAction::SetTrue)
                .conflicts_with(ID)
                .help("Everything that any mount with this cache folder has kept"),
        );
    Command::new(NAME)
        .about("List, save or discard what another writer won over")
        .after_help(NOTES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(cache_dir)
        .subcommands([list, save, discard])
}

/// Does what `matches` say.
pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let Some((action, matches)) = matches.subcommand() else { return ExitCode::from(2) };
    let typed = matches.get_one::<String>(CACHE_DIR).map(String::as_str);
    let folder = match config::journal_folder(typed, &Host::read()) {
        Ok(folder) => folder,
        Err(error) => {
            say(&error);
            return ExitCode::from(error.exit_code());
        }
    };
    let done = look(&folder).and_then(|found| match action {
        "list" => list(&found, matches.get_flag(JSON)),
        "save" => save(&found, matches),
        _ => discard(&found, matches),
    });
    match done {
        Ok(code) => code,
        Err(sentence) => {
            say(sentence);
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<ExitCode, String>;

fn look(folder: &Path) -> Result<Found, String> {
    let found = find_recovered(folder)
        .map_err(|error| format!("cannot read what is kept in {}: {error}", folder.display()))?;
    for (path, reason) in &found.damaged {
        say(format_args!(
            "{}: the description is damaged: {reason}; the bytes are beside it, in the file \
             that ends in .data",
            path.display()
        ));
    }
    Ok(found)
}

fn list(found: &Found, as_json: bool) -> Outcome {
    let recovered: Vec<&Recovered> = found.items.iter().map(|item| &item.recovered).collect();
    let text = if as_json {
        let json = serde_json::to_string_pretty(&recovered).map_err(|error| error.to_string())?;
        format!("{json}\n")
    } else {
        table(&recovered)
    };
    print(&text)?;
    Ok(if found.damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Columns as wide as what is in them; the key last, since it may be long.
fn table(recovered: &[&Recovered]) -> String {
    let mut rows = vec![["ID", "KEPT AT", "BYTES", "MISSING", "WHY", "OBJECT"].map(str::to_owned)];
    rows.extend(recovered.iter().map(|one| row(one)));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
        format!("{}{}\n", cells.collect::<String>(), row[5])
    };
    if recovered.is_empty() { String::new() } else { rows.iter().map(line).collect() }
}

fn row(one: &Recovered) -> [String; 6] {
    let at = one.kept_at;
    let (date, hour, minute) = (at.date(), at.hour(), at.minute());
    [
        one.id.clone(),
        format!("{date} {hour:02}:{minute:02}:{:02}Z", at.second()),
        one.size.to_string(),
        one.missing_bytes().to_string(),
        one.reason.as_str().to_owned(),
        format!("s3://{}/{}", one.bucket, printable(&one.key)),
    ]
}

/// A key may hold what would move a terminal's cursor.
fn printable(key: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    key.chars().map(shown).collect()
}

fn save(found: &Found, matches: &ArgMatches) -> Outcome {
    let id = matches.get_one::<String>(ID).map_or("", String::as_str);
    let file = matches.get_one::<PathBuf>(FILE).cloned().unwrap_or_default();
    let item = find(found, id)?;
    item.save(&file, matches.get_flag(FORCE)).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{} exists; name another file, or pass --force", file.display())
        }
        _ => format!("cannot save to {}: {error}", file.display()),
    })?;
    let recovered = &item.recovered;
    if recovered.missing.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    say(format_args!(
        "{} has zeros in place of {} bytes of the version that was edited: {}",
        file.display(),
        recovered.missing_bytes(),
        ranges(&recovered.missing)
    ));
    Ok(ExitCode::from(INCOMPLETE))
}

/// The first ones; the JSON has all.
fn ranges(missing: &[ByteRange]) -> String {
    const SHOWN: usize = 16;
    let shown: Vec<String> = missing.iter().take(SHOWN).map(ByteRange::to_string).collect();
    let more = match missing.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more (`s3pod recover list --json`)"),
    };
    format!("{}{more}", shown.join(", "))
}

fn discard(found: &Found, matches: &ArgMatches) -> Outcome {
    let items: Vec<&Item> = if matches.get_flag(ALL) {
        found.items.iter().collect()
    } else {
        let ids = matches.get_many::<String>(ID).into_iter().flatten();
        ids.map(|id| find(found, id)).collect::<Result<_, _>>()?
    };
    for item in items {
        let recovered = &item.recovered;
        item.discard().map_err(|error| format!("cannot discard {}: {error}", recovered.id))?;
        let key = printable(&recovered.key);
        print(&format!("discarded {} s3://{}/{key}\n", recovered.id, recovered.bucket))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn find<'a>(found: &'a Found, id: &str) -> Result<&'a Item, String> {
    let begins = |item: &&Item| !id.is_empty() && item.recovered.id.starts_with(id);
    let mut matching = found.items.iter().filter(begins);
    match (matching.next(), matching.next()) {
        (Some(item), None) => Ok(item),
        (Some(_), Some(_)) => Err(format!("more than one ID begins with `{id}`; write more of it")),
        (None, _) => Err(format!("nothing is kept as `{id}`; `s3pod recover list` shows what is")),
    }
}

fn print(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| format!("standard output: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_no_fault_with_the_command() {
        command().debug_assert();
    }

    #[test]
    fn a_key_cannot_move_the_cursor() {
        assert_eq!(printable("a/\u{1b}[2J\u{fc}"), "a/\\u{1b}[2J\u{fc}");
    }

    #[test]
    fn only_the_first_missing_ranges_are_named() {
        let missing: Vec<ByteRange> = (0..20).map(|at| ByteRange::at(at * 10, 5)).collect();
        let said = ranges(&missing);
        assert!(said.starts_with("0..5, 10..15") && said.contains("and 4 more"), "{said}");
    }
}
