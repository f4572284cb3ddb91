//! The contract and its proofs.
//!
//! Owns the rule that each promise of `docs/semantics.md` that is said to work names tests, and
//! that they exist. Must not know what is promised.

/// What is wrong with a page of promises, given the tests there are as `file::function`.
pub(crate) fn check(page: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut failures = Vec::new();
    for (index, line) in page.lines().enumerate() {
        let cells: Vec<&str> = line.split(" | ").collect();
        let [number, .., status, proofs] = cells.as_slice() else { continue };
        if *status != "works" {
            continue;
        }
        let place = format!("docs/semantics.md:{}: {}", index + 1, number.trim_start_matches("| "));
        let named: Vec<&str> = proofs.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            failures.push(format!("{place} works and names no test"));
        }
        for test in named.into_iter().filter(|test| !exists(test)) {
            failures.push(format!("{place} names `{test}`, which is no test"));
        }
    }
    failures
}
