//! Resource limits (`--ulimit NAME=SOFT[:HARD]`, `process.rlimits`).

use super::{facts::Facts, fault::Fault};
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};
use rustix::process::Resource;

/// Every limit of getrlimit(2): name of the flag, name in a specification, number of the kernel.
pub(crate) const KINDS: [(&str, PosixRlimitType, Resource); 16] = [
    ("as", PosixRlimitType::RlimitAs, Resource::As),
    ("core", PosixRlimitType::RlimitCore, Resource::Core),
    ("cpu", PosixRlimitType::RlimitCpu, Resource::Cpu),
    ("data", PosixRlimitType::RlimitData, Resource::Data),
    ("fsize", PosixRlimitType::RlimitFsize, Resource::Fsize),
    ("locks", PosixRlimitType::RlimitLocks, Resource::Locks),
    ("memlock", PosixRlimitType::RlimitMemlock, Resource::Memlock),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue, Resource::Msgqueue),
    ("nice", PosixRlimitType::RlimitNice, Resource::Nice),
    ("nofile", PosixRlimitType::RlimitNofile, Resource::Nofile),
    ("nproc", PosixRlimitType::RlimitNproc, Resource::Nproc),
    ("rss", PosixRlimitType::RlimitRss, Resource::Rss),
    ("rtprio", PosixRlimitType::RlimitRtprio, Resource::Rtprio),
    ("rttime", PosixRlimitType::RlimitRttime, Resource::Rttime),
    ("sigpending", PosixRlimitType::RlimitSigpending, Resource::Sigpending),
    ("stack", PosixRlimitType::RlimitStack, Resource::Stack),
];

/// Open files when nothing is said: what systemd gives to a service, and so what Docker's containers have. The soft
/// limit is low because programs that use select(2) break above 1024, and those that need more raise it themselves.
pub(crate) const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// Name of a limit as the flag writes it.
pub fn name(kind: PosixRlimitType) -> &'static str {
    KINDS.iter().find(|(_, known, _)| *known == kind).map_or("unknown", |(name, ..)| name)
}

/// The kernel's number of a limit.
pub fn resource(kind: PosixRlimitType) -> Option<Resource> {
    KINDS.iter().find(|(_, known, _)| *known == kind).map(|(.., resource)| *resource)
}

/// A limit of these values.
pub(crate) fn limit(kind: PosixRlimitType, soft: u64, hard: u64) -> PosixRlimit {
    let builder = PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard);
    builder.build().unwrap_or_default() // the builder has a default for every field, so it can not fail
}

/// Parses `NAME=SOFT[:HARD]`; without `HARD` both are `SOFT`; `-1` and `unlimited` are no limit.
pub(crate) fn parse(text: &str) -> Result<PosixRlimit, Fault> {
    let fail = |why: &str| Fault::new("--ulimit", why).of(text);
    let Some((name, values)) = text.split_once('=') else {
        return Err(fail("there is no value").hint("write NAME=SOFT[:HARD], such as nofile=1024:4096"));
    };
    let Some((_, kind, _)) = KINDS.iter().find(|(known, ..)| *known == name) else {
        let names: Vec<_> = KINDS.iter().map(|(name, ..)| *name).collect();
        return Err(fail(&format!("there is no limit `{name}`")).hint(format!("the limits are {}", names.join(", "))));
    };
    let number = |text: &str| match text {
        "-1" | "unlimited" => Some(u64::MAX),
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    match (number(soft), number(hard)) {
        (Some(soft), Some(hard)) if soft > hard => Err(fail("the soft limit is above the hard one")),
        (Some(soft), Some(hard)) => Ok(limit(*kind, soft, hard)),
        _ => Err(fail("a value is neither a number, nor -1, nor `unlimited`")),
    }
}

/// The nearest that this process can give; the warning says what was cut and why.
pub(crate) fn clamp(asked: PosixRlimit, facts: &Facts) -> (PosixRlimit, Option<String>) {
    let kind = asked.typ();
    // Even CAP_SYS_RESOURCE does not help above fs.nr_open (setrlimit(2), EPERM).
    let kernel = if kind == PosixRlimitType::RlimitNofile { facts.most_files() } else { u64::MAX };
    let own = if facts.may_raise { u64::MAX } else { facts.hard_limit(kind) };
    let most = own.min(kernel);
    if asked.hard() <= most {
        return (asked, None);
    }
    let why = if own <= kernel {
        "this process may not raise its own hard limit (it lacks CAP_SYS_RESOURCE)"
    } else {
        "the kernel allows no more (fs.nr_open)"
    };
    let warning = format!("ulimit {}: {most} instead of {}: {why}", name(kind), shown(asked.hard()));
    (limit(kind, asked.soft().min(most), most), Some(warning))
}

fn shown(value: u64) -> String {
    if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::facts::tests::facts;
    use proptest::prelude::*;

    #[test]
    fn forms() {
        for (text, kind, soft, hard) in [
            ("nofile=1024:4096", PosixRlimitType::RlimitNofile, 1024, 4096),
            ("nproc=10", PosixRlimitType::RlimitNproc, 10, 10),
            ("core=0:-1", PosixRlimitType::RlimitCore, 0, u64::MAX),
            ("stack=unlimited", PosixRlimitType::RlimitStack, u64::MAX, u64::MAX),
            ("as=1:2", PosixRlimitType::RlimitAs, 1, 2),
        ] {
            assert_eq!(parse(text), Ok(limit(kind, soft, hard)), "{text}");
        }
        for (text, part) in [
            ("nofile", "no value"),
            ("files=1", "`files`"),
            ("nofile=2:1", "above"),
            ("nofile=", "neither"),
            ("nofile=x", "neither"),
            ("nofile=1:", "neither"),
            ("nofile=1:2:3", "neither"),
            ("nofile=-2", "neither"),
            ("nofile=99999999999999999999", "neither"),
        ] {
            let fault = parse(text).unwrap_err().to_string();
            assert!(fault.contains(part) && fault.contains(text), "{fault}");
        }
    }

    #[test]
    fn cut_to_what_the_host_allows() {
        let facts = facts();
        let nofile = |soft, hard| limit(PosixRlimitType::RlimitNofile, soft, hard);
        assert_eq!(clamp(nofile(5, 20_000), &facts), (nofile(5, 20_000), None));
        let (cut, warning) = clamp(nofile(1024, 524_288), &facts);
        assert_eq!(cut, nofile(1024, 20_000));
        assert!(warning.unwrap().contains("CAP_SYS_RESOURCE"));
        let strong = Facts { may_raise: true, ..facts };
        assert_eq!(clamp(nofile(1024, 524_288), &strong).0, nofile(1024, 524_288));
        let (cut, warning) = clamp(nofile(u64::MAX, u64::MAX), &strong);
        assert_eq!(cut, nofile(1 << 20, 1 << 20));
        assert!(warning.unwrap().contains("nr_open"));
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,24}", limit in "(nofile|nproc)=[-0-9a-z:]{0,12}") {
            for text in [text, limit] {
                prop_assert!(parse(&text).is_err_and(|fault| fault.value.as_ref() == Some(&text)) || parse(&text).is_ok_and(|limit| limit.soft() <= limit.hard()));
            }
        }
    }
}
