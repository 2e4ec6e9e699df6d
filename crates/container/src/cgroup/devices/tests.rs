use super::{program::*, *};
use oci_spec::runtime::LinuxDeviceCgroupBuilder;
use proptest::prelude::*;

/// Runs a program on one access; panics on what is not in the instruction set of ours.
fn run(program: &[Instruction], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
    let context = [u32::from(access) << 16 | kind as u32, major, minor];
    let mut registers: [Option<u32>; 11] = [None; 11];
    let mut at = 0;
    for _ in 0..10_000 {
        let Instruction { code, target, source, offset, value } = program[at];
        let (target, value) = (usize::from(target), value.cast_unsigned());
        let read = |register: usize| registers[register].expect("reads a register that was never written");
        at += 1;
        match code {
            LOAD => {
                assert_eq!((source, offset % 4), (1, 0));
                registers[target] = Some(context[usize::try_from(offset / 4).unwrap()]);
            }
            MOVE => registers[target] = Some(value),
            MOVE_REGISTER => registers[target] = Some(read(usize::from(source))),
            AND => registers[target] = Some(read(target) & value),
            SHIFT_RIGHT => registers[target] = Some(read(target) >> value),
            JUMP_UNEQUAL | JUMP_EQUAL => {
                if (read(target) == value) == (code == JUMP_EQUAL) {
                    assert!(offset > 0, "jumps forward");
                    at += usize::try_from(offset).unwrap();
                }
            }
            EXIT => return read(0) != 0,
            code => panic!("unknown instruction {code:#x}"),
        }
    }
    panic!("does not end");
}

/// The meaning of the rules, said plainly: the last rule that covers a bit decides about it.
fn meant(rules: &Rules, kind: Kind, major: u32, minor: u32, access: u8) -> bool {
    let device = Devices { kind, major: Some(major), minor: Some(minor) };
    [1, 2, 4].into_iter().filter(|bit| access & bit != 0).all(|bit| {
        let mut matching = rules.rules.iter().rev();
        matching
            .find(|rule| rule.devices.covers(device) && rule.access.0 & bit != 0)
            .map_or(rules.default, |rule| rule.allow)
    })
}

/// What the v1 kernel does with a default and exceptions.
fn v1(state: &Exceptions, kind: Kind, major: u32, minor: u32, access: u8) -> bool {
    let device = Devices { kind, major: Some(major), minor: Some(minor) };
    let mut covering = state.exceptions.iter().filter(|(devices, _)| devices.covers(device));
    if state.default {
        covering.all(|(_, denied)| denied & access == 0)
    } else {
        covering.any(|(_, allowed)| access & !allowed == 0)
    }
}

fn entry(allow: bool, typ: LinuxDeviceType, numbers: (i64, i64), access: &str) -> LinuxDeviceCgroup {
    let builder = LinuxDeviceCgroupBuilder::default().allow(allow).typ(typ).access(access);
    builder.major(numbers.0).minor(numbers.1).build().unwrap()
}
use LinuxDeviceType::{A, B, C, P};

const READ: u8 = 2;
const WRITE: u8 = 4;

#[test]
fn nothing_listed_means_nothing_but_the_usual() {
    let none = Rules::new(&[], false).unwrap();
    assert!(!run(&compile(&none), Kind::Character, 1, 3, READ));
    let usual = compile(&Rules::new(&[], true).unwrap());
    assert!(run(&usual, Kind::Character, 1, 3, READ | WRITE), "null");
    assert!(run(&usual, Kind::Character, 136, 77, READ | WRITE), "a terminal");
    assert!(run(&usual, Kind::Block, 8, 0, 1), "any node may be made");
    assert!(!run(&usual, Kind::Block, 8, 0, READ), "but not read");
    assert!(!run(&usual, Kind::Block, 1, 3, READ), "block 1:3 is not null");
    assert!(!run(&usual, Kind::Character, 1, 1, READ), "mem");
}

#[test]
fn the_last_match_decides() {
    let list = [entry(false, A, (-1, -1), "rwm"), entry(true, C, (10, -1), "rwm"), entry(false, C, (10, 200), "w")];
    let program = compile(&Rules::new(&list, false).unwrap());
    assert!(run(&program, Kind::Character, 10, 200, READ));
    assert!(!run(&program, Kind::Character, 10, 200, WRITE));
    assert!(!run(&program, Kind::Character, 10, 200, READ | WRITE), "one denied bit denies the access");
    assert!(run(&program, Kind::Character, 10, 201, READ | WRITE));
    let parts = [entry(true, C, (7, 1), "r"), entry(true, C, (7, -1), "w")];
    let program = compile(&Rules::new(&parts, false).unwrap());
    assert!(run(&program, Kind::Character, 7, 1, READ | WRITE), "two rules together");
    assert!(!run(&program, Kind::Character, 7, 2, READ | WRITE));
}

