//! Which files belong to a crate at all.
//!
//! Owns the rule that every file is reached by `mod` from a root. Must not know what is in it.

use std::collections::{BTreeMap, BTreeSet};

use super::scan::{Source, is_word};

/// Every file that no root leads to. `manifests` are the texts of the `Cargo.toml` files, by
/// their folders.
pub(crate) fn dead_files(sources: &[Source], manifests: &[(String, String)]) -> Vec<String> {
    let by_path: BTreeMap<&str, &Source> =
        sources.iter().map(|source| (source.path.as_str(), source)).collect();
    let roots = roots(&by_path, manifests);
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut waiting = roots.clone();
    while let Some(path) = waiting.pop() {
        let Some(source) = by_path.get(path.as_str()) else { continue };
        if reached.insert(path.clone()) {
            waiting.extend(children(source, roots.contains(&path)));
        }
    }
    sources
        .iter()
        .filter(|source| !reached.contains(&source.path))
        .map(|source| {
            format!("{}:1: no `mod` leads to this file; declare it or delete it", source.path)
        })
        .collect()
}

fn roots(by_path: &BTreeMap<&str, &Source>, manifests: &[(String, String)]) -> Vec<String> {
    let is_root = |path: &str| {
        ["src/lib.rs", "src/main.rs", "build.rs"].iter().any(|root| {
            path == *root || manifests.iter().any(|(folder, _)| path == format!("{folder}{root}"))
        }) || path.rsplit_once('/').is_some_and(|(folder, _)| {
            folder.ends_with("src/bin") || matches!(folder, "examples" | "benches")
        })
    };
    // Cargo finds these by itself where the manifest does not forbid it.
    let is_found = |path: &str| {
        manifests.iter().filter(|(_, text)| !text.contains("autotests = false")).any(
            |(folder, _)| {
                let inside = path.strip_prefix(folder.as_str());
                let file = inside.and_then(|inside| inside.strip_prefix("tests/"));
                // `tests/name.rs`, or `tests/name/main.rs`.
                file.is_some_and(|file| {
                    file.strip_suffix("/main.rs").unwrap_or(file).matches('/').count() == 0
                })
            },
        )
    };
    let named = manifests.iter().flat_map(|(folder, text)| {
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("path = \"")?.strip_suffix('"'))
            .filter(|path| path.ends_with(".rs"))
            .map(move |path| format!("{folder}{path}"))
    });
    by_path
        .keys()
        .filter(|path| is_root(path) || is_found(path))
        .map(|path| (*path).to_owned())
        .chain(named)
        .collect()
}

/// The files that the `mod name;` of a file may mean.
fn children(source: &Source, is_root: bool) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let base = if is_root || file == "mod.rs" {
        folder.to_owned()
    } else {
        format!("{folder}/{}", file.trim_end_matches(".rs"))
    };
    let mut found = Vec::new();
    let mut inline: Vec<(String, usize)> = Vec::new();
    for at in 0..source.tokens.len() {
        while inline.last().is_some_and(|(_, end)| at >= *end) {
            inline.pop();
        }
        let name = source.at(at, 1);
        if source.at(at, 0) != "mod" || !is_word(name) {
            continue;
        }
        if source.at(at, 2) == "{" {
            inline.push((name.to_owned(), source.closing(at + 2)));
        } else if source.at(at, 2) == ";" {
            let inner: String = inline.iter().map(|(name, _)| format!("{name}/")).collect();
            found.push(format!("{base}/{inner}{name}.rs"));
            found.push(format!("{base}/{inner}{name}/mod.rs"));
            found.extend(named_path(source, at).map(|path| format!("{folder}/{path}")));
        }
    }
    found
}

/// The `#[path = "…"]` in the line before a `mod`.
fn named_path(source: &Source, at: usize) -> Option<String> {
    let above = source.tokens[at].line.checked_sub(2)?;
    let line = source.text.lines().nth(above)?.trim();
    Some(line.strip_prefix("#[path = \"")?.strip_suffix("\"]")?.to_owned())
}
