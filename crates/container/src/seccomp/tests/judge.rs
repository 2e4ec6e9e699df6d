//! What a profile means, read from the profile itself for one call at a time: no numbers sorted, nothing split in halves.

use super::interpreter::Call;
use crate::seccomp::numbers::Machine;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op, LinuxSyscall,
};

/// A profile, with the numbers of each rule's names on both machines.
pub struct Judge<'a> {
    profile: &'a LinuxSeccomp,
    rules: Vec<(&'a LinuxSyscall, [Vec<u32>; 2])>,
}

impl<'a> Judge<'a> {
    pub fn new(profile: &'a LinuxSeccomp) -> Self {
        let numbers = |rule: &LinuxSyscall| {
            let number = |machine: Machine| {
                rule.names().iter().filter_map(|name| machine.calls().get(&**name).copied()).collect()
            };
            [number(Machine::Native), number(Machine::I386)]
        };
        let rules = profile.syscalls().iter().flatten().map(|rule| (rule, numbers(rule))).collect();
        Self { profile, rules }
    }

    pub fn answer(&self, call: &Call) -> u32 {
        let profile = self.profile;
        let lists_i386 = profile.architectures().iter().flatten().any(|arch| *arch == Arch::ScmpArchX86);
        let (machine, column) = match call.machine {
            0xc000_003e if cfg!(target_arch = "x86_64") => (Machine::Native, 0),
            0xc000_00b7 if cfg!(target_arch = "aarch64") => (Machine::Native, 0),
            0x4000_0003 if cfg!(target_arch = "x86_64") && lists_i386 => (Machine::I386, 1),
            _ => return libc::SECCOMP_RET_KILL_PROCESS,
        };
        let no_such_call = libc::SECCOMP_RET_ERRNO | 38;
        if call.number >= 1 << 30 {
            return no_such_call;
        }
        let newest = self.rules.iter().flat_map(|(_, numbers)| &numbers[column]).max();
        let strict =
            !matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace);
        if strict && newest.is_some_and(|newest| call.number > *newest) {
            return no_such_call;
        }

        let default = answer(profile.default_action(), profile.default_errno_ret());
        let about = self.rules.iter().filter(|(_, numbers)| numbers[column].contains(&call.number));
        let about = about.map(|(rule, _)| *rule).filter(|rule| answer(rule.action(), rule.errno_ret()) != default);
        let about: Vec<&LinuxSyscall> = about.collect();
        let unconditional = |rule: &&&LinuxSyscall| rule.args().as_ref().is_none_or(Vec::is_empty);
        let deciding =
            about.iter().find(unconditional).or_else(|| about.iter().find(|rule| holds(rule, machine, call)));
        deciding.map_or(default, |rule| answer(rule.action(), rule.errno_ret()))
    }
}

fn answer(action: Action, number: Option<u32>) -> u32 {
    let number = number.unwrap_or(1);
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => 0,
        Action::ScmpActKillProcess => 0x8000_0000,
        Action::ScmpActTrap => 0x0003_0000,
        Action::ScmpActErrno => 0x0005_0000 | number,
        Action::ScmpActTrace => 0x7ff0_0000 | number,
        Action::ScmpActLog => 0x7ffc_0000,
        Action::ScmpActAllow => 0x7fff_0000,
        Action::ScmpActNotify => panic!("no listeners here"),
    }
}

fn holds(rule: &LinuxSyscall, machine: Machine, call: &Call) -> bool {
    let conditions = rule.args().as_deref().unwrap_or_default();
    let mut condition = conditions.iter().map(|condition| compare(condition, machine, call));
    let twice = (0..6).any(|index| conditions.iter().filter(|condition| condition.index() == index).count() > 1);
    if twice { condition.any(|holds| holds) } else { condition.all(|holds| holds) }
}

fn compare(condition: &LinuxSeccompArg, machine: Machine, call: &Call) -> bool {
    let width = if machine == Machine::Native { u64::MAX } else { 0xffff_ffff };
    let argument = call.arguments[condition.index()] & width;
    let (value, second) = (condition.value() & width, condition.value_two().unwrap_or(0) & width);
    match condition.op() {
        Op::ScmpCmpEq => argument == value,
        Op::ScmpCmpNe => argument != value,
        Op::ScmpCmpLt => argument < value,
        Op::ScmpCmpLe => argument <= value,
        Op::ScmpCmpGt => argument > value,
        Op::ScmpCmpGe => argument >= value,
        Op::ScmpCmpMaskedEq => argument & value == second & value,
    }
}