#[test]
fn a_wildcard_forgets_what_was_before() {
    let list = [entry(true, C, (10, 1), "rwm"), entry(true, A, (-1, -1), "rwm")];
    assert!(Rules::new(&list, true).unwrap().allows_everything());
    let list = [entry(true, A, (-1, -1), ""), entry(false, A, (-1, -1), "rwm"), entry(true, B, (8, 0), "r")];
    let rules = Rules::new(&list, false).unwrap();
    assert_eq!((rules.default, rules.rules.len()), (false, 1));
    let narrow = Rules::new(&[entry(true, A, (9, -1), "r")], false).unwrap();
    let program = compile(&narrow);
    assert!(run(&program, Kind::Block, 9, 4, READ) && run(&program, Kind::Character, 9, 4, READ));
    assert!(!run(&program, Kind::Block, 8, 4, READ));
}

#[test]
fn large_numbers_compare_whole() {
    let program = compile(&Rules::new(&[entry(true, C, (0xffff_fff0, 0x8000_0000), "r")], false).unwrap());
    assert!(run(&program, Kind::Character, 0xffff_fff0, 0x8000_0000, READ));
    assert!(!run(&program, Kind::Character, 0xffff_fff0, 0, READ));
}

#[test]
fn bad_rules_are_named() {
    let error = |entry: LinuxDeviceCgroup| Rules::new(&[entry], true).unwrap_err().to_string();
    assert!(error(entry(true, C, (-2, 0), "r")).starts_with("devices[0].major: -2"));
    assert!(error(entry(true, C, (0, 1 << 40), "r")).starts_with("devices[0].minor: "));
    assert!(error(entry(true, C, (0, 0), "rx")).starts_with("devices[0].access: `rx`"));
    assert!(error(entry(true, P, (0, 0), "r")).starts_with("devices[0].type: `p`"));
}

#[test]
fn v1_refuses_a_hole() {
    let list = [entry(true, C, (10, -1), "rwm"), entry(false, C, (10, 200), "w")];
    let error = Exceptions::new(&Rules::new(&list, false).unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("devices[1]: `c 10:200` takes a part out of the earlier `c 10:*`"), "{error}");
    let list = [entry(true, C, (10, 200), "rwm"), entry(false, C, (10, -1), "w")];
    let state = Exceptions::new(&Rules::new(&list, false).unwrap()).unwrap();
    assert_eq!(state.writes(None), [(false, "a".to_owned()), (true, "c 10:200 rm".to_owned())]);
}

#[test]
fn v1_changes_only_what_differs() {
    let old = Exceptions::parse("c *:* m\nc 1:3 rwm\nb 8:0 r\n").unwrap();
    let list = [entry(true, C, (-1, -1), "m"), entry(true, C, (1, 3), "rw"), entry(true, C, (10, 200), "rw")];
    let new = Exceptions::new(&Rules::new(&list, false).unwrap()).unwrap();
    let writes: Vec<_> = new.writes(Some(&old));
    let text: Vec<_> = writes.iter().map(|(allow, text)| (*allow, text.as_str())).collect();
    assert_eq!(text, [(true, "c 10:200 rw"), (false, "b 8:0 r"), (false, "c 1:3 m")]);
    assert!(new.writes(Some(&new)).is_empty());
    assert_eq!(Exceptions::parse("a *:* rwm\n"), None);
}

fn numbers() -> impl Strategy<Value = (i64, i64)> {
    (prop_oneof![Just(-1i64), 0..3i64], prop_oneof![Just(-1i64), 0..3i64])
}
fn entries() -> impl Strategy<Value = Vec<LinuxDeviceCgroup>> {
    let access = prop_oneof![Just("rwm"), Just("r"), Just("w"), Just("m"), Just("rw"), Just("wm")];
    let one = (any::<bool>(), prop_oneof![Just(A), Just(B), Just(C)], numbers(), access);
    prop::collection::vec(one.prop_map(|(allow, typ, numbers, access)| entry(allow, typ, numbers, access)), 0..10)
}

proptest! {
    #[test]
    fn program_and_exceptions_mean_the_same(list in entries(), always in any::<bool>()) {
        let rules = Rules::new(&list, always).unwrap();
        let program = compile(&rules);
        let exceptions = Exceptions::new(&rules).ok();
        for kind in [Kind::Block, Kind::Character] {
            for (major, minor) in (0..4).flat_map(|major| (0..4).map(move |minor| (major, minor))) {
                for access in 1..8 {
                    let meant = meant(&rules, kind, major, minor, access);
                    prop_assert_eq!(run(&program, kind, major, minor, access), meant);
                    if let Some(state) = exceptions.as_ref().filter(|_| access == 1 || access & 1 == 0) {
                        prop_assert_eq!(v1(state, kind, major, minor, access), meant);
                    }
                }
            }
        }
    }
}
