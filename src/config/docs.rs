//! `docs/configuration.md`, made from the table.
//!
//! Owns [`render`]. Promises: the committed page is what `render` gives (a test compares them;
//! `make docs` writes it anew). Must not know any option by name.

use std::fmt::Write as _;

use super::definition::{Category, Definition};
use super::options::OPTIONS;

const HEAD: &str = "\
# Configuration

<!-- Made from src/config/options/ by `make docs`. Edit the table, not this page. -->

`s3pod mount BUCKET DIR [OPTIONS]`. `BUCKET` may be written `s3://BUCKET/PREFIX`.

Every option can be given in five ways, and what is said nearer to the call wins:

1. as a flag: `--metadata-ttl 5m`, and a switch alone: `--read-only`;
2. behind `-o`, as mount(8), `/etc/fstab` and Kubernetes' `mountOptions` write it:
   `-o read-only,metadata-ttl=5m`. A switch can be turned off here (`read-only=false`), `ro` and
   `rw` are understood, underscores count as dashes, and a comma within a value is written `\\,`
   or the value stands in double quotes. mount(8)'s own words (`defaults`, `_netdev`, `nofail`,
   `user`, `x-systemd.*` and their like) are accepted and change nothing; any other unknown word
   is an error. Where `-o` says something twice, the last one holds; where a flag and `-o`
   disagree, that is an error;
3. in the environment: `S3POD_METADATA_TTL=5m`. An empty variable counts as unset;
4. in a file that `--config` names, one `metadata-ttl = 5m` a line; `#` begins a comment;
5. not at all: the default.

Sizes are written `64MiB`, `5GB` or as a number of bytes; times `500ms`, `30s`, `5m`, `2h` or as a
number of seconds.

*Who* says who may set an option where a volume is described by several people: `tuning` may be
set by whoever writes a pod, `operator` by whoever owns the volume, `local` by whoever runs the
process.

Credentials are no options: they come from the SDK's default chain (environment, profile, web
identity, Pod Identity, instance metadata).

Exit codes: 0 in order, 2 the command line is wrong, 78 the configuration is wrong, 66 the store
has no such bucket, 67 it does not know the credentials, 77 it knows them and they may not, 1
anything else.
";

/// The page.
pub fn render() -> String {
    let mut page = HEAD.to_owned();
    for category in Category::ALL {
        section(&mut page, category);
    }
    page
}

fn section(page: &mut String, category: Category) {
    let options = || OPTIONS.iter().filter(move |option| option.category == category);
    let mut text = format!("\n## {}\n\n", category.title());
    text.push_str("| flag | environment | default | who | what |\n|---|---|---|---|---|\n");
    options().for_each(|option| row(&mut text, option));
    options().filter(|option| !option.details.is_empty()).for_each(|option| {
        // Writing into a String cannot fail.
        let _ = write!(text, "\n**`--{}`**: {}\n", option.flag, option.details);
    });
    page.push_str(&text);
}

fn row(text: &mut String, option: &Definition) {
    let cell = |words: &str| words.replace('|', "\\|");
    let Definition { authority: who, help, .. } = option;
    let (usage, env) = (cell(&option.usage()), option.env());
    let default = cell(option.default_text());
    let _ = writeln!(text, "| `{usage}` | `{env}` | {default} | {who} | {} |", cell(help));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "`make docs` asks a test to write the page")]
    fn the_committed_page_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, render()).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == render(), "docs/configuration.md is not current: run `make docs`");
    }

    #[test]
    fn the_page_has_every_option() {
        let page = render();
        for option in OPTIONS {
            assert!(page.contains(&format!("| `--{}", option.flag)), "{}", option.flag);
        }
    }
}
