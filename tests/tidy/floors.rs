//! Who may import whom.
//!
//! Owns the rules of the house's floors: imports point downward in the order of `src/lib.rs`,
//! and some crates and keywords have one home. Must not know style.

use super::scan::{Source, is_word};

/// Modules that stand side by side and never import each other.
const SIBLINGS: [(&str, &str); 1] = [("read", "write")];

/// A crate (or a family of them), the folders it is kept out of, and the places in those folders
/// where it is at home.
const HOMES: [(&str, &[&str], &[&str]); 10] = [
    ("aws_*", &["src/", "sidecar/"], &["src/store/s3/", "src/store/s3.rs"]),
    ("fuser", &["src/", "sidecar/"], &["src/fuse/", "src/mount/session.rs", "src/mount/session/"]),
    ("clap", &["src/"], &["src/config/", "src/cli/"]),
    ("s3s", &["src/", "sidecar/"], &[]),
    ("tonic*", &["src/"], &[]),
    ("tonic*", &["tests/testkit/"], &CALLER),
    ("prost*", &["src/"], &[]),
    ("prost*", &["tests/testkit/"], &CALLER),
    ("kube*", &["src/", "tests/testkit/"], &[]),
    ("k8s_*", &["src/", "tests/testkit/"], &[]),
];

/// Whoever calls the driver as kubelet does.
const CALLER: [&str; 2] = ["tests/testkit/src/csi.rs", "tests/testkit/build.rs"];

/// Where `unsafe` may stand.
const UNSAFE: [&str; 3] =
    ["src/mount/kernel.rs", "src/mount/handoff.rs", "src/fuse/passthrough.rs"];

/// Where the environment may be read.
const ENVIRONMENT: &str = "src/config/resolve";

/// The modules of `src/lib.rs`, roof first.
pub(crate) fn order(lib: &Source) -> Vec<String> {
    let is_module = |at: usize| lib.at(at, 0) == "mod" && lib.at(at, 2) == ";";
    (0..lib.tokens.len()).filter(|at| is_module(*at)).map(|at| lib.at(at, 1).to_owned()).collect()
}

/// Every import that points upward or sideways.
pub(crate) fn imports(source: &Source, order: &[String]) -> Vec<String> {
    let Some(own) = top_module(&source.path) else { return Vec::new() };
    let floor = |module: &str| order.iter().position(|listed| listed == module);
    let Some(own_floor) = floor(own) else { return Vec::new() };
    let mut failures = Vec::new();
    for (line, target) in edges(source) {
        if target == "*" {
            failures.push(format!(
                "{}:{line}: imports the whole crate, so that no floor can be checked; name the \
                 modules",
                source.path
            ));
        }
        let Some(target_floor) = floor(&target) else { continue };
        let path = &source.path;
        if target_floor < own_floor {
            failures.push(format!(
                "{path}:{line}: `{own}` imports `{target}`, which stands above it in src/lib.rs; \
                 move what both need down, or pass it in from above"
            ));
        } else if is_sibling(own, &target) {
            failures.push(format!(
                "{path}:{line}: `{own}` imports its sibling `{target}`; move what both need down, \
                 or let `vfs` pass it"
            ));
        }
    }
    failures
}

/// Every use of a crate, of `unsafe` or of the environment away from its home.
pub(crate) fn homes(source: &Source) -> Vec<String> {
    let mut failures = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        let place = format!("{}:{}", source.path, token.line);
        if let Some((name, _, homes)) = foreign_crate(source, at) {
            let home = if homes.is_empty() { "another package" } else { homes[0] };
            failures.push(format!(
                "{place}: `{}` is only used in {home}; put a type of ours between ({name})",
                token.text
            ));
        }
        let is_product = ["src/", "sidecar/", "examples/"];
        if token.text == "unsafe"
            && is_product.iter().any(|folder| source.path.starts_with(folder))
            && !UNSAFE.contains(&source.path.as_str())
        {
            let homes = UNSAFE.join(", ");
            failures.push(format!("{place}: `unsafe` only stands in {homes}; call into those"));
        }
    }
    failures.extend(environment(source));
    failures
}

fn environment(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") || source.path.starts_with(ENVIRONMENT) {
        return Vec::new();
    }
    let is_read = |at: usize| {
        source.at(at, 0) == "env" && source.at(at, 1) == "::" && source.at(at, 2).starts_with("var")
    };
    source
        .code()
        .filter(|(at, _)| is_read(*at))
        .map(|(_, token)| {
            format!(
                "{}:{}: the environment is only read in {ENVIRONMENT}; make it a field of Config",
                source.path, token.line
            )
        })
        .collect()
}

fn is_sibling(one: &str, other: &str) -> bool {
    SIBLINGS.iter().any(|pair| *pair == (one, other) || *pair == (other, one))
}

fn foreign_crate(
    source: &Source,
    at: usize,
) -> Option<&'static (&'static str, &'static [&'static str], &'static [&'static str])> {
    let is_path = source.at(at, 1) == "::" || matches!(source.at(at, -1), "use" | "crate");
    let is_inner = source.at(at, -1) == "::" && is_word(source.at(at, -2));
    if !is_path || is_inner {
        return None;
    }
    let word = source.at(at, 0);
    HOMES.iter().find(|(name, folders, homes)| {
        let is_named = match name.strip_suffix('*') {
            Some(family) => word.starts_with(family),
            None => word == *name,
        };
        let starts = |places: &[&str]| places.iter().any(|place| source.path.starts_with(place));
        is_named && starts(folders) && !starts(homes)
    })
}

/// `naming` for `src/naming/key.rs` and for `src/naming.rs`; none for the crate's roots.
fn top_module(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let top = inside.split('/').next()?.trim_end_matches(".rs");
    (!matches!(top, "lib" | "main")).then_some(top)
}

/// How many `super` lead from this file's module to the crate's root.
fn depth(path: &str) -> usize {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    inside.split('/').filter(|part| *part != "mod").count()
}

/// Every mention of a top-level module, outside tests: `crate::a`, `crate::{a, b::c}`,
/// `super::super::a` where that many lead to the root.
fn edges(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, token) in source.code() {
        if source.at(at, 1) != "::" {
            continue;
        }
        match token.text.as_str() {
            "crate" => heads(source, at + 2, &mut found),
            "super" if source.at(at, -1) != "::" || source.at(at, -2) == "self" => {
                let mut end = at;
                while source.at(end, 1) == "::" && source.at(end, 2) == "super" {
                    end += 2;
                }
                let steps = (end - at) / 2 + 1;
                if steps >= depth(&source.path) && source.at(end, 1) == "::" {
                    heads(source, end + 2, &mut found);
                }
            }
            _ => {}
        }
    }
    found
}

/// The first words of the path or of the braced group that starts at `at`.
fn heads(source: &Source, at: usize, found: &mut Vec<(usize, String)>) {
    let Some(token) = source.tokens.get(at) else { return };
    if token.text != "{" {
        found.push((token.line, token.text.clone()));
        return;
    }
    let end = source.closing(at);
    let mut depth = 0_usize;
    for inner in at..end {
        match source.at(inner, 0) {
            "{" => depth += 1,
            "}" => depth -= 1,
            word if depth == 1 && matches!(source.at(inner, -1), "{" | ",") => {
                found.push((source.tokens[inner].line, word.to_owned()));
            }
            _ => {}
        }
    }
}
