//! Rust source as tokens with line numbers.
//!
//! Owns [`Source`]: a file without its comments and the contents of its literals, cut into words
//! and signs. Promises: a token's line is the one in the file. Must not know any rule.

use std::ops::Range;

/// A word or a sign of the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// An identifier, a number, `::`, or one sign.
    pub(crate) text: String,
    /// Counted from 1.
    pub(crate) line: usize,
}

/// One file, read.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the checkout.
    pub(crate) path: String,
    /// As it stands on disk.
    pub(crate) text: String,
    /// The code alone.
    pub(crate) tokens: Vec<Token>,
    /// The `#[cfg(test)] mod … { … }` blocks, as ranges of tokens.
    pub(crate) tests: Vec<Range<usize>>,
}

impl Source {
    /// Reads a file's text.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let tokens = tokens(&blank(text));
        let tests = test_blocks(&tokens);
        Self { path: path.to_owned(), text: text.to_owned(), tokens, tests }
    }

    /// The tokens outside the test blocks, with their places among all.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &Token)> {
        let is_test = |at: usize| self.tests.iter().any(|block| block.contains(&at));
        self.tokens.iter().enumerate().filter(move |(at, _)| !is_test(*at))
    }

    /// The text of the token `offset` places from `at`; empty beyond both ends.
    pub(crate) fn at(&self, at: usize, offset: isize) -> &str {
        at.checked_add_signed(offset)
            .and_then(|at| self.tokens.get(at))
            .map_or("", |token| token.text.as_str())
    }

    /// Where the bracket that opens at `open` closes.
    pub(crate) fn closing(&self, open: usize) -> usize {
        closing(&self.tokens, open)
    }

    /// How many lines stand between the first and the last token of `range`, both counted.
    pub(crate) fn lines_of(&self, range: &Range<usize>) -> usize {
        let line = |at: usize| self.tokens.get(at).map_or(0, |token| token.line);
        line(range.end.saturating_sub(1)) + 1 - line(range.start)
    }
}

/// True for a token that is an identifier or a keyword.
pub(crate) fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len().saturating_sub(1)
}

fn test_blocks(tokens: &[Token]) -> Vec<Range<usize>> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut blocks = Vec::new();
    for start in 0..tokens.len() {
        let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
        if !attribute.iter().enumerate().all(|(offset, expected)| text(start + offset) == *expected)
        {
            continue;
        }
        let mut at = start + attribute.len();
        while text(at) == "#" {
            at = closing(tokens, at + 1) + 1;
        }
        if text(at) == "mod" && text(at + 2) == "{" {
            blocks.push(start..closing(tokens, at + 2) + 1);
        }
    }
    blocks
}

fn tokens(code: &str) -> Vec<Token> {
    let mut found: Vec<Token> = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let len = if first.is_alphanumeric() || first == '_' {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (token, after) = rest.split_at(len);
            found.push(Token { text: token.to_owned(), line: index + 1 });
            rest = after.trim_start();
        }
    }
    found
}

/// The text with a space for every character of comments and literals; lines stay.
pub(crate) fn blank(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        let end = literal_end(&characters, at);
        if end == at {
            code.push(characters[at]);
            at += 1;
            continue;
        }
        code.extend(characters[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    code
}

/// Where the comment or literal that starts at `at` ends; `at` itself where none starts.
fn literal_end(text: &[char], at: usize) -> usize {
    let next = |offset: usize| text.get(at + offset).copied();
    let is_in_word = at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_');
    match text[at] {
        '/' if next(1) == Some('/') => find(text, at, |c| c == '\n'),
        '/' if next(1) == Some('*') => block_comment_end(text, at),
        '"' => string_end(text, at + 1),
        '\'' => char_end(text, at),
        'r' | 'b' | 'c' if !is_in_word => prefixed_end(text, at),
        _ => at,
    }
}

fn find(text: &[char], from: usize, stop: impl Fn(char) -> bool) -> usize {
    (from..text.len()).find(|at| stop(text[*at])).unwrap_or(text.len())
}

fn block_comment_end(text: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at + 1 < text.len() {
        match (text[at], text[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn string_end(text: &[char], mut at: usize) -> usize {
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// `'a'` and `'\n'` are literals, `'a` is a lifetime.
fn char_end(text: &[char], at: usize) -> usize {
    match (text.get(at + 1), text.get(at + 2)) {
        (Some('\\'), _) => find(text, at + 3, |c| c == '\'') + 1,
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br"…"`, `c"…"`, `b'…'`; a word that starts so is none.
fn prefixed_end(text: &[char], at: usize) -> usize {
    let mut open = at + 1;
    let mut is_raw = text[at] == 'r';
    if matches!(text[at], 'b' | 'c') && text.get(open) == Some(&'r') {
        is_raw = true;
        open += 1;
    }
    if text[at] == 'b' && text.get(open) == Some(&'\'') {
        return char_end(text, open);
    }
    let hashes = find(text, open, |c| c != '#') - open;
    let quote = open + hashes;
    if text.get(quote) != Some(&'"') || (hashes > 0 && !is_raw) {
        return at;
    }
    if !is_raw {
        return string_end(text, quote + 1);
    }
    let is_close = |start: &usize| {
        text[*start] == '"' && text.get(start + 1..=start + hashes).is_some_and(all_hashes)
    };
    (quote + 1..text.len()).find(is_close).map_or(text.len(), |close| close + 1 + hashes)
}

fn all_hashes(signs: &[char]) -> bool {
    signs.iter().all(|sign| *sign == '#')
}
