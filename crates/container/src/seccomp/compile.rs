//! From a profile of the OCI runtime specification to the program that the kernel runs at each system call.
//!
//! The build script compiles the default profile with this file, and the engine every other one.
//!
//! What a profile means is what runc and libseccomp make of it, and where they leave it open, this:
//! - A call that no rule names gets the default action. A name that this machine does not have is skipped.
//! - A rule whose action is the default action says nothing.
//! - An unconditional rule decides, the first if there are several. Else the first conditional rule decides that holds.
//! - The conditions of a rule must all hold, unless two are about the same argument: then each is a rule of its own.
//! - Conditions are about 64-bit unsigned numbers, for i386 about the low 32 bits.
//! - Calls newer than the newest that the profile names fail with `ENOSYS` unless the default action lets calls through,
//!   so that C libraries fall back to older calls instead of giving up.
//! - Other instruction sets are ended with `SIGSYS`: i386 if the profile does not list `SCMP_ARCH_X86`, and always what
//!   is not x86 on x86. Calls by the x32 interface fail with `ENOSYS`, as on a kernel without it, listed or not.
//! - Unlike libseccomp, a rule for `connect` says nothing about i386's `socketcall`, which is a call like any other.
//!
//! Decisions that need no argument are made from the machine and the number alone. Since Linux 5.11 the kernel then
//! works out at installation which numbers are allowed, and does not run the program for them at all.

use super::{
    bpf::{LONGEST, Place, Program, Test},
    error::SeccompError,
    numbers::{Machine, X32_BIT},
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};
use std::{collections::BTreeMap, mem};

/// The kernel's `MAX_ERRNO`; a larger number would be cut to it.
const LARGEST_ERRNO: u32 = 4095;
/// `SECCOMP_RET_DATA`: what a tracer can be told.
const LARGEST_DATA: u32 = libc::SECCOMP_RET_DATA;

// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Compiles a profile to an array of `struct sock_filter` for this machine.
///
/// # Errors
/// What the profile asks for and the kernel or this program cannot do; the error names the field.
pub fn compile(profile: &LinuxSeccomp) -> Result<Vec<u8>, SeccompError> {
    if profile.listener_path().is_some() {
        return Err(SeccompError::Listener { field: "listenerPath".to_owned() });
    }
    let default = answer(("defaultAction", "defaultErrnoRet"), profile.default_action(), profile.default_errno_ret())?;
    let rules = profile.syscalls().iter().flatten().enumerate();
    let rules = rules
        .map(|(index, rule)| Ok((rule, check(&format!("syscalls[{index}]"), rule)?)))
        .collect::<Result<Vec<_>, SeccompError>>()?;

    let mut program = Program::default();
    let foreign = program.answer(libc::SECCOMP_RET_KILL_PROCESS);
    let mut start = foreign;
    for machine in machines(profile) {
        let steps = steps(machine, profile.default_action(), default, &rules);
        let tree = tree(&mut program, machine, &steps);
        let entry = program.load(NUMBER, tree);
        start = program.branch(Test::Equal, machine.audit_arch(), entry, start);
    }
    program.load(ARCHITECTURE, start);
    if program.len() > LONGEST {
        return Err(SeccompError::TooLong { instructions: program.len(), largest: LONGEST });
    }
    Ok(program.bytes())
}

/// A condition; for `SCMP_CMP_MASKED_EQ`, `value` is the mask and `value_two` what the masked argument must be.
pub(super) fn argument(
    index: usize,
    value: u64,
    value_two: Option<u64>,
    operator: LinuxSeccompOperator,
) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default().index(index).value(value).op(operator);
    let builder = match value_two {
        Some(value_two) => builder.value_two(value_two),
        None => builder,
    };
    builder.build().expect("every field of this builder has a default")
}

/// What the program returns for a call that this rule decides; `field` names the rule in messages.
pub(super) fn check(field: &str, rule: &LinuxSyscall) -> Result<u32, SeccompError> {
    if rule.names().is_empty() {
        return Err(SeccompError::NoNames { field: field.to_owned() });
    }
    if let Some(index) = rule.names().iter().position(String::is_empty) {
        return Err(SeccompError::NoNames { field: format!("{field}.names[{index}]") });
    }
    for (position, argument) in rule.args().iter().flatten().enumerate() {
        if argument.index() > 5 {
            let field = format!("{field}.args[{position}].index");
            return Err(SeccompError::ArgumentIndex { field, index: argument.index() });
        }
    }
    answer((&format!("{field}.action"), &format!("{field}.errnoRet")), rule.action(), rule.errno_ret())
}

