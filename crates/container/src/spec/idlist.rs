//! Lists of CPUs and memory nodes as the kernel writes them: `0-3,8`.

use std::{fmt, str::FromStr};

/// A set of small numbers, kept as ascending ranges that neither meet nor overlap. A range costs the same however long
/// it is, so no text makes this large.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdList(Vec<(u32, u32)>);

/// Largest number taken: more than any machine has, and what `CONFIG_NR_CPUS` can be.
const MAX: u32 = 8191;

impl IdList {
    /// Number of members.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }
    /// Its members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }
    /// Members that `other` does not have.
    pub fn without(&self, other: &Self) -> Vec<u32> {
        let has = |id: &u32| other.0.iter().any(|(first, last)| (first..=last).contains(&id));
        self.iter().filter(|id| !has(id)).collect()
    }
}

impl FromStr for IdList {
    type Err = &'static str;
    /// Takes `N` and `N-M` between commas.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let number = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse::<u32>().ok().filter(|number| plain && *number <= MAX);
            number.ok_or("it is not a list of numbers and ranges such as 0-3,8")
        };
        let mut ranges = text
            .split(',')
            .map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                let (first, last) = (number(first)?, number(last)?);
                if first > last { Err("a range in it ends before it starts") } else { Ok((first, last)) }
            })
            .collect::<Result<Vec<_>, _>>()?;
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(previous) if first <= previous.1 + 1 => previous.1 = previous.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Ok(Self(merged))
    }
}
impl fmt::Display for IdList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_brought_into_order() {
        for (text, shown, count) in
            [("0", "0", 1), ("3,1-2", "1-3", 3), ("0-3,8", "0-3,8", 5), ("7,7,6-8", "6-8", 3), ("0,2,4", "0,2,4", 3)]
        {
            let list: IdList = text.parse().unwrap();
            assert_eq!((list.to_string().as_str(), list.count()), (shown, count), "{text}");
        }
        for text in ["", ",", "1,", "a", "-1", "1-", "3-1", "0x1", "+1", " 1", "1-2-3", "8192", "99999999999"] {
            assert!(text.parse::<IdList>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_missing() {
        let all: IdList = "0-3,8".parse().unwrap();
        assert_eq!("2-5".parse::<IdList>().unwrap().without(&all), [4, 5]);
        assert!("0,8".parse::<IdList>().unwrap().without(&all).is_empty());
    }

    proptest! {
        #[test]
        fn never_panics_and_reads_back(text in "[0-9,-]{0,16}") {
            if let Ok(list) = text.parse::<IdList>() {
                prop_assert_eq!(list.to_string().parse::<IdList>(), Ok(list));
            }
        }
    }
}
