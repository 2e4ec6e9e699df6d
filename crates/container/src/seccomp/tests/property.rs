//! Random profiles against random calls.

use super::{
    interpreter::{Call, Filter},
    judge::Judge,
};
use crate::seccomp::{compile, numbers::Machine};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op, LinuxSyscall,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// Neighbours, far ones, of one machine only, and of none.
const NAMES: [&str; 22] = [
    "read",
    "write",
    "close",
    "fstat",
    "lseek",
    "mmap",
    "brk",
    "ioctl",
    "clone",
    "clone3",
    "execve",
    "socket",
    "mount",
    "openat",
    "futex",
    "seccomp",
    "mseal",
    "statx",
    "socketcall",
    "waitpid",
    "open_by_moonlight",
    "removexattrat",
];

fn values() -> impl Strategy<Value = u64> {
    let edge = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff, 1 << 32, (1 << 32) + 1, 0x7e02_0000];
    let far = [0x7fff_ffff_ffff_ffff, 1 << 63, 0xffff_ffff_0000_0000, u64::MAX - 1, u64::MAX];
    prop_oneof![4 => select([edge.as_slice(), far.as_slice()].concat()), 1 => any::<u64>()]
}

fn condition() -> impl Strategy<Value = LinuxSeccompArg> {
    let operator = select(vec![
        Op::ScmpCmpNe,
        Op::ScmpCmpLt,
        Op::ScmpCmpLe,
        Op::ScmpCmpEq,
        Op::ScmpCmpGe,
        Op::ScmpCmpGt,
        Op::ScmpCmpMaskedEq,
    ]);
    (0usize..6, values(), option::of(values()), operator)
        .prop_map(|(index, value, second, operator)| super::super::compile::argument(index, value, second, operator))
}

fn action() -> impl Strategy<Value = (Action, Option<u32>)> {
    prop_oneof![
        3 => Just((Action::ScmpActAllow, None)),
        1 => Just((Action::ScmpActLog, None)),
        1 => Just((Action::ScmpActTrap, None)),
        1 => Just((Action::ScmpActKill, None)),
        1 => Just((Action::ScmpActKillThread, None)),
        1 => Just((Action::ScmpActKillProcess, None)),
        3 => option::of(0u32..4096).prop_map(|number| (Action::ScmpActErrno, number)),
        1 => option::of(0u32..65536).prop_map(|number| (Action::ScmpActTrace, number)),
    ]
}

fn rule(conditions: impl Strategy<Value = Option<Vec<LinuxSeccompArg>>>) -> impl Strategy<Value = LinuxSyscall> {
    let names = vec(select(NAMES.to_vec()), 1..4);
    (names, action(), conditions).prop_map(|(names, (action, number), conditions)| {
        let mut rule = LinuxSyscall::default();
        rule.set_names(names.into_iter().map(str::to_owned).collect());
        rule.set_action(action);
        rule.set_errno_ret(number);
        rule.set_args(conditions);
        rule
    })
}

fn profile(rules: impl Strategy<Value = Vec<LinuxSyscall>>) -> impl Strategy<Value = LinuxSeccomp> {
    let architectures = select(vec![
        None,
        Some(vec![]),
        Some(vec![Arch::ScmpArchX86]),
        Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]),
        Some(vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]),
    ]);
    (action(), architectures, rules).prop_map(|((action, number), architectures, rules)| {
        let mut profile = LinuxSeccomp::default();
        profile.set_default_action(action);
        profile.set_default_errno_ret(number);
        profile.set_architectures(architectures);
        profile.set_syscalls(Some(rules));
        profile
    })
}

/// Calls on which the rules of this profile turn.
fn calls(profile: &LinuxSeccomp) -> impl Strategy<Value = Vec<Call>> + use<> {
    let values_of = |condition: &LinuxSeccompArg| [condition.value(), condition.value_two().unwrap_or(0)];
    let known = profile.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten()).flat_map(values_of);
    let known: Vec<u64> =
        known.flat_map(|value| [value.wrapping_sub(1), value, value.wrapping_add(1)]).chain([0]).collect();
    let argument = prop_oneof![2 => select(known), 1 => values()];
    let number = |machine: Machine| NAMES.iter().filter_map(move |name| machine.calls().get(name));
    let numbers = number(Machine::Native)
        .chain(number(Machine::I386))
        .flat_map(|number| [number.saturating_sub(1), *number, number + 1]);
    let numbers: Vec<u32> = numbers.chain([0x3fff_ffff, 0x4000_0000, 0x4000_0001, u32::MAX]).collect();
    let machine = prop_oneof![
        6 => Just(Machine::Native.audit_arch()),
        3 => Just(Machine::I386.audit_arch()),
        1 => any::<u32>(),
    ];
    let call = (select(numbers), machine, proptest::array::uniform6(argument))
        .prop_map(|(number, machine, arguments)| Call { number, machine, arguments });
    vec(call, 200)
}

fn with_calls(rules: impl Strategy<Value = Vec<LinuxSyscall>>) -> impl Strategy<Value = (LinuxSeccomp, Vec<Call>)> {
    profile(rules).prop_flat_map(|profile| {
        let calls = calls(&profile);
        (Just(profile), calls)
    })
}

fn agree(profile: &LinuxSeccomp, calls: &[Call]) -> Result<usize, TestCaseError> {
    let program = compile(profile).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let filter = Filter::new(&program);
    let judge = Judge::new(profile);
    for call in calls {
        prop_assert_eq!(filter.answer(call), judge.answer(call), "{:?}", call);
    }
    Ok(filter.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn programs_do_what_profiles_say(
        (profile, calls) in with_calls(vec(rule(option::of(vec(condition(), 0..4))), 0..10))
    ) {
        agree(&profile, &calls)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    /// Long enough that conditional jumps do not reach.
    #[test]
    fn long_programs_do_what_profiles_say(
        (profile, calls) in with_calls(vec(rule(vec(condition(), 1..4).prop_map(Some)), 60..70))
    ) {
        let instructions = agree(&profile, &calls)?;
        prop_assert!(instructions > 512, "{}", instructions);
    }
}