/// What the program returns for an action; `fields` are the names of the action and its number in messages.
fn answer(fields: (&str, &str), action: LinuxSeccompAction, number: Option<u32>) -> Result<u32, SeccompError> {
    let (action_field, number_field) = fields;
    let value = match action {
        LinuxSeccompAction::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        LinuxSeccompAction::ScmpActLog => libc::SECCOMP_RET_LOG,
        LinuxSeccompAction::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActErrno => libc::SECCOMP_RET_ERRNO,
        LinuxSeccompAction::ScmpActTrace => libc::SECCOMP_RET_TRACE,
        LinuxSeccompAction::ScmpActNotify => return Err(SeccompError::Listener { field: action_field.to_owned() }),
    };
    let largest = match action {
        LinuxSeccompAction::ScmpActErrno => LARGEST_ERRNO,
        LinuxSeccompAction::ScmpActTrace => LARGEST_DATA,
        _ if number.is_some() => {
            return Err(SeccompError::ErrnoUnused { field: number_field.to_owned(), action: action.to_string() });
        }
        _ => return Ok(value),
    };
    match number.unwrap_or(libc::EPERM.unsigned_abs()) {
        number if number <= largest => Ok(value | number),
        value => Err(SeccompError::ErrnoRange { field: number_field.to_owned(), value, largest }),
    }
}

/// The instruction sets whose calls the profile judges. Those that this machine cannot run need no code.
fn machines(profile: &LinuxSeccomp) -> Vec<Machine> {
    let listed = |arch| profile.architectures().iter().flatten().any(|listed| *listed == arch);
    let i386 = cfg!(target_arch = "x86_64") && listed(Arch::ScmpArchX86);
    // The last becomes the first that the program looks at.
    if i386 { vec![Machine::I386, Machine::Native] } else { vec![Machine::Native] }
}

