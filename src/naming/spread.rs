//! Where names further on in a listing stand, guessed from some that came in a row.
//!
//! Owns the guess alone: it reads names as numbers, each place counting in the characters that
//! stand there (digits, hexadecimal digits, letters), and goes on at the pace of those seen. A
//! wrong guess costs a request, and never a name. Must not know listings.

/// Places that count before those in which the names seen differ, for what carries into them.
const PLACES_BEFORE: usize = 6;

/// Places that count from there on: 1 000 names that differ later lie closer than any guess.
const PLACES_AFTER: usize = 8;

/// The sets of characters that names are made of, smallest first.
const SETS: [&[u8]; 7] = [
    b"0123456789",
    b"0123456789abcdef",
    b"0123456789ABCDEF",
    b"abcdefghijklmnopqrstuvwxyz",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    b"0123456789abcdefghijklmnopqrstuvwxyz",
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
];

/// Names in a row, as numbers.
#[derive(Debug)]
pub struct Spread {
    /// What stands before the places that count.
    before: Vec<u8>,
    /// The characters of each place, ascending.
    places: Vec<Vec<u8>>,
    /// How far one name is from the next.
    pace: f64,
}

impl Spread {
    /// Of names in ascending order; none where they do not tell: fewer than two, not in order, or
    /// with other characters than ASCII where they differ.
    pub fn of(names: &[&str]) -> Option<Self> {
        let (first, last) = (names.first()?.as_bytes(), names.last()?.as_bytes());
        if !names.is_sorted() || first >= last {
            return None;
        }
        let common = first.iter().zip(last).take_while(|(one, other)| one == other).count();
        let start = common.saturating_sub(PLACES_BEFORE);
        let places: Option<Vec<Vec<u8>>> =
            (start..common + PLACES_AFTER).map(|place| characters(names, place)).collect();
        let mut places = places?;
        // Behind the longest name nothing counts.
        places.retain(|characters| !characters.is_empty());
        let mut spread = Self { before: first[..start].to_vec(), places, pace: 0.0 };
        let (from, to) = (spread.number(first)?, spread.number(last)?);
        spread.pace = (to - from) as f64 / (names.len() - 1) as f64;
        Some(spread)
    }

    /// A string that about `count` names lie between `name` and; none where the pace leads out of
    /// what names like these can be.
    pub fn ahead(&self, name: &str, count: u64) -> Option<String> {
        let far = (self.pace * count as f64) as u128;
        let mut number = self.number(name.as_bytes())?.checked_add(far.max(1))?;
        let mut digits = Vec::with_capacity(self.places.len());
        for characters in self.places.iter().rev() {
            let base = characters.len() as u128;
            digits.push(characters[usize::try_from(number % base).ok()?]);
            number /= base;
        }
        digits.extend(self.before.iter().rev());
        digits.reverse();
        (number == 0).then_some(())?;
        String::from_utf8(digits).ok()
    }

    /// A character that never stood at its place counts as the next lower one that did.
    fn number(&self, name: &[u8]) -> Option<u128> {
        let counted = name.strip_prefix(self.before.as_slice())?;
        let mut number = 0_u128;
        for (place, characters) in self.places.iter().enumerate() {
            let rank = counted.get(place).map_or(0, |character| {
                characters.partition_point(|known| known <= character).saturating_sub(1)
            });
            number = number.checked_mul(characters.len() as u128)?.checked_add(rank as u128)?;
        }
        Some(number)
    }
}

/// The characters that may stand at a place: the smallest set that has all those seen there. None
/// where one of them is not ASCII.
fn characters(names: &[&str], place: usize) -> Option<Vec<u8>> {
    let mut seen: Vec<u8> =
        names.iter().filter_map(|name| name.as_bytes().get(place).copied()).collect();
    seen.sort_unstable();
    seen.dedup();
    if !seen.is_ascii() {
        return None;
    }
    let has_all = |set: &&&[u8]| seen.iter().all(|character| set.contains(character));
    let is_letters = seen.len() > 1 || seen.first().is_some_and(u8::is_ascii_digit);
    let set = SETS.iter().find(has_all).filter(|_| is_letters);
    Some(set.map_or(seen, |set| set.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead(names: &[String], count: u64) -> Option<String> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Spread::of(&names)?.ahead(names[names.len() - 1], count)
    }

    fn numbered(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|number| format!("img-{number:06}.jpg")).collect()
    }

    #[test]
    fn numbers_go_on_at_their_pace() {
        for (names, count, wanted) in [
            (numbered(0..1_000), 5_000, "img-005999.jpg"),
            (numbered(9_000..10_000), 40_000, "img-049999.jpg"),
            (numbered(123_000..124_000), 4_000, "img-127999.jpg"),
        ] {
            let guess = ahead(&names, count).unwrap();
            let near = |wanted: &str, guess: &str| {
                let number = |name: &str| name[4..10].parse::<i64>().unwrap();
                (number(wanted) - number(guess)).abs() <= 1
            };
            assert!(near(wanted, &guess), "{guess}, not {wanted}");
        }
    }

    #[test]
    fn even_hashes_are_met_about_where_they_are() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut all: Vec<String> =
            (0..50_000).map(|_| format!("{:016x}", random.u64(..))).collect();
        all.sort();
        let guess = ahead(&all[9_000..10_000], 10_000).unwrap();
        let passed = all.partition_point(|name| *name <= guess);
        assert!((18_000..22_000).contains(&passed), "{passed}");
    }

    #[test]
    fn where_names_can_go_no_further_there_is_no_guess() {
        assert_eq!(ahead(&numbered(999_000..1_000_000), 5_000), None);
        assert_eq!(ahead(&["one".into()], 10), None);
        assert_eq!(ahead(&["b".into(), "a".into()], 10), None);
        assert_eq!(ahead(&["ä".into(), "ö".into()], 10), None);
    }

    #[test]
    fn a_guess_is_behind_every_name_seen_and_has_no_slash() {
        for names in [
            vec!["a".to_owned(), "b".into(), "b.txt".into()],
            vec!["2024-01-01".into(), "2024-01-02".into(), "2024-02-01".into()],
            vec!["A_1".into(), "A_a".into(), "a".into()],
        ] {
            let guess = ahead(&names, 100);
            assert!(guess.as_ref().is_none_or(|guess| guess > names.last().unwrap()), "{guess:?}");
            assert!(guess.is_none_or(|guess| !guess.contains('/')));
        }
    }
}
