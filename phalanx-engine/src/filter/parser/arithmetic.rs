//! Comparisons of computed values: `tcp[13] & 2 != 0`.

use super::super::ast::{Arithmetic, Comparison, Expression, Operator, Primitive, Protocol};
use super::super::error::{FilterError, FilterErrorKind};
use super::super::lexer::{Token, TokenKind};
use super::Parser;

/// How tightly a unary minus binds: tighter than all binary operators.
const UNARY: u8 = 6;

/// Names that stand for numbers: offsets of fields, types, flags.
const CONSTANTS: [(&str, u32); 46] = [
    ("icmptype", 0),
    ("icmpcode", 1),
    ("icmp-echoreply", 0),
    ("icmp-unreach", 3),
    ("icmp-sourcequench", 4),
    ("icmp-redirect", 5),
    ("icmp-echo", 8),
    ("icmp-routeradvert", 9),
    ("icmp-routersolicit", 10),
    ("icmp-timxceed", 11),
    ("icmp-paramprob", 12),
    ("icmp-tstamp", 13),
    ("icmp-tstampreply", 14),
    ("icmp-ireq", 15),
    ("icmp-ireqreply", 16),
    ("icmp-maskreq", 17),
    ("icmp-maskreply", 18),
    ("icmp6type", 0),
    ("icmp6code", 1),
    ("icmp6-destinationunreach", 1),
    ("icmp6-packettoobig", 2),
    ("icmp6-timeexceeded", 3),
    ("icmp6-parameterproblem", 4),
    ("icmp6-echo", 128),
    ("icmp6-echoreply", 129),
    ("icmp6-multicastlistenerquery", 130),
    ("icmp6-multicastlistenerreportv1", 131),
    ("icmp6-multicastlistenerdone", 132),
    ("icmp6-routersolicit", 133),
    ("icmp6-routeradvert", 134),
    ("icmp6-neighborsolicit", 135),
    ("icmp6-neighboradvert", 136),
    ("icmp6-redirect", 137),
    ("icmp6-routerrenum", 138),
    ("icmp6-nodeinformationquery", 139),
    ("icmp6-nodeinformationresponse", 140),
    ("icmp6-multicastlistenerreportv2", 143),
    ("tcpflags", 13),
    ("tcp-fin", 0x01),
    ("tcp-syn", 0x02),
    ("tcp-rst", 0x04),
    ("tcp-push", 0x08),
    ("tcp-ack", 0x10),
    ("tcp-urg", 0x20),
    ("tcp-ece", 0x40),
    ("tcp-cwr", 0x80),
];

