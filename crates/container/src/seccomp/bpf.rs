//! Classic BPF, written from its end to its beginning.
//!
//! Jumps only go forward, so a program that is written backwards knows the place of every target before the jump to it.
//! A conditional jump reaches 255 instructions; one that has farther to go takes an unconditional jump on the way.

use std::collections::BTreeMap;

/// The kernel's `BPF_MAXINSNS`.
pub(super) const LONGEST: usize = 4096;

/// A comparison of the accumulator with a constant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
    /// Any of the bits.
    AnyBit,
}

/// An instruction already written, counted from the program's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(usize);

/// `struct sock_filter` (linux/filter.h).
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u32,
    when_true: u8,
    when_false: u8,
    k: u32,
}

/// A program in the making; its first instruction is the one written last.
#[derive(Debug, Default)]
pub(super) struct Program {
    reversed: Vec<Instruction>,
    returns: BTreeMap<u32, Place>,
}

impl Program {
    /// Ends the program with this value.
    pub(super) fn answer(&mut self, value: u32) -> Place {
        // One instruction serves all who are near; a copy costs no more than a jump to one far away.
        if let Some(place) = self.returns.get(&value)
            && self.short(*place).is_some()
        {
            return *place;
        }
        let place = self.push(libc::BPF_RET | libc::BPF_K, 0, 0, value);
        self.returns.insert(value, place);
        place
    }

    /// Loads the 32-bit word at this offset of `struct seccomp_data`, and goes on.
    pub(super) fn load(&mut self, offset: u32, next: Place) -> Place {
        self.fall_through(next);
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
    }

    /// Keeps these bits of the accumulator, and goes on.
    pub(super) fn mask(&mut self, bits: u32, next: Place) -> Place {
        self.fall_through(next);
        self.push(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, bits)
    }

    /// Compares the accumulator with a constant, and goes one way or the other.
    pub(super) fn branch(&mut self, test: Test, k: u32, mut when_true: Place, mut when_false: Place) -> Place {
        if when_true == when_false {
            return when_true;
        }
        let code = match test {
            Test::Equal => libc::BPF_JEQ,
            Test::Greater => libc::BPF_JGT,
            Test::GreaterOrEqual => libc::BPF_JGE,
            Test::AnyBit => libc::BPF_JSET,
        };
        loop {
            match (self.short(when_true), self.short(when_false)) {
                (Some(near), Some(other)) => return self.push(libc::BPF_JMP | libc::BPF_K | code, near, other, k),
                (None, _) => when_true = self.go(when_true),
                (_, None) => when_false = self.go(when_false),
            }
        }
    }

    /// The number of instructions.
    pub(super) fn len(&self) -> usize {
        self.reversed.len()
    }

    /// As the kernel takes it: an array of `struct sock_filter` in the byte order of this machine.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let encode = |instruction: &Instruction| {
            let [low, high, a, b] = instruction.k.to_ne_bytes();
            // The opcodes of classic BPF have 8 bits of 16.
            #[allow(clippy::cast_possible_truncation)]
            let [first, second] = (instruction.code as u16).to_ne_bytes();
            [first, second, instruction.when_true, instruction.when_false, low, high, a, b]
        };
        self.reversed.iter().rev().flat_map(encode).collect()
    }

    fn push(&mut self, code: u32, when_true: u8, when_false: u8, k: u32) -> Place {
        self.reversed.push(Instruction { code, when_true, when_false, k });
        Place(self.reversed.len() - 1)
    }

    /// How many instructions the next one written must skip to come to that place.
    fn distance(&self, place: Place) -> usize {
        self.reversed.len() - 1 - place.0
    }

    fn short(&self, place: Place) -> Option<u8> {
        u8::try_from(self.distance(place)).ok()
    }

    fn go(&mut self, place: Place) -> Place {
        // Far below 2³²: a program past `LONGEST` is refused, and one near 2³² does not fit in memory.
        let distance = u32::try_from(self.distance(place)).unwrap_or(u32::MAX);
        self.push(libc::BPF_JMP | libc::BPF_JA, 0, 0, distance)
    }

    fn fall_through(&mut self, next: Place) {
        if self.distance(next) > 0 {
            self.go(next);
        }
    }
}
