//! Taste as a test: the floors of the house and the look of its files.
//!
//! Owns the checker, a function over paths and texts, and the proof that it catches what it shall:
//! each rule is fed a violation. Promises: a failure is one sentence with file, line and the fix.
//! What a rule is for is written in CONTRIBUTING.md.

mod tidy {
    //! The rules, by subject.
    pub(crate) mod floors;
    pub(crate) mod promises;
    pub(crate) mod reach;
    pub(crate) mod scan;
    pub(crate) mod style;
}

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tidy::scan::Source;
use tidy::{floors, promises, reach, style};

/// Everything that is wrong with a tree of files: Rust sources and `Cargo.toml`s, by their paths.
fn check(files: &[(&str, &str)]) -> Vec<String> {
    let is_source = |path: &str| path.ends_with(".rs");
    let sources: Vec<Source> = files
        .iter()
        .filter(|(path, _)| is_source(path))
        .map(|(path, text)| Source::new(path, text))
        .collect();
    let manifests: Vec<(String, String)> = files
        .iter()
        .filter_map(|(path, text)| Some((path.strip_suffix("Cargo.toml")?, text)))
        .map(|(folder, text)| (folder.to_owned(), (*text).to_owned()))
        .collect();
    let lib = sources.iter().find(|source| source.path == "src/lib.rs");
    let order = lib.map(floors::order).unwrap_or_default();
    let mut failures = reach::dead_files(&sources, &manifests);
    for source in &sources {
        failures.extend(floors::imports(source, &order));
        failures.extend(floors::homes(source));
        failures.extend(style::check(source));
    }
    failures
}

fn check_owned(files: &BTreeMap<String, String>) -> Vec<String> {
    let borrowed: Vec<(&str, &str)> =
        files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    check(&borrowed)
}

/// The files of this checkout.
fn checkout() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = BTreeMap::new();
    for folder in ["src", "sidecar", "tests", "examples", "benches"] {
        collect(root, &root.join(folder), &mut files);
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("a checkout");
    files.insert("Cargo.toml".to_owned(), manifest);
    files
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    // A folder of the plan that is not there yet has no files.
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        let relative =
            path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
        if path.is_dir() && !relative.ends_with("/target") {
            collect(root, &path, files);
        } else if relative.ends_with(".rs") || relative.ends_with("Cargo.toml") {
            files.insert(relative, fs::read_to_string(&path).expect("a text"));
        }
    }
}

#[test]
fn the_house_is_tidy() {
    let files = checkout();
    assert!(files.len() > 20, "the checkout was not found");
    let failures = check_owned(&files);
    assert!(failures.is_empty(), "{} untidy places:\n{}", failures.len(), failures.join("\n"));
}

/// True where a file of that name below `tests/` has a function of that name, or a script that is
/// two tests, one on each server.
fn has_test(files: &BTreeMap<String, String>, test: &str) -> bool {
    let Some((module, function)) = test.split_once("::") else { return false };
    let (file, folder) = (format!("/{module}.rs"), format!("/{module}/"));
    let wanted = [format!("fn {function}("), format!("on_both!(\n    {function},")];
    let own = |path: &str| {
        path.starts_with("tests/") && (path.ends_with(&file) || path.contains(&folder))
    };
    let has = |text: &String| wanted.iter().any(|wanted| text.contains(wanted));
    files.iter().any(|(path, text)| own(path) && has(text))
}

#[test]
fn every_promise_that_works_names_its_tests() {
    let files = checkout();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/semantics.md");
    let page = fs::read_to_string(page).expect("a page");
    let failures = promises::check(&page, |test| has_test(&files, test));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(page.matches("| works |").count() > 50, "the page was not understood");
    let broken = "| N1 | A promise. | works |  |\n| N2 | Another. | works | `stat::none` |\n";
    assert_eq!(promises::check(broken, |test| has_test(&files, test)).len(), 2);
}

/// A small house in order, with one file more, or another text in one of its own.
fn house(path: &str, text: &str) -> Vec<String> {
    let modules = ["cli", "vfs", "read", "write", "store", "fuse", "units"];
    let declared: String = modules.iter().map(|module| format!("pub mod {module};\n")).collect();
    let mut files = BTreeMap::from([
        ("Cargo.toml".to_owned(), String::new()),
        ("src/lib.rs".to_owned(), format!("//! The map.\n{declared}")),
    ]);
    for module in modules {
        // Declares the file that is added, so that it is reached.
        let added = path.strip_prefix(&format!("src/{module}/"));
        let child = added.map(|file| format!("mod {};\n", file.trim_end_matches(".rs")));
        let own = format!("//! Seam.\n{}", child.unwrap_or_default());
        files.insert(format!("src/{module}/mod.rs"), own);
    }
    files.insert(path.to_owned(), text.to_owned());
    check_owned(&files)
}