impl Parser<'_> {
    /// A comparison, if one begins here; otherwise nothing is consumed.
    pub(super) fn try_relation(&mut self) -> Result<Option<Expression>, FilterError> {
        let start = self.next;
        let committed = self.at_computation();
        if !committed && !self.is_symbol("(") && self.constant().is_none() {
            return Ok(None);
        }
        let left = match self.parse_arithmetic(0) {
            Ok(left) => left,
            Err(error) if committed || matches!(error.kind, FilterErrorKind::Limit { .. }) => {
                return Err(error);
            }
            Err(_) => {
                self.next = start;
                return Ok(None);
            }
        };
        let Some(operator) = self.comparison() else {
            if committed {
                let token = self.peek();
                let expected = "a comparison: = != < <= > >=";
                return Err(FilterError::unexpected(
                    token.position,
                    token.text,
                    expected,
                ));
            }
            self.next = start;
            return Ok(None);
        };
        self.advance();
        let right = self.parse_arithmetic(0)?;
        Ok(Some(Expression::Primitive(Primitive::Relation {
            left,
            operator,
            right,
        })))
    }

    /// Only a computed value can begin here.
    fn at_computation(&self) -> bool {
        let token = self.peek();
        match token.kind {
            TokenKind::Symbol => token.text == "-",
            TokenKind::Word => {
                matches!(token.text, "len" | "length")
                    || (base(token).is_some() && self.peek_at(1).text == "[")
            }
            _ => false,
        }
    }

    fn constant(&self) -> Option<u32> {
        let token = self.peek();
        match token.kind {
            TokenKind::Number(number) => Some(number),
            TokenKind::Word => CONSTANTS
                .iter()
                .find_map(|(name, value)| (*name == token.text).then_some(*value)),
            _ => None,
        }
    }

    fn comparison(&self) -> Option<Comparison> {
        let token = self.peek();
        Some(match token.text {
            _ if token.kind != TokenKind::Symbol => return None,
            "=" | "==" => Comparison::Equal,
            "!=" => Comparison::NotEqual,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            _ => return None,
        })
    }

    /// Operators binding at least as tightly as `minimum`. Libpcap's grammar gives `%` and `^` no
    /// precedence, so its parser takes them as soon as it sees them and their right operand
    /// extends as far as it can: `7 % 4 * 3` is `7 % 12`.
    fn parse_arithmetic(&mut self, minimum: u8) -> Result<Arithmetic, FilterError> {
        let mut left = self.nest(Self::parse_operand)?;
        while let Some((operator, precedence)) = self.operator() {
            let next = match precedence {
                None => 0,
                Some(precedence) if precedence < minimum => break,
                Some(precedence) => precedence + 1,
            };
            self.advance();
            let right = self.nest(|parser| parser.parse_arithmetic(next))?;
            left = Arithmetic::Binary {
                operator,
                left: Box::new(left),
                right: Box::new(right),
            };
        }
        Ok(left)
    }

    fn operator(&self) -> Option<(Operator, Option<u8>)> {
        let token = self.peek();
        Some(match token.text {
            _ if token.kind != TokenKind::Symbol => return None,
            "|" => (Operator::Or, Some(1)),
            "&" => (Operator::And, Some(2)),
            "<<" => (Operator::ShiftLeft, Some(3)),
            ">>" => (Operator::ShiftRight, Some(3)),
            "+" => (Operator::Add, Some(4)),
            "-" => (Operator::Subtract, Some(4)),
            "*" => (Operator::Multiply, Some(5)),
            "/" => (Operator::Divide, Some(5)),
            "%" => (Operator::Remainder, None),
            "^" => (Operator::Xor, None),
            _ => return None,
        })
    }

    fn parse_operand(&mut self) -> Result<Arithmetic, FilterError> {
        if let Some(number) = self.constant() {
            self.advance();
            return Ok(Arithmetic::Number(number));
        }
        let token = self.advance();
        match token.text {
            "-" => Ok(Arithmetic::Negate(Box::new(self.parse_arithmetic(UNARY)?))),
            "(" => {
                let inner = self.parse_arithmetic(0)?;
                self.expect_symbol(")")?;
                Ok(inner)
            }
            "len" | "length" => Ok(Arithmetic::Length),
            _ => match base(token) {
                Some(Protocol::Ah | Protocol::Esp) => {
                    let remedy = "bytes of ah and esp are not; use ip[…] or ip6[…]";
                    Err(FilterError::unsupported(token.position, token.text, remedy))
                }
                Some(base) => self.parse_load(base),
                None => {
                    let expected = "a number, len, or bytes of a header such as tcp[13]";
                    Err(FilterError::unexpected(
                        token.position,
                        token.text,
                        expected,
                    ))
                }
            },
        }
    }

    fn parse_load(&mut self, base: Protocol) -> Result<Arithmetic, FilterError> {
        self.expect_symbol("[")?;
        let index = Box::new(self.parse_arithmetic(0)?);
        let mut size = 1;
        if self.is_symbol(":") {
            self.advance();
            let token = self.peek();
            size = match self.expect_number()? {
                1 => 1,
                2 => 2,
                4 => 4,
                _ => {
                    let reason = "the size of a byte access is 1, 2 or 4";
                    return Err(FilterError::value(token.position, token.text, reason));
                }
            };
        }
        self.expect_symbol("]")?;
        Ok(Arithmetic::Load { base, index, size })
    }
}

fn base(token: Token<'_>) -> Option<Protocol> {
    if token.kind != TokenKind::Word {
        return None;
    }
    Protocol::ALL
        .iter()
        .find_map(|(name, protocol)| (*name == token.text).then_some(*protocol))
}
