//! Compiled programs against the profiles they are made from, and the default profile against Docker's.

use super::{
    COMMON, bpf::LONGEST, compile, default_profile, default_profile_i386, default_program, numbers::Machine,
    profile::relevant,
};
use crate::capability::{Capability, CapabilitySet};
use interpreter::{Call, Filter};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSyscall};

mod docker;
mod interpreter;
mod judge;
mod property;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

fn number(name: &str) -> u32 {
    Machine::Native.calls()[name]
}

/// A native call of this name with this first argument.
fn call(name: &str, first: u64) -> Call {
    Call { number: number(name), machine: Machine::Native.audit_arch(), arguments: [first, 0, 0, 0, 0, 0] }
}

fn profile(default: LinuxSeccompAction, rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(default);
    profile.set_syscalls(Some(rules));
    profile
}

fn rule(name: &str, action: LinuxSeccompAction, arguments: Vec<oci_spec::runtime::LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(vec![name.to_owned()]);
    rule.set_action(action);
    rule.set_args(Some(arguments));
    rule
}

/// None, all, Docker's, each alone, and each left out.
fn capability_sets() -> Vec<CapabilitySet> {
    let each = || Capability::all();
    [CapabilitySet::EMPTY, CapabilitySet::full(), CapabilitySet::DOCKER]
        .into_iter()
        .chain(each().map(|one| CapabilitySet::EMPTY.with(one)))
        .chain(each().map(|one| CapabilitySet::full().without(one)))
        .collect()
}

#[test]
fn the_embedded_program_is_the_compiled_profile() {
    assert_eq!(COMMON, compile(&default_profile(CapabilitySet::DOCKER)).unwrap());
    let without_difference = CapabilitySet::DOCKER.without("CAP_NET_RAW".parse().unwrap());
    assert_eq!(default_program(&without_difference), COMMON);
    assert_ne!(default_program(&CapabilitySet::EMPTY), COMMON, "chroot");
}

#[test]
fn the_program_depends_on_the_relevant_capabilities_only() {
    for set in capability_sets() {
        assert_eq!(default_program(&set), default_program(&relevant(set)), "{set:?}");
        assert_eq!(default_program(&set), compile(&default_profile(set)).unwrap(), "{set:?}");
    }
}

/// Every number, with arguments on which the rules of the profile turn.
#[test]
fn the_default_programs_do_what_the_profiles_say() {
    let arguments = [0, 1, 2, 8, 17, 37, 38, 39, 40, 41, 45, 64, 0x2_0000, 0x2_0008, 0x0200_0000, 0x1000_0000]
        .into_iter()
        .flat_map(|value| [value, value | 1 << 32, !value])
        .chain([0xffff_ffff, u64::MAX]);
    let arguments: Vec<u64> = arguments.collect();
    let numbers: Vec<u32> = (0..600).chain([0x3fff_ffff, 0x4000_0000, 0x4000_0027, u32::MAX]).collect();
    for set in [CapabilitySet::DOCKER, CapabilitySet::EMPTY, CapabilitySet::full()] {
        for profile in [default_profile(set), default_profile_i386(set)] {
            let filter = Filter::new(&compile(&profile).unwrap());
            let judge = judge::Judge::new(&profile);
            for machine in [Machine::Native.audit_arch(), Machine::I386.audit_arch(), 0x4000_0028] {
                for (number, argument) in
                    numbers.iter().flat_map(|number| arguments.iter().map(move |one| (number, one)))
                {
                    let call = Call { number: *number, machine, arguments: [*argument, 0, 0, 0, 0, 0] };
                    assert_eq!(filter.answer(&call), judge.answer(&call), "{call:?} with {set:?}");
                }
            }
        }
    }
}

#[test]
fn the_default_programs_are_small() {
    let filter = Filter::new(&default_program(&CapabilitySet::DOCKER));
    println!("default program: {} instructions", filter.len());
    assert!(filter.len() <= 200, "{}", filter.len());
    for name in
        ["read", "write", "futex", "openat", "mmap", "close", "epoll_pwait", "clone", "socket", "mount", "clone3"]
    {
        let run = filter.run(&call(name, 0));
        println!("{name}: {:#x} after {} instructions", run.answer, run.executed);
        assert!(run.executed <= 16, "{name}: {}", run.executed);
    }
    let large = Filter::new(&compile(&default_profile_i386(CapabilitySet::full())).unwrap());
    println!("with all capabilities and i386: {} instructions", large.len());
    assert!(large.len() <= 400, "{}", large.len());
}

