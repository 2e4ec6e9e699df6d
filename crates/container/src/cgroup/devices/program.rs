//! The eBPF program of a cgroup that decides about one access to one device.
//!
//! Follows the rules from the last to the first and strikes out of the asked-for accesses what a rule allows; a rule that
//! denies any of those left ends it. Numbers compare as 32 bit, as they come. Straight jumps forward only.

use super::{Access, Rules};

/// One instruction, in the kernel's layout (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u8,
    pub(super) target: u8,
    pub(super) source: u8,
    pub(super) offset: i16,
    pub(super) value: i32,
}

impl Instruction {
    /// As the kernel reads it on this machine.
    pub(super) fn encode(self) -> u64 {
        let registers = if cfg!(target_endian = "little") {
            self.source << 4 | self.target
        } else {
            self.target << 4 | self.source
        };
        let (offset, value) = (self.offset.to_ne_bytes(), self.value.to_ne_bytes());
        u64::from_ne_bytes([self.code, registers, offset[0], offset[1], value[0], value[1], value[2], value[3]])
    }
}

pub(super) const LOAD: u8 = 0x61; // LDX | MEM | W
pub(super) const MOVE: u8 = 0xb4; // ALU32 | MOV | K
pub(super) const MOVE_REGISTER: u8 = 0xbc; // ALU32 | MOV | X
pub(super) const AND: u8 = 0x54; // ALU32 | AND | K
pub(super) const SHIFT_RIGHT: u8 = 0x74; // ALU32 | RSH | K
pub(super) const JUMP_UNEQUAL: u8 = 0x56; // JMP32 | JNE | K
pub(super) const JUMP_EQUAL: u8 = 0x16; // JMP32 | JEQ | K
pub(super) const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
/// The accesses that no rule has allowed yet.
const LEFT: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 0;

fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, target, source, offset, value }
}

/// The program for these rules. Loads from `struct bpf_cgroup_dev_ctx { u32 access_type, major, minor }`, in which
/// `access_type` has the kind in its lower and the accesses in its upper half.
pub(super) fn compile(rules: &Rules) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD, KIND, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, LEFT, KIND, 0, 0),
        instruction(SHIFT_RIGHT, LEFT, 0, 0, 16),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(LOAD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.rules.iter().rev() {
        let numbers =
            [(KIND, Some(rule.devices.kind as u32)), (MAJOR, rule.devices.major), (MINOR, rule.devices.minor)];
        let mut block: Vec<_> = numbers
            .into_iter()
            .filter_map(|(register, number)| Some(instruction(JUMP_UNEQUAL, register, 0, 0, number?.cast_signed())))
            .collect();
        let access = i32::from(rule.access.0);
        match (rule.allow, rule.access == Access::ALL) {
            (_, true) => {}
            (true, false) => {
                block.push(instruction(AND, LEFT, 0, 0, !access));
                block.push(instruction(JUMP_UNEQUAL, LEFT, 0, 0, 0));
            }
            (false, false) => {
                block.push(instruction(MOVE_REGISTER, SCRATCH, LEFT, 0, 0));
                block.push(instruction(AND, SCRATCH, 0, 0, access));
                block.push(instruction(JUMP_EQUAL, SCRATCH, 0, 0, 0));
            }
        }
        block.push(instruction(MOVE, RESULT, 0, 0, i32::from(rule.allow)));
        block.push(instruction(EXIT, 0, 0, 0, 0));
        // Every jump of a block leads behind it; blocks are at most eight long.
        for (after, jump) in (0i16..).zip(block.iter_mut().rev()) {
            if matches!(jump.code, JUMP_UNEQUAL | JUMP_EQUAL) {
                jump.offset = after;
            }
        }
        program.append(&mut block);
    }
    program.push(instruction(MOVE, RESULT, 0, 0, i32::from(rules.default)));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}
