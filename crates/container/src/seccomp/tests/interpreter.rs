//! The kernel's machine for classic BPF as far as seccomp has it (net/core/filter.c, kernel/seccomp.c).

use crate::seccomp::bpf::LONGEST;

/// `struct seccomp_data`, without the instruction pointer.
#[derive(Debug, Clone)]
pub struct Call {
    pub number: u32,
    pub machine: u32,
    pub arguments: [u64; 6],
}

pub struct Run {
    pub answer: u32,
    pub executed: usize,
    /// Whether more than the number and the machine was looked at.
    pub read_argument: bool,
}

#[derive(Debug, PartialEq)]
struct Instruction {
    code: u32,
    when_true: usize,
    when_false: usize,
    k: u32,
}

/// A program that the kernel would take.
#[derive(Debug, PartialEq)]
pub struct Filter(Vec<Instruction>);

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const GO: u32 = libc::BPF_JMP | libc::BPF_JA;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const GREATER_OR_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;

impl Filter {
    /// Checks what the kernel checks before it takes a program.
    pub fn new(program: &[u8]) -> Self {
        assert_eq!(program.len() % 8, 0);
        let decode = |bytes: &[u8]| Instruction {
            code: u32::from(u16::from_ne_bytes([bytes[0], bytes[1]])),
            when_true: usize::from(bytes[2]),
            when_false: usize::from(bytes[3]),
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        };
        let program: Vec<Instruction> = program.chunks(8).map(decode).collect();
        verify(&program);
        Self(program)
    }

    /// The number of instructions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn answer(&self, call: &Call) -> u32 {
        self.run(call).answer
    }

    pub fn run(&self, call: &Call) -> Run {
        let (mut at, mut accumulator) = (0, 0u32);
        let mut run = Run { answer: 0, executed: 0, read_argument: false };
        loop {
            let Instruction { code, when_true, when_false, k } = &self.0[at];
            run.executed += 1;
            let mut branch = |holds: bool| at += if holds { *when_true } else { *when_false };
            match *code {
                LOAD => {
                    run.read_argument |= *k >= 8;
                    accumulator = load(call, *k);
                }
                AND => accumulator &= k,
                GO => at += *k as usize,
                EQUAL => branch(accumulator == *k),
                GREATER => branch(accumulator > *k),
                GREATER_OR_EQUAL => branch(accumulator >= *k),
                ANY_BIT => branch(accumulator & k != 0),
                RETURN => {
                    run.answer = *k;
                    return run;
                }
                code => panic!("{at}: opcode {code:#x}"),
            }
            at += 1;
        }
    }
}

fn verify(program: &[Instruction]) {
    assert!(!program.is_empty() && program.len() <= LONGEST, "{} instructions", program.len());
    for (at, instruction) in program.iter().enumerate() {
        let farthest = match instruction.code {
            LOAD => {
                assert!(instruction.k % 4 == 0 && instruction.k < 64, "{at}: load at {}", instruction.k);
                0
            }
            AND | RETURN => 0,
            GO => instruction.k as usize,
            EQUAL | GREATER | GREATER_OR_EQUAL | ANY_BIT => instruction.when_true.max(instruction.when_false),
            code => panic!("{at}: opcode {code:#x}"),
        };
        assert!(at + 1 + farthest < program.len() || instruction.code == RETURN, "{at}: past the end");
    }
    assert_eq!(program.last().map(|last| last.code), Some(RETURN));
}

fn load(call: &Call, offset: u32) -> u32 {
    let argument = |offset: u32| {
        let halves = call.arguments[offset as usize / 8].to_ne_bytes();
        let half = offset as usize % 8;
        u32::from_ne_bytes([halves[half], halves[half + 1], halves[half + 2], halves[half + 3]])
    };
    match offset {
        0 => call.number,
        4 => call.machine,
        8 | 12 => panic!("the instruction pointer"),
        _ => argument(offset - 16),
    }
}