/// The kernel runs no program for a call that is allowed without a look at an argument (since Linux 5.11).
#[test]
fn the_kernel_can_skip_the_program_for_plain_calls() {
    let filter = Filter::new(&default_program(&CapabilitySet::DOCKER));
    let conditional = ["socket", "personality", "clone"].map(number);
    for (name, number) in Machine::Native.calls() {
        let run = filter.run(&call(name, 0));
        assert_eq!(run.read_argument, conditional.contains(number), "{name}");
    }
}

#[test]
fn long_profiles_are_refused_by_name() {
    let condition =
        |value| super::compile::argument(3, value, None, oci_spec::runtime::LinuxSeccompOperator::ScmpCmpGt);
    let rules =
        |count| (0..count).map(|value| rule("read", LinuxSeccompAction::ScmpActTrap, vec![condition(value << 32)]));
    let error = compile(&profile(LinuxSeccompAction::ScmpActAllow, rules(2000).collect())).unwrap_err().to_string();
    assert!(error.contains("kernel takes at most 4096"), "{error}");
    let longest = compile(&profile(LinuxSeccompAction::ScmpActAllow, rules(800).collect())).unwrap();
    let longest = Filter::new(&longest);
    assert!(longest.len() > 4000 && longest.len() <= LONGEST, "{}", longest.len());
}

#[test]
fn what_cannot_be_honoured_is_an_error() {
    let text = |edit: fn(&mut LinuxSeccomp)| {
        let mut profile = profile(LinuxSeccompAction::ScmpActAllow, Vec::new());
        edit(&mut profile);
        match compile(&profile) {
            Ok(_) => super::flags(&profile).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    };
    use oci_spec::runtime::LinuxSeccompFilterFlag as Flag;
    let notify = text(|profile| {
        profile.set_default_action(LinuxSeccompAction::ScmpActNotify);
    });
    assert!(notify.contains("`defaultAction` asks a listener"), "{notify}");
    let number = text(|profile| {
        profile.set_default_errno_ret(Some(1));
    });
    assert!(number.contains("`defaultErrnoRet` is given, but action SCMP_ACT_ALLOW"), "{number}");
    let listener = text(|profile| {
        profile.set_listener_path(Some("/run/agent".into()));
    });
    assert!(listener.contains("`listenerPath`"), "{listener}");
    let flag = text(|profile| {
        profile.set_flags(Some(vec![Flag::SeccompFilterFlagLog, Flag::SeccompFilterFlagWaitKillableRecv]));
    });
    assert!(flag.contains("`flags[1]` asks a listener"), "{flag}");
    let rule = text(|profile| {
        profile.set_syscalls(Some(vec![rule("read", LinuxSeccompAction::ScmpActNotify, Vec::new())]));
    });
    assert!(rule.contains("`syscalls[0].action`"), "{rule}");
}

#[test]
fn flags_are_the_kernels() {
    use super::FilterFlags;
    use oci_spec::runtime::LinuxSeccompFilterFlag as Flag;
    let mut profile = default_profile(CapabilitySet::DOCKER);
    assert_eq!(super::flags(&profile).unwrap(), FilterFlags::SPEC_ALLOW);
    profile.set_flags(Some(Vec::new()));
    assert_eq!(super::flags(&profile).unwrap().bits(), 0);
    profile.set_flags(Some(vec![Flag::SeccompFilterFlagLog, Flag::SeccompFilterFlagTsync]));
    let flags = super::flags(&profile).unwrap();
    assert_eq!(u64::from(flags.bits()), libc::SECCOMP_FILTER_FLAG_LOG | libc::SECCOMP_FILTER_FLAG_TSYNC);
    assert!(flags.contains(FilterFlags::LOG) && !flags.contains(FilterFlags::SPEC_ALLOW));
    assert_eq!(u64::from(FilterFlags::SPEC_ALLOW.bits()), libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
}
