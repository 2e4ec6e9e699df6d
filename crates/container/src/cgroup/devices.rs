//! Which devices may be used: the ordered rules of OCI, and what each version of control groups makes of them.
//!
//! Every access bit (make, read, write) of a device is decided by the last rule that covers it; where none does, it is
//! denied. On v2 that is a small eBPF program ([`program`]) and exact. On v1 the kernel keeps a default and exceptions to
//! it ([`Exceptions`]), which can not say "all but one of these": such rules are refused, not approximated.

mod enforce;
mod program;

pub(super) use enforce::Enforced;
use program::compile;

use super::CgroupError;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::{collections::BTreeMap, fmt};

/// Access bits as eBPF numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access(pub(super) u8);

impl Access {
    const MAKE: u8 = 1;
    const READ: u8 = 2;
    const WRITE: u8 = 4;
    const ALL: Self = Self(Self::MAKE | Self::READ | Self::WRITE);

    fn parse(text: &str) -> Option<Self> {
        let mut bits = 0;
        for letter in text.chars() {
            bits |= match letter {
                'm' => Self::MAKE,
                'r' => Self::READ,
                'w' => Self::WRITE,
                _ => return None,
            };
        }
        Some(Self(bits))
    }
}
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MAKE, "m")] {
            if self.0 & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// Block or character, numbered as in eBPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Block = 1,
    Character = 2,
}

/// A set of devices; an absent number stands for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Devices {
    pub(super) kind: Kind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
}

impl Devices {
    fn covers(self, other: Self) -> bool {
        let covers = |mine: Option<u32>, its: Option<u32>| mine.is_none() || mine == its;
        self.kind == other.kind && covers(self.major, other.major) && covers(self.minor, other.minor)
    }
    fn meets(self, other: Self) -> bool {
        let meets = |mine: Option<u32>, its: Option<u32>| mine.is_none() || its.is_none() || mine == its;
        self.kind == other.kind && meets(self.major, other.major) && meets(self.minor, other.minor)
    }
}
impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let kind = if self.kind == Kind::Block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{}", number(self.major), number(self.minor))
    }
}

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) devices: Devices,
    pub(super) access: Access,
    /// Place in the OCI list, for messages; none for a rule of ours.
    index: Option<usize>,
}

/// All rules of a container: what holds where none of them does, and they in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) default: bool,
    pub(super) rules: Vec<Rule>,
}

/// What every container may use, as with Docker and runc: make any node; null, zero, full, random, urandom, tty, ptmx
/// and the pseudo terminals for everything.
const ALWAYS: [(Kind, Option<u32>, Option<u32>, Access); 10] = [
    (Kind::Character, None, None, Access(Access::MAKE)),
    (Kind::Block, None, None, Access(Access::MAKE)),
    (Kind::Character, Some(1), Some(3), Access::ALL),
    (Kind::Character, Some(1), Some(5), Access::ALL),
    (Kind::Character, Some(1), Some(7), Access::ALL),
    (Kind::Character, Some(1), Some(8), Access::ALL),
    (Kind::Character, Some(1), Some(9), Access::ALL),
    (Kind::Character, Some(5), Some(0), Access::ALL),
    (Kind::Character, Some(5), Some(2), Access::ALL),
    (Kind::Character, Some(136), None, Access::ALL),
];

impl Rules {
    /// From the OCI list, then (when asked for) what every container may use.
    pub(super) fn new(list: &[LinuxDeviceCgroup], always: bool) -> Result<Self, CgroupError> {
        let mut rules = Self { default: false, rules: Vec::new() };
        for (index, entry) in list.iter().enumerate() {
            rules.add(index, entry)?;
        }
        // Where everything is allowed these would only make the program longer.
        if always && !rules.allows_everything() {
            rules.rules.extend(ALWAYS.map(|(kind, major, minor, access)| Rule {
                allow: true,
                devices: Devices { kind, major, minor },
                access,
                index: None,
            }));
        }
        Ok(rules)
    }

    fn add(&mut self, index: usize, entry: &LinuxDeviceCgroup) -> Result<(), CgroupError> {
        let wrong = |field: &str, reason: String| CgroupError::setting(format!("devices[{index}].{field}"), reason);
        let number = |field: &str, value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => u32::try_from(value)
                .map(Some)
                .map_err(|_| wrong(field, format!("{value} is no device number; leave it out for all"))),
        };
        let (major, minor) = (number("major", entry.major())?, number("minor", entry.minor())?);
        let access = match entry.access().as_deref() {
            None | Some("") => Access::ALL,
            Some(text) => Access::parse(text)
                .ok_or_else(|| wrong("access", format!("`{text}` must be made of `r`, `w` and `m`")))?,
        };
        let kinds: &[Kind] = match entry.typ().unwrap_or_default() {
            LinuxDeviceType::A if major.is_none() && minor.is_none() && access == Access::ALL => {
                self.rules.clear();
                self.default = entry.allow();
                return Ok(());
            }
            LinuxDeviceType::A => &[Kind::Block, Kind::Character],
            LinuxDeviceType::B => &[Kind::Block],
            LinuxDeviceType::C | LinuxDeviceType::U => &[Kind::Character],
            LinuxDeviceType::P => return Err(wrong("type", "`p` (FIFO) is no device; use `b`, `c` or `a`".to_owned())),
        };
        self.rules.extend(kinds.iter().map(|kind| Rule {
            allow: entry.allow(),
            devices: Devices { kind: *kind, major, minor },
            access,
            index: Some(index),
        }));
        Ok(())
    }

    /// Whether there is nothing to enforce.
    pub(super) fn allows_everything(&self) -> bool {
        self.default && self.rules.iter().all(|rule| rule.allow)
    }
}

