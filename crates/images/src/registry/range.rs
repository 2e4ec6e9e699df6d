//! Parts of a blob: which bytes a reader wants (RFC 9110, section 14), and where the bytes of a writer belong.

/// Bytes of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub start: u64,
    /// How many.
    pub length: u64,
}

/// What the header `Range` of a request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: there is no such header, or one that a server may ignore (another unit, several ranges).
    Whole,
    /// This part of it.
    Part(Span),
    /// Nothing that is there: 416.
    Nothing,
}

/// Reads `Range: bytes=…` for a blob of `size` bytes.
pub fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(set) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else { return Wanted::Whole };
    // Several ranges would be answered by a body of several parts, which no client of a registry asks for.
    if set.contains(',') {
        return Wanted::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else { return Wanted::Nothing };
    let (first, last) = (number(first), number(last));
    let span = match (first, last) {
        // The last `length` bytes.
        (Number::Absent, Number::Is(length)) => {
            let length = length.min(size);
            Span { start: size - length, length }
        }
        (Number::Is(start), Number::Absent) if start < size => Span { start, length: size - start },
        (Number::Is(start), Number::Is(last)) if start <= last && start < size => {
            Span { start, length: last.min(size - 1) - start + 1 }
        }
        _ => return Wanted::Nothing,
    };
    if span.length == 0 { Wanted::Nothing } else { Wanted::Part(span) }
}

/// Where a chunk of an upload belongs: `Content-Range: <start>-<end>`, both inclusive, as the distribution
/// specification writes it, or with the unit and the size of RFC 9110 (`bytes 0-4/10`).
///
/// `None` if it is malformed or ends before it starts.
pub fn chunk(header: &str) -> Option<Span> {
    let text = header.trim();
    let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (start, end) = text.split_once('-')?;
    match (number(start), number(end)) {
        (Number::Is(start), Number::Is(end)) if start <= end => {
            Some(Span { start, length: (end - start).checked_add(1)? })
        }
        _ => None,
    }
}

enum Number {
    Absent,
    Is(u64),
    Wrong,
}

fn number(text: &str) -> Number {
    match text.trim() {
        "" => Number::Absent,
        // Beyond the range of offsets is beyond the end of every blob.
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => Number::Is(digits.parse().unwrap_or(u64::MAX)),
        _ => Number::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn readers() {
        let part = |start, length| Wanted::Part(Span { start, length });
        for (header, expected) in [
            ("bytes=0-499", part(0, 500)),
            ("bytes=500-", part(500, 500)),
            ("bytes=-100", part(900, 100)),
            ("bytes=-5000", part(0, 1000)),
            ("bytes=999-99999999999999999999999", part(999, 1)),
            ("bytes=1000-", Wanted::Nothing),
            ("bytes=5-4", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=-", Wanted::Nothing),
            ("bytes=x-1", Wanted::Nothing),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), 1000), expected, "{header}");
        }
        assert_eq!(wanted(None, 1000), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Nothing);
    }

    #[test]
    fn writers() {
        assert_eq!(chunk("0-4"), Some(Span { start: 0, length: 5 }));
        assert_eq!(chunk("bytes 5-9/10"), Some(Span { start: 5, length: 5 }));
        assert_eq!(chunk("bytes=5-9"), Some(Span { start: 5, length: 5 }));
        for bad in ["", "5", "5-", "-5", "9-5", "a-b", "bytes */10"] {
            assert_eq!(chunk(bad), None, "{bad}");
        }
        assert_eq!(chunk("0-18446744073709551615"), None);
    }

    proptest! {
        #[test]
        fn a_part_lies_inside(header in "bytes=[0-9-]{0,24}", size in 0u64..10_000) {
            if let Wanted::Part(span) = wanted(Some(&header), size) {
                prop_assert!(span.length > 0 && span.start + span.length <= size);
            }
        }
    }
}