/// A range of numbers, from this one up to the next step's.
struct Step {
    from: u32,
    decision: Decision,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    Always(u32),
    /// The first case whose conditions all hold, else the other answer.
    Cases(Vec<Case>, u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Case {
    conditions: Vec<LinuxSeccompArg>,
    answer: u32,
}

/// The decision for every number, as steps from 0 up with unequal neighbours.
fn steps(
    machine: Machine,
    default_action: LinuxSeccompAction,
    default: u32,
    rules: &[(&LinuxSyscall, u32)],
) -> Vec<Step> {
    let calls = machine.calls();
    let mut decisions: BTreeMap<u32, Decision> = BTreeMap::new();
    let mut newest = None;
    for (rule, answer) in rules {
        for number in rule.names().iter().filter_map(|name| calls.get(name.as_str()).copied()) {
            newest = newest.max(Some(number));
            if *answer != default {
                let decision = decisions.entry(number).or_insert_with(|| Decision::Cases(Vec::new(), default));
                add(decision, rule.args().as_deref().unwrap_or_default(), *answer);
            }
        }
    }

    let mut steps: Vec<Step> = Vec::new();
    let mut step = |from: u32, decision: Decision| match steps.last_mut() {
        Some(last) if last.from == from => last.decision = decision,
        Some(last) if last.decision == decision => {}
        _ => steps.push(Step { from, decision }),
    };
    step(0, Decision::Always(default));
    for (number, decision) in decisions {
        step(number, decision);
        step(number + 1, Decision::Always(default));
    }
    let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    if let Some(newest) = newest.filter(|_| !lets_through(default_action)) {
        step(newest + 1, Decision::Always(unknown));
    }
    step(X32_BIT, Decision::Always(unknown));
    steps
}

/// A tracer or an administrator who watches wants to see new calls too.
fn lets_through(action: LinuxSeccompAction) -> bool {
    matches!(
        action,
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace
    )
}

fn add(decision: &mut Decision, conditions: &[LinuxSeccompArg], answer: u32) {
    let Decision::Cases(cases, _) = decision else { return };
    if conditions.is_empty() {
        *decision = Decision::Always(answer);
        return;
    }
    let mut arguments: Vec<usize> = conditions.iter().map(LinuxSeccompArg::index).collect();
    arguments.sort_unstable();
    if arguments.is_sorted_by(|one, next| one < next) {
        cases.push(Case { conditions: conditions.to_vec(), answer });
    } else {
        cases.extend(conditions.iter().map(|condition| Case { conditions: vec![*condition], answer }));
    }
}

/// A binary search for the number, which is in the accumulator.
fn tree(program: &mut Program, machine: Machine, steps: &[Step]) -> Place {
    match steps {
        [] => program.answer(libc::SECCOMP_RET_KILL_PROCESS), // never: there is a step from 0
        [step] => decision(program, machine, &step.decision),
        _ => {
            let (low, high) = steps.split_at(steps.len() / 2);
            let from = high[0].from;
            let high = tree(program, machine, high);
            let low = tree(program, machine, low);
            program.branch(Test::GreaterOrEqual, from, high, low)
        }
    }
}

fn decision(program: &mut Program, machine: Machine, decision: &Decision) -> Place {
    match decision {
        Decision::Always(answer) => program.answer(*answer),
        Decision::Cases(cases, otherwise) => {
            let mut next = program.answer(*otherwise);
            for case in cases.iter().rev() {
                let mut holds = program.answer(case.answer);
                for argument in case.conditions.iter().rev() {
                    holds = condition(program, machine, argument, holds, next);
                }
                next = holds;
            }
            next
        }
    }
}

/// Compares a 64-bit argument by its two halves; goes to `holds` or to `fails`.
fn condition(
    program: &mut Program,
    machine: Machine,
    argument: &LinuxSeccompArg,
    mut holds: Place,
    mut fails: Place,
) -> Place {
    use LinuxSeccompOperator as Op;
    let operator = argument.op();
    // The three that are the opposites of others.
    if matches!(operator, Op::ScmpCmpNe | Op::ScmpCmpLt | Op::ScmpCmpLe) {
        mem::swap(&mut holds, &mut fails);
    }
    let (mask, value) = match operator {
        // `value` is the mask here. libseccomp ignores bits of the other value outside of it.
        Op::ScmpCmpMaskedEq => (argument.value(), argument.value_two().unwrap_or(0) & argument.value()),
        _ => (u64::MAX, argument.value()),
    };
    // The machine is little-endian: the low half comes first.
    let low = ARGUMENTS + 8 * u32::try_from(argument.index()).unwrap_or(0); // checked: at most 5
    let high = low + 4;
    let order = match operator {
        Op::ScmpCmpEq | Op::ScmpCmpNe | Op::ScmpCmpMaskedEq => {
            let rest = equal(program, low, low_half(mask), low_half(value), holds, fails);
            return match machine.is_64_bit() {
                true => equal(program, high, high_half(mask), high_half(value), rest, fails),
                false => rest,
            };
        }
        Op::ScmpCmpGt | Op::ScmpCmpLe => Test::Greater,
        Op::ScmpCmpGe | Op::ScmpCmpLt => Test::GreaterOrEqual,
    };
    let rest = program.branch(order, low_half(value), holds, fails);
    let rest = program.load(low, rest);
    if !machine.is_64_bit() {
        return rest;
    }
    let same = program.branch(Test::Equal, high_half(value), rest, fails);
    let above = program.branch(Test::Greater, high_half(value), holds, same);
    program.load(high, above)
}

/// Whether these bits of the word at `offset` are those of `value`.
fn equal(program: &mut Program, offset: u32, mask: u32, value: u32, holds: Place, fails: Place) -> Place {
    let test = match (mask, value) {
        (0, _) => return holds,
        (mask, 0) if mask != u32::MAX => program.branch(Test::AnyBit, mask, fails, holds),
        (u32::MAX, _) => program.branch(Test::Equal, value, holds, fails),
        _ => {
            let test = program.branch(Test::Equal, value, holds, fails);
            program.mask(mask, test)
        }
    };
    program.load(offset, test)
}

#[allow(clippy::cast_possible_truncation)] // wanted
fn low_half(value: u64) -> u32 {
    value as u32
}

fn high_half(value: u64) -> u32 {
    low_half(value >> 32)
}
