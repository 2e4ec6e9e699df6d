//! "Did you mean": the candidate nearest to what was typed.

/// The candidate that differs least from `typed`, if it differs little: by one edit up to four characters, two up to
/// eight, three beyond; or if one begins with the other. An edit adds, drops or changes a character or swaps two.
pub fn closest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = match typed.chars().count() {
        0..=4 => 1,
        5..=8 => 2,
        _ => 3,
    };
    let ranked = candidates.into_iter().map(|candidate| {
        let prefix =
            typed.len().min(candidate.len()) >= 3 && (candidate.starts_with(typed) || typed.starts_with(candidate));
        (distance(typed, candidate), !prefix, candidate)
    });
    ranked.filter(|(distance, no_prefix, _)| *distance <= allowed || !no_prefix).min().map(|(_, _, name)| name)
}

/// Optimal string alignment distance.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["web", "worker", "database"];
        assert_eq!(closest("wbe", names), Some("web"));
        assert_eq!(closest("wroker", names), Some("worker"));
        assert_eq!(closest("databse", names), Some("database"));
        assert_eq!(closest("data", names), Some("database"));
        assert_eq!(closest("cache", names), None);
        assert_eq!(closest("x", []), None);
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