/// Asserts that `text` at `path` breaks exactly one rule, in `line`, and that the sentence has
/// `words` in it.
fn breaks(path: &str, text: &str, line: usize, words: &str) {
    let failures = house(path, text);
    assert_eq!(failures.len(), 1, "{text}\n{failures:#?}");
    assert!(failures[0].starts_with(&format!("{path}:{line}: ")), "{}", failures[0]);
    assert!(failures[0].contains(words), "{}", failures[0]);
}

fn is_fine(path: &str, text: &str) {
    assert_eq!(house(path, text), Vec::<String>::new(), "{text}");
}

#[test]
fn an_import_points_downward() {
    is_fine("src/vfs/mod.rs", "//! V.\nuse crate::store::Key;\nuse crate::{read, units};\n");
    for text in [
        "//! V.\nuse crate::cli;\n",
        "//! V.\nuse crate::cli::Flag;\n",
        "//! V.\nfn a() { crate::cli::run() }\n",
        "//! V.\nuse crate::{cli::Flag, units};\n",
        "//! V.\nuse crate::{units::{self, cli}, cli};\n",
        "//! V.\nuse super::cli::Flag;\n",
        "//! V.\nuse super::{cli, store};\n",
    ] {
        breaks("src/vfs/mod.rs", text, 2, "`vfs` imports `cli`");
    }
    breaks("src/vfs/inode.rs", "//! V.\nuse super::super::cli::A;\n", 2, "above it");
    breaks("src/units/mod.rs", "//! U.\n\nuse crate::store::Key;\n", 3, "`units` imports `store`");
    breaks("src/vfs/mod.rs", "//! V.\nuse crate::*;\n", 2, "whole crate");
}

#[test]
fn an_import_in_a_comment_a_string_or_a_test_is_none() {
    is_fine(
        "src/vfs/mod.rs",
        "//! Like crate::cli.\n// crate::cli\n/* a /* crate::cli */ crate::cli */\n\
         const A: &str = \"crate::cli\";\nconst B: &str = r#\"crate::cli \"\"#;\n\
         const C: char = '\"';\n\n#[cfg(test)]\nmod tests {\n    use crate::cli;\n}\n",
    );
    is_fine("src/vfs/inode.rs", "//! V.\nuse super::cli::A;\nuse super::Key;\n");
    breaks("src/vfs/mod.rs", "//! V.\nfn a<'a>(_: &'a str) { crate::cli::b('\\'') }\n", 2, "above");
}

#[test]
fn siblings_never_import_each_other() {
    breaks("src/read/mod.rs", "//! R.\nuse crate::write::Plan;\n", 2, "sibling `write`");
    // Upward as well as sideways: one sentence is enough.
    breaks("src/write/mod.rs", "//! W.\nuse crate::read::Window;\n", 2, "`write` imports `read`");
}

#[test]
fn a_crate_has_one_home() {
    is_fine("src/fuse/mod.rs", "//! F.\nuse fuser::Session;\n");
    is_fine("src/cli/mod.rs", "//! C.\nuse clap::Command;\n");
    breaks("src/vfs/mod.rs", "//! V.\nuse fuser::Session;\n", 2, "src/fuse/");
    breaks("src/store/mod.rs", "//! S.\nuse aws_sdk_s3::Client;\n", 2, "src/store/s3/");
    breaks("src/store/mod.rs", "//! S.\ntype A = aws_smithy_types::Blob;\n", 2, "src/store/s3/");
    breaks("src/vfs/mod.rs", "//! V.\nuse clap as flags;\n", 2, "src/config/");
    breaks("src/vfs/mod.rs", "//! V.\nuse tonic::Request;\n", 2, "another package");
    breaks("src/vfs/mod.rs", "//! V.\nuse k8s_openapi::api;\n", 2, "another package");
}

#[test]
fn unsafe_and_the_environment_have_their_places() {
    is_fine("src/fuse/passthrough.rs", "//! F.\nfn a() { unsafe { b() } }\n");
    breaks("src/fuse/mod.rs", "//! F.\nfn a() { unsafe { b() } }\n", 2, "`unsafe`");
    breaks("src/cli/mod.rs", "//! C.\nfn a() { std::env::vars_os() }\n", 2, "environment");
}

#[test]
fn a_file_says_what_it_owns() {
    breaks("src/vfs/mod.rs", "use std::fmt;\n", 1, "`//!`");
}