/// The v1 form: a default, and the devices and accesses for which the contrary holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exceptions {
    pub(super) default: bool,
    pub(super) exceptions: BTreeMap<Devices, u8>,
}

impl Exceptions {
    /// Turns ordered rules into exceptions.
    ///
    /// # Errors
    /// Names the rule that takes a part out of an earlier, wider one.
    pub(super) fn new(rules: &Rules) -> Result<Self, CgroupError> {
        let mut state = Self { default: rules.default, exceptions: BTreeMap::new() };
        for rule in &rules.rules {
            if rule.allow != state.default {
                *state.exceptions.entry(rule.devices).or_insert(0) |= rule.access.0;
                continue;
            }
            for (devices, access) in &mut state.exceptions {
                if *access & rule.access.0 == 0 || !rule.devices.meets(*devices) {
                    continue;
                }
                if !rule.devices.covers(*devices) {
                    let field = rule.index.map_or_else(|| "devices".to_owned(), |index| format!("devices[{index}]"));
                    let reason = format!(
                        "`{}` takes a part out of the earlier `{devices}`, which control groups v1 can not express; list the \
                         devices one by one",
                        rule.devices
                    );
                    return Err(CgroupError::setting(field, reason));
                }
                *access &= !rule.access.0;
            }
            state.exceptions.retain(|_, access| *access != 0);
        }
        if !state.default {
            state.unite();
        }
        Ok(state)
    }

    /// v1 wants one single exception that allows all of an access: where two together allow reading and writing, one gets
    /// what the other has. (Making a node is always asked for alone.)
    fn unite(&mut self) {
        const OPEN: u8 = Access::READ | Access::WRITE;
        let all: Vec<_> = self.exceptions.iter().map(|(devices, access)| (*devices, access & OPEN)).collect();
        for (one, access) in &all {
            for (other, others) in &all {
                if one.meets(*other) && *access != 0 && *others != 0 && access != others {
                    let (major, minor) = (one.major.or(other.major), one.minor.or(other.minor));
                    *self.exceptions.entry(Devices { kind: one.kind, major, minor }).or_insert(0) |= access | others;
                }
            }
        }
    }

    /// From the text of `devices.list`; `None` when that does not say everything (it shows no exceptions to "allow all").
    pub(super) fn parse(list: &str) -> Option<Self> {
        let mut exceptions = BTreeMap::new();
        for line in list.lines() {
            let (devices, access) = line.rsplit_once(' ')?;
            let (kind, numbers) = devices.split_once(' ')?;
            let (major, minor) = numbers.split_once(':')?;
            let kind = match kind {
                "b" => Kind::Block,
                "c" => Kind::Character,
                _ => return None,
            };
            let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
            exceptions.insert(Devices { kind, major: number(major)?, minor: number(minor)? }, Access::parse(access)?.0);
        }
        Some(Self { default: false, exceptions })
    }

    /// What to write to `devices.allow` (true) and `devices.deny` (false) to get here from a former state (unknown when
    /// absent). What stays allowed is allowed all the time, where the former state is known and denies by default.
    pub(super) fn writes(&self, former: Option<&Self>) -> Vec<(bool, String)> {
        let entry = |(devices, access): (&Devices, &u8)| format!("{devices} {}", Access(*access));
        let Some(former) = former.filter(|former| !former.default && !self.default) else {
            let mut writes = vec![(self.default, "a".to_owned())];
            writes.extend(self.exceptions.iter().map(|exception| (!self.default, entry(exception))));
            return writes;
        };
        let difference = |from: &BTreeMap<Devices, u8>, to: &BTreeMap<Devices, u8>, allow| -> Vec<(bool, String)> {
            let missing = from.iter().map(|(devices, access)| (devices, access & !to.get(devices).unwrap_or(&0)));
            missing
                .filter(|(_, access)| *access != 0)
                .map(|(devices, access)| (allow, entry((devices, &access))))
                .collect()
        };
        let mut writes = difference(&self.exceptions, &former.exceptions, true);
        writes.extend(difference(&former.exceptions, &self.exceptions, false));
        writes
    }
}

#[cfg(test)]
mod tests;
