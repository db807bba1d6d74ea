//! Comparisons of computed values: the protocol checks first, then all loads, then the test.

use super::super::ast::{Arithmetic, Comparison, Operator, Protocol};
use super::super::link::{ARP, IPV4, IPV6, RARP};
use super::super::program::{Compare, Instruction, Load, Test};
use super::{CompileError, Compiler, Condition, IPV6_HEADER_BYTES, equal};

/// A value as code, or known already.
enum Value {
    Known(u32),
    Code(Vec<Instruction>),
}

impl Value {
    fn into_code(self) -> Vec<Instruction> {
        match self {
            Value::Known(number) => vec![Instruction::Push(number)],
            Value::Code(code) => code,
        }
    }
}

impl Compiler {
    pub(super) fn relation(
        &self,
        left: &Arithmetic,
        operator: Comparison,
        right: &Arithmetic,
    ) -> Result<Condition, CompileError> {
        let mut guard = Condition::Constant(true);
        let left = self.arithmetic(left, &mut guard)?;
        let right = self.arithmetic(right, &mut guard)?;
        let (compare, negated) = match operator {
            Comparison::Equal => (Compare::Equal, false),
            Comparison::NotEqual => (Compare::Equal, true),
            Comparison::Greater => (Compare::Greater, false),
            Comparison::LessOrEqual => (Compare::Greater, true),
            Comparison::GreaterOrEqual => (Compare::GreaterOrEqual, false),
            Comparison::Less => (Compare::GreaterOrEqual, true),
        };
        let condition = match (left, right) {
            (Value::Known(left), Value::Known(right)) => {
                Condition::Constant(compare.holds(left, right))
            }
            (left, right) => {
                let mut code = left.into_code();
                code.extend(right.into_code());
                Condition::Test(Test::Relation { code, compare })
            }
        };
        Ok(guard.and(if negated {
            condition.negate()
        } else {
            condition
        }))
    }

    fn arithmetic(&self, value: &Arithmetic, guard: &mut Condition) -> Result<Value, CompileError> {
        Ok(match value {
            Arithmetic::Number(number) => Value::Known(*number),
            Arithmetic::Length => Value::Code(vec![Instruction::Load(Load::WireLength)]),
            Arithmetic::Negate(inner) => match self.arithmetic(inner, guard)? {
                Value::Known(number) => Value::Known(number.wrapping_neg()),
                Value::Code(mut code) => {
                    code.push(Instruction::Negate);
                    Value::Code(code)
                }
            },
            Arithmetic::Load { base, index, size } => {
                let mut inner = Condition::Constant(true);
                let index = self.arithmetic(index, &mut inner)?;
                let before = std::mem::replace(guard, Condition::Constant(true));
                *guard = before.and(self.guard(*base, inner));
                Value::Code(self.load(*base, index, *size))
            }
            Arithmetic::Binary {
                operator,
                left,
                right,
            } => {
                // As libpcap does: the checks of a right operand are forgotten, so that
                // `1 + tcp[0]` reads bytes of any frame.
                let left = self.arithmetic(left, guard)?;
                let right = self.arithmetic(right, &mut Condition::Constant(true))?;
                combine(*operator, left, right).map_err(|error| error(value.to_string()))?
            }
        })
    }

    /// What must hold before bytes of a header are read; `inner` belongs to the index.
    fn guard(&self, base: Protocol, inner: Condition) -> Condition {
        match base {
            Protocol::Ether => inner,
            Protocol::Ip => inner.and(self.carries(IPV4)),
            Protocol::Ip6 => inner.and(self.carries(IPV6)),
            Protocol::Arp => inner.and(self.carries(ARP)),
            Protocol::Rarp => inner.and(self.carries(RARP)),
            Protocol::Icmp6 => inner
                .and(self.carries(IPV6))
                .and(equal(self.network(6, 1), 58)),
            _ => self
                .carries(IPV4)
                .and(inner)
                .and(self.protocol(base))
                .and(self.first_fragment()),
        }
    }

    fn load(&self, base: Protocol, index: Value, size: u8) -> Vec<Instruction> {
        let network = self.network_offset();
        let start = match base {
            Protocol::Ether => Some(0),
            Protocol::Ip | Protocol::Ip6 | Protocol::Arp | Protocol::Rarp => Some(network),
            Protocol::Icmp6 => Some(network + IPV6_HEADER_BYTES),
            _ => None,
        };
        match (index, start) {
            (Value::Known(index), Some(start)) => {
                let offset = start.saturating_add(index);
                vec![Instruction::Load(Load::Frame { offset, size })]
            }
            (Value::Code(mut code), Some(base)) => {
                code.push(Instruction::LoadIndexed { base, size });
                code
            }
            (index, None) => {
                let mut code = index.into_code();
                code.push(Instruction::LoadIndexedBehindIpv4 {
                    header: network,
                    size,
                });
                code
            }
        }
    }
}

/// Folds constants; whatever is read from the frame is read in any case.
fn combine(
    operator: Operator,
    left: Value,
    right: Value,
) -> Result<Value, fn(String) -> CompileError> {
    if let (Value::Known(right), Operator::Divide | Operator::Remainder) = (&right, operator)
        && *right == 0
    {
        return Err(CompileError::DivisionByZero);
    }
    if let (Value::Known(right), Operator::ShiftLeft | Operator::ShiftRight) = (&right, operator)
        && *right > 31
    {
        return Err(CompileError::ShiftTooFar);
    }
    Ok(match (left, right) {
        (Value::Known(left), Value::Known(right)) => {
            Value::Known(operator.apply(left, right).unwrap_or(0))
        }
        (left, right) => {
            let mut code = left.into_code();
            code.extend(right.into_code());
            code.push(Instruction::Operate(operator));
            Value::Code(code)
        }
    })
}
