//! How a file looks.
//!
//! Owns the rules on sizes, words and marks. Must not know what the code does.

use std::ops::Range;

use super::scan::{Source, blank, is_word};

const LINE_MAX: usize = 100;
const FUNCTION_MAX: usize = 70;
const FILE_MAX: usize = 600;
const TESTS_MAX: usize = 250;

/// Words that name nothing, in singular; with what to do instead.
const BANNED: [(&str, &str); 5] = [
    ("manager", "say what it does"),
    ("helper", "say what it does"),
    ("util", "say what it does"),
    ("misc", "say what it is"),
    ("chunk", "say block (cache), part (upload), extent (file) or frame (body)"),
];

/// Marks of unfinished work, cut in two so that this file has none itself.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Everything about one file.
pub(crate) fn check(source: &Source) -> Vec<String> {
    let rules = [head, lines, sizes, functions, words, marks, attributes, letters];
    rules.into_iter().flat_map(|rule| rule(source)).collect()
}

fn head(source: &Source) -> Vec<String> {
    if source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![format!(
        "{}:1: the file does not start with `//!`; say what it owns, what it promises and what it \
         must not know",
        source.path
    )]
}

fn lines(source: &Source) -> Vec<String> {
    let long = |line: &str| line.chars().count() > LINE_MAX;
    let numbered = source.text.lines().enumerate().filter(|(_, line)| long(line));
    numbered
        .map(|(index, line)| {
            let (path, count) = (&source.path, line.chars().count());
            format!("{path}:{}: {count} characters in a line; break it at {LINE_MAX}", index + 1)
        })
        .collect()
}

fn sizes(source: &Source) -> Vec<String> {
    let mut failures = Vec::new();
    let tests: usize = source.tests.iter().map(|block| source.lines_of(block)).sum();
    let rest = source.text.lines().count().saturating_sub(tests);
    if rest > FILE_MAX {
        failures.push(format!(
            "{}:{FILE_MAX}: {rest} lines without tests; give the second noun in it a file of its \
             own ({FILE_MAX} at most)",
            source.path
        ));
    }
    for block in source.tests.iter().filter(|block| source.lines_of(block) > TESTS_MAX) {
        let (line, count) = (source.tokens[block.start].line, source.lines_of(block));
        failures.push(format!(
            "{}:{line}: {count} lines of tests; move them to a file of their own ({TESTS_MAX} at \
             most)",
            source.path
        ));
    }
    failures
}

fn functions(source: &Source) -> Vec<String> {
    let starts = (0..source.tokens.len())
        .filter(|at| source.at(*at, 0) == "fn" && is_word(source.at(*at, 1)));
    starts
        .filter_map(|at| Some((at, source.lines_of(&body(source, at)?))))
        .filter(|(_, count)| *count > FUNCTION_MAX)
        .map(|(at, count)| {
            format!(
                "{}:{}: `{}` has {count} lines; split it where a comment would have been a heading \
                 ({FUNCTION_MAX} at most)",
                source.path,
                source.tokens[at].line,
                source.at(at, 1)
            )
        })
        .collect()
}

/// A function from `fn` to its closing brace; none for one without a body.
fn body(source: &Source, start: usize) -> Option<Range<usize>> {
    let mut at = start;
    while at < source.tokens.len() {
        match source.at(at, 0) {
            "(" | "[" => at = source.closing(at),
            "{" => return Some(start..source.closing(at) + 1),
            ";" => return None,
            _ => {}
        }
        at += 1;
    }
    None
}

fn words(source: &Source) -> Vec<String> {
    let mut failures = Vec::new();
    let path = &source.path;
    for part in path.trim_end_matches(".rs").split('/') {
        if let Some((word, instead)) = banned(part) {
            failures.push(format!("{path}:1: `{word}` in the file's name; {instead}"));
        }
    }
    for (at, token) in source.tokens.iter().enumerate() {
        // Names of other crates stand in paths and behind dots.
        let is_foreign = matches!(source.at(at, -1), "." | "::") || source.at(at, 1) == "::";
        if is_foreign || !is_word(&token.text) {
            continue;
        }
        if let Some((word, instead)) = banned(&token.text) {
            let (line, name) = (token.line, &token.text);
            failures.push(format!("{path}:{line}: `{word}` in the name `{name}`; {instead}"));
        }
    }
    failures
}

/// The banned word in `name`, however it is joined: `ChunkList`, `chunk_list`, `CHUNKS`.
fn banned(name: &str) -> Option<(&'static str, &'static str)> {
    let mut snake = String::new();
    let mut was_lower = false;
    for character in name.chars() {
        if character.is_uppercase() && was_lower {
            snake.push('_');
        }
        was_lower = character.is_lowercase() || character.is_ascii_digit();
        snake.extend(character.to_lowercase());
    }
    let is_banned = |part: &str| {
        let matches = |word: &str| part == word || part.strip_suffix('s') == Some(word);
        BANNED.iter().find(|(word, _)| matches(word)).copied()
    };
    snake.split(['_', '-']).find_map(is_banned)
}

fn marks(source: &Source) -> Vec<String> {
    let is_edge = |c: char| !c.is_alphanumeric() && c != '_';
    let mut failures = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for mark in line.split(is_edge).filter(|word| MARKS.contains(word)) {
            failures.push(format!(
                "{}:{}: {mark}; do it, or open an issue and leave the code clean",
                source.path,
                index + 1
            ));
        }
    }
    failures
}

fn attributes(source: &Source) -> Vec<String> {
    let mut failures = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        if token.text != "#" {
            continue;
        }
        let open = if source.at(at, 1) == "!" { at + 2 } else { at + 1 };
        if source.at(open, 0) != "[" {
            continue;
        }
        let inside = &source.tokens[open..source.closing(open)];
        let place = format!("{}:{}", source.path, token.line);
        if inside.windows(2).any(|pair| pair[0].text == "allow" && pair[1].text == "(") {
            failures.push(format!(
                "{place}: an allow hides what it once excused; write #[expect(lint, reason = …)]"
            ));
        }
        if inside.iter().any(|token| token.text == "ignore") {
            failures.push(format!(
                "{place}: an ignored test tests nothing; run it, delete it, or move it to \
                 `make soak`"
            ));
        }
    }
    failures
}

fn letters(source: &Source) -> Vec<String> {
    let code = blank(&source.text);
    let foreign = code.lines().enumerate().filter(|(_, line)| !line.is_ascii());
    foreign
        .map(|(index, _)| {
            let path = &source.path;
            format!(
                "{path}:{}: a letter outside ASCII in the code; write names in ASCII",
                index + 1
            )
        })
        .collect()
}
