//! What an expression means for one link type: a decision program over the bytes of a frame.
//!
//! Each step tests one value and names the next step for yes and for no. Steps only point to
//! lower indices, so a run ends after at most one pass. A test that needs bytes beyond the
//! captured ones ends the run with "no match", even inside `not`: what BPF does.

use super::limit::STACK_DEPTH_MAX;

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) entry: Target,
}

/// The answer for one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The frame matches.
    Match,
    /// It does not.
    NoMatch,
    /// A byte beyond the captured ones was needed, or a division by zero: it does not match.
    Undecided,
}

/// Where a decision leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Match,
    NoMatch,
    Step(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) test: Test,
    pub(super) yes: Target,
    pub(super) no: Target,
}

/// One yes-or-no question about a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    /// A masked field against a constant.
    Field {
        load: Load,
        mask: u32,
        compare: Compare,
        value: u32,
    },
    /// Two values computed on a stack, the left one below the right one.
    Relation {
        code: Vec<Instruction>,
        compare: Compare,
    },
}

/// Where bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// Bytes on the wire, not read from the frame.
    WireLength,
    /// At a fixed offset from the start of the frame.
    Frame { offset: u32, size: u8 },
    /// At an offset from the end of the IPv4 header that begins at `header`.
    BehindIpv4 { header: u32, offset: u32, size: u8 },
}

/// A comparison of unsigned numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    Greater,
    GreaterOrEqual,
}

/// One instruction of the stack machine for relations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instruction {
    Push(u32),
    Load(Load),
    /// Replaces the index on top by the bytes at `index + base`.
    LoadIndexed {
        base: u32,
        size: u8,
    },
    /// Replaces the index on top by the bytes at `index + header length + header`.
    LoadIndexedBehindIpv4 {
        header: u32,
        size: u8,
    },
    Negate,
    Operate(super::ast::Operator),
}

/// The bytes a program looks at.
#[derive(Clone, Copy)]
struct Frame<'f> {
    bytes: &'f [u8],
    wire_length: u32,
}

impl Program {
    /// Whether a frame matches; `bytes` are the captured ones from the link header on,
    /// `wire_length` is the length it had on the wire, in bytes.
    #[must_use]
    pub fn matches(&self, bytes: &[u8], wire_length: u32) -> bool {
        self.decide(bytes, wire_length) == Decision::Match
    }

    /// As [`Self::matches`], and tells "does not match" from "too little was captured to say".
    #[must_use]
    pub fn decide(&self, bytes: &[u8], wire_length: u32) -> Decision {
        let frame = Frame { bytes, wire_length };
        let mut target = self.entry;
        loop {
            let step = match target {
                Target::Match => return Decision::Match,
                Target::NoMatch => return Decision::NoMatch,
                Target::Step(index) => &self.steps[index],
            };
            target = match frame.test(&step.test) {
                Some(true) => step.yes,
                Some(false) => step.no,
                None => return Decision::Undecided,
            };
        }
    }

    /// Number of steps.
    #[must_use]
    pub fn step_count(&self) -> usize {
        self.steps.len()
    }
}

impl Frame<'_> {
    /// `None` when bytes beyond the captured ones are needed.
    fn test(self, test: &Test) -> Option<bool> {
        Some(match test {
            Test::Field {
                load,
                mask,
                compare,
                value,
            } => compare.holds(self.load(*load)? & mask, *value),
            Test::Relation { code, compare } => {
                let (left, right) = self.compute(code)?;
                compare.holds(left, right)
            }
        })
    }

    fn load(self, load: Load) -> Option<u32> {
        match load {
            Load::WireLength => Some(self.wire_length),
            Load::Frame { offset, size } => self.read(u64::from(offset), size),
            Load::BehindIpv4 {
                header,
                offset,
                size,
            } => {
                let length = self.ipv4_header_length(header)?;
                self.read(
                    u64::from(header) + u64::from(length) + u64::from(offset),
                    size,
                )
            }
        }
    }

    fn ipv4_header_length(self, header: u32) -> Option<u32> {
        Some((self.read(u64::from(header), 1)? & 0xf) * 4)
    }

    fn read(self, offset: u64, size: u8) -> Option<u32> {
        let start = usize::try_from(offset).ok()?;
        let bytes = self
            .bytes
            .get(start..start.checked_add(usize::from(size))?)?;
        Some(
            bytes
                .iter()
                .fold(0, |value, byte| value << 8 | u32::from(*byte)),
        )
    }

    fn compute(self, code: &[Instruction]) -> Option<(u32, u32)> {
        let mut stack = Stack {
            values: [0; STACK_DEPTH_MAX],
            length: 0,
        };
        for instruction in code {
            let value = match *instruction {
                Instruction::Push(number) => number,
                Instruction::Load(load) => self.load(load)?,
                Instruction::LoadIndexed { base, size } => {
                    self.read(u64::from(stack.pop()?) + u64::from(base), size)?
                }
                Instruction::LoadIndexedBehindIpv4 { header, size } => {
                    let index = self.ipv4_header_length(header)?.wrapping_add(stack.pop()?);
                    self.read(u64::from(index) + u64::from(header), size)?
                }
                Instruction::Negate => stack.pop()?.wrapping_neg(),
                Instruction::Operate(operator) => {
                    let right = stack.pop()?;
                    operator.apply(stack.pop()?, right)?
                }
            };
            stack.push(value)?;
        }
        let right = stack.pop()?;
        Some((stack.pop()?, right))
    }
}

struct Stack {
    values: [u32; STACK_DEPTH_MAX],
    length: usize,
}

impl Stack {
    fn push(&mut self, value: u32) -> Option<()> {
        *self.values.get_mut(self.length)? = value;
        self.length += 1;
        Some(())
    }

    fn pop(&mut self) -> Option<u32> {
        self.length = self.length.checked_sub(1)?;
        self.values.get(self.length).copied()
    }
}

impl Compare {
    pub(super) fn holds(self, left: u32, right: u32) -> bool {
        match self {
            Compare::Equal => left == right,
            Compare::Greater => left > right,
            Compare::GreaterOrEqual => left >= right,
        }
    }
}

impl super::ast::Operator {
    /// 32-bit arithmetic that wraps; `None` for a division by zero, which ends the run.
    pub(super) fn apply(self, left: u32, right: u32) -> Option<u32> {
        Some(match self {
            Self::Add => left.wrapping_add(right),
            Self::Subtract => left.wrapping_sub(right),
            Self::Multiply => left.wrapping_mul(right),
            Self::Divide => left.checked_div(right)?,
            Self::Remainder => left.checked_rem(right)?,
            Self::And => left & right,
            Self::Or => left | right,
            Self::Xor => left ^ right,
            Self::ShiftLeft => left.checked_shl(right).unwrap_or(0),
            Self::ShiftRight => left.checked_shr(right).unwrap_or(0),
        })
    }
}