#[test]
fn sizes_have_limits() {
    let long_line = format!("//! V.\n// {}\n", "x".repeat(98));
    breaks("src/vfs/mod.rs", &long_line, 2, "101 characters");
    let long_function = format!("//! V.\nfn a() {{\n{}}}\n", "b();\n".repeat(69));
    breaks("src/vfs/mod.rs", &long_function, 2, "`a` has 71 lines");
    is_fine("src/vfs/mod.rs", &format!("//! V.\nfn a() {{\n{}}}\n", "b();\n".repeat(68)));
    breaks("src/vfs/mod.rs", &format!("//! V.\n{}", "a!();\n".repeat(600)), 600, "601 lines");
    let tests = |lines: usize| {
        let body = "a!();\n".repeat(lines);
        format!("//! V.\n{}#[cfg(test)]\nmod tests {{\n{body}}}\n", "a!();\n".repeat(599))
    };
    is_fine("src/vfs/mod.rs", &tests(247));
    breaks("src/vfs/mod.rs", &tests(248), 601, "251 lines of tests");
}

#[test]
fn words_that_name_nothing_are_banned() {
    for name in ["BlockManager", "read_helper", "UTILS", "misc", "chunk_size", "Chunks"] {
        breaks("src/vfs/mod.rs", &format!("//! V.\nfn {name}() {{}}\n"), 2, "in the name");
    }
    is_fine("src/vfs/mod.rs", "//! V.\nuse tokio_util::sync;\nfn a() { b.chunks_exact(4) }\n");
    // Once for the file, once for the `mod` that declares it.
    let failures = house("src/vfs/util.rs", "//! V.\n");
    assert_eq!(failures.len(), 2, "{failures:#?}");
    assert!(failures[1].contains("`util` in the file's name"), "{failures:#?}");
}

#[test]
fn unfinished_work_and_silenced_checks_are_refused() {
    let mark = concat!("TO", "DO");
    breaks("src/vfs/mod.rs", &format!("//! V.\n// {mark}: later\n"), 2, mark);
    for attribute in ["#[allow(dead_code)]", "#![allow(x)]", "#[cfg_attr(test, allow(x))]"] {
        breaks("src/vfs/mod.rs", &format!("//! V.\n{attribute}\n"), 2, "#[expect(");
    }
    is_fine("src/vfs/mod.rs", "//! V.\n#[expect(dead_code, reason = \"why\")]\nfn a() {}\n");
    for attribute in ["#[ignore]", "#[ignore = \"slow\"]"] {
        breaks("src/vfs/mod.rs", &format!("//! V.\n{attribute}\n"), 2, "ignored test");
    }
}

#[test]
fn code_is_ascii() {
    is_fine("src/vfs/mod.rs", "//! Größe.\nconst A: &str = \"Größe\"; // §\n");
    breaks("src/vfs/mod.rs", "//! V.\nfn größe() {}\n", 2, "ASCII");
}

#[test]
fn every_file_is_reached() {
    let lib = ("src/lib.rs", "//! M.\npub mod vfs;\n");
    let of = |vfs: &str, path: &str| {
        check(&[lib, ("Cargo.toml", ""), ("src/vfs/mod.rs", vfs), (path, "//! V.\n")])
    };
    for (vfs, path) in [
        ("//! V.\nmod inode;\n", "src/vfs/inode.rs"),
        ("//! V.\nmod inode;\n", "src/vfs/inode/mod.rs"),
        ("//! V.\nmod a {\n    mod inode;\n}\n", "src/vfs/a/inode.rs"),
        ("//! V.\n#[path = \"b/c.rs\"]\nmod inode;\n", "src/vfs/b/c.rs"),
        ("//! V.\n", "src/main.rs"),
        ("//! V.\n", "examples/quickstart.rs"),
    ] {
        assert_eq!(of(vfs, path), Vec::<String>::new(), "{path}");
    }
    let failures = of("//! V.\n// mod inode;\n", "src/vfs/inode.rs");
    assert_eq!(failures.len(), 1);
    assert!(failures[0].contains("no `mod` leads to this file"), "{}", failures[0]);
    let test = ("tests/tidy.rs", "//! T.\n");
    for (manifest, failures) in [
        ("", 0),
        ("autotests = false\n", 1),
        ("autotests = false\n[[test]]\nname = \"tidy\"\npath = \"tests/tidy.rs\"\n", 0),
    ] {
        assert_eq!(check(&[("Cargo.toml", manifest), test]).len(), failures, "{manifest}");
    }
}
