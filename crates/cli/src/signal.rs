//! Signals by name and number (signal(7); the numbers are those of x86-64 and AArch64).

/// Names of the signals 1 to 31, in order.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];
/// Other names of the same signals.
const ALIASES: [(&str, i32); 4] = [("CLD", 17), ("IOT", 6), ("POLL", 29), ("UNUSED", 31)];
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of the signal named by `text`: `TERM`, `SIGTERM`, `15`, `RTMIN+3`, in any case.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse(text: &str) -> Result<i32, String> {
    let unknown =
        || format!("`{text}` is not a signal: expected a name such as TERM or SIGTERM, or a number from 1 to 64");
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(number) = name.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number).ok_or_else(unknown);
    }
    let named = (1..).zip(NAMES).map(|(number, name)| (name, number)).chain(ALIASES).find(|(known, _)| *known == name);
    let real_time = || {
        let (base, offset) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(offset), _) => (RTMIN, offset),
            (_, Some(offset)) => (RTMAX, offset),
            _ => return None,
        };
        let offset = if offset.is_empty() { 0 } else { offset.parse::<i32>().ok()? };
        base.checked_add(offset).filter(|number| (RTMIN..=RTMAX).contains(number))
    };
    named.map(|(_, number)| number).or_else(real_time).ok_or_else(unknown)
}

/// The name of a signal as signal(7) writes it, or its number.
pub fn name(number: i32) -> String {
    let known = usize::try_from(number - 1).ok().and_then(|index| NAMES.get(index));
    known.map_or_else(|| number.to_string(), |name| format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in
            [("TERM", 15), ("sigterm", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX", 64), ("rtmax-1", 63), ("IOT", 6)]
        {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in ["", "0", "65", "-9", "SIG", "TERMX", "RTMIN+31", "RTMINx", "33x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_those_of_this_machine() {
        use signal_hook::consts::signal;
        for (name, number) in [
            ("HUP", signal::SIGHUP),
            ("USR1", signal::SIGUSR1),
            ("USR2", signal::SIGUSR2),
            ("TERM", signal::SIGTERM),
            ("CHLD", signal::SIGCHLD),
            ("WINCH", signal::SIGWINCH),
            ("SYS", signal::SIGSYS),
        ] {
            assert_eq!(parse(name), Ok(number));
        }
        assert_eq!(name(15), "SIGTERM");
        assert_eq!(name(40), "40");
    }
}
