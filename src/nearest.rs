//! Which of the known words was probably meant? For hints about a mistyped one.

/// Longer words are none that somebody mistyped.
const MAX: usize = 128;

/// The known word that differs least from this one, if it is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters: Vec<char> = word.chars().collect();
    if letters.len() > MAX || letters.len() < 2 {
        return None;
    }
    // So that hardly any letter is left as it was, nobody sees a likeness.
    let limit = match letters.len() {
        0..=3 => 1,
        4..=7 => 2,
        _ => 3,
    };
    let near = known.into_iter().filter(|known| known.len() <= 4 * MAX && *known != word);
    let rated = near.map(|known| (distance(&letters, &known.chars().collect::<Vec<_>>()), known));
    rated
        .filter(|(distance, known)| *distance <= limit && *distance < known.chars().count())
        .min()
        .map(|(_, known)| known)
}

/// How many letters have to be added, removed, replaced or exchanged with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut least = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_probably_meant() {
        let known = ["build", "delete", "export", "import", "list", "pull", "push", "debian:bookworm", "tag"];
        let check = |word: &str, want: Option<&str>| assert_eq!(nearest(word, known), want, "{word}");
        check("buid", Some("build"));
        check("biuld", Some("build"));
        check("lsit", Some("list"));
        check("exprot", Some("export"));
        check("debain:bookworm", Some("debian:bookworm"));
        check("tagg", Some("tag"));
        check("frobnicate", None);
        check("x", None);
        check("", None);
        check("ü", None);
        check(&"b".repeat(100_000), None);
        assert_eq!(nearest("ab", ["cd", "a"]), None);
    }
}
