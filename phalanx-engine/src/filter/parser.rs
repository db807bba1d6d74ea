//! Tokens to tree. Follows libpcap's grammar: `and` and `or` bind equally and to the left, `not`
//! binds tightest, and a bare value takes over the qualifiers before it (`port 80 or 443`).

mod arithmetic;
mod value;

use super::ast::{Carrier, Direction, Expression, Layer, Primitive, Protocol};
use super::error::{FilterError, TERMS};
use super::lexer::{Token, TokenKind, tokenize};
use super::limit::DEPTH_MAX;

/// What kind of value follows, as typed: `host`, `port`, ….
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Only a direction was given: an address.
    Default,
    Host,
    Net,
    Port,
    PortRange,
    Proto,
}

/// The qualifiers before a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Qualifiers {
    protocol: Option<Protocol>,
    direction: Direction,
    kind: Kind,
}

/// A parsed part, the qualifiers that a bare value after it takes over, and whether it began
/// with a bare value.
struct Parsed {
    expression: Expression,
    qualifiers: Option<Qualifiers>,
    bare: bool,
}

/// Parses `text`; `None` is the empty expression, which every frame matches.
pub(crate) fn parse(text: &str) -> Result<Option<Expression>, FilterError> {
    let mut parser = Parser {
        tokens: tokenize(text)?,
        next: 0,
        depth: 0,
    };
    if parser.peek().kind == TokenKind::End {
        return Ok(None);
    }
    let parsed = parser.parse_list(None)?;
    match parser.peek() {
        Token {
            kind: TokenKind::End,
            ..
        } => Ok(Some(parsed.expression)),
        token => Err(FilterError::unexpected(
            token.position,
            token.text,
            "and, or, the end",
        )),
    }
}

struct Parser<'t> {
    /// Never empty: the last one is `End`.
    tokens: Vec<Token<'t>>,
    next: usize,
    depth: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Token<'t> {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> Token<'t> {
        self.tokens[(self.next + ahead).min(self.tokens.len() - 1)]
    }

    fn advance(&mut self) -> Token<'t> {
        let token = self.peek();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        let token = self.peek();
        token.kind == TokenKind::Symbol && token.text == symbol
    }

    fn expect_symbol(&mut self, symbol: &str) -> Result<(), FilterError> {
        if self.is_symbol(symbol) {
            self.advance();
            return Ok(());
        }
        let token = self.peek();
        Err(FilterError::unexpected(
            token.position,
            token.text,
            format!("`{symbol}`"),
        ))
    }

    /// Runs `inner` one level deeper.
    fn nest<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, FilterError>,
    ) -> Result<T, FilterError> {
        if self.depth == DEPTH_MAX {
            return Err(FilterError::limit(
                self.peek().position,
                "levels of nesting",
                DEPTH_MAX,
            ));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Items joined by `and` and `or`. A list that begins with a bare value holds only bare ones.
    fn parse_list(&mut self, inherited: Option<Qualifiers>) -> Result<Parsed, FilterError> {
        let mut list = self.parse_item(inherited)?;
        loop {
            let is_and = match self.peek().kind {
                TokenKind::And => true,
                TokenKind::Or => false,
                _ => return Ok(list),
            };
            self.advance();
            let position = self.peek();
            let item = self.parse_item(list.qualifiers)?;
            if list.bare && !item.bare {
                let expected = "a bare value: a group that begins with one holds only such";
                return Err(FilterError::unexpected(
                    position.position,
                    position.text,
                    expected,
                ));
            }
            let (left, right) = (Box::new(list.expression), Box::new(item.expression));
            list.expression = match is_and {
                true => Expression::And(left, right),
                false => Expression::Or(left, right),
            };
            list.qualifiers = item.qualifiers;
        }
    }

    fn parse_item(&mut self, inherited: Option<Qualifiers>) -> Result<Parsed, FilterError> {
        if self.peek().kind == TokenKind::Not {
            self.advance();
            let inner = self.nest(|parser| parser.parse_item(inherited))?;
            let expression = Expression::Not(Box::new(inner.expression));
            return Ok(Parsed {
                expression,
                ..inner
            });
        }
        if let Some(relation) = self.try_relation()? {
            return Ok(Parsed {
                expression: relation,
                qualifiers: None,
                bare: false,
            });
        }
        if self.is_symbol("(") {
            self.advance();
            let inner = self.nest(|parser| parser.parse_list(inherited))?;
            self.expect_symbol(")")?;
            return Ok(Parsed {
                qualifiers: inherited,
                ..inner
            });
        }
        if self.at_value() {
            let token = self.peek();
            let Some(qualifiers) = inherited else {
                let expected = "a qualifier such as host, net or port before a value";
                return Err(FilterError::unexpected(
                    token.position,
                    token.text,
                    expected,
                ));
            };
            let expression = self.parse_value(qualifiers)?;
            return Ok(Parsed {
                expression,
                qualifiers: Some(qualifiers),
                bare: true,
            });
        }
        self.parse_term()
    }

    /// What follows a qualifier: a value, `not` a value, or a group of values.
    fn parse_values(&mut self, qualifiers: Qualifiers) -> Result<Expression, FilterError> {
        if self.peek().kind == TokenKind::Not {
            self.advance();
            let inner = self.nest(|parser| parser.parse_values(qualifiers))?;
            return Ok(Expression::Not(Box::new(inner)));
        }
        if !self.is_symbol("(") {
            return self.parse_value(qualifiers);
        }
        self.advance();
        let mut list = self.nest(|parser| parser.parse_values(qualifiers))?;
        loop {
            let is_and = match self.peek().kind {
                TokenKind::And => true,
                TokenKind::Or => false,
                _ => break,
            };
            self.advance();
            let item = self.nest(|parser| parser.parse_values(qualifiers))?;
            let (left, right) = (Box::new(list), Box::new(item));
            list = match is_and {
                true => Expression::And(left, right),
                false => Expression::Or(left, right),
            };
        }
        self.expect_symbol(")")?;
        Ok(list)
    }

    /// A value that is not a keyword of the language.
    fn at_value(&self) -> bool {
        let token = self.peek();
        match token.kind {
            TokenKind::Number(_) | TokenKind::Ipv4 { .. } | TokenKind::Ipv6(_) => true,
            TokenKind::Mac(_) | TokenKind::Escaped => true,
            TokenKind::Word => !is_keyword(token.text),
            _ => false,
        }
    }

    fn parse_term(&mut self) -> Result<Parsed, FilterError> {
        let start = self.peek();
        if start.kind != TokenKind::Word {
            return Err(FilterError::unexpected(start.position, start.text, TERMS));
        }
        let protocol = Protocol::ALL
            .iter()
            .find_map(|(name, protocol)| (*name == start.text).then_some(*protocol));
        if protocol.is_some() {
            self.advance();
        }
        if let Some(primitive) = self.parse_other(protocol)? {
            let expression = Expression::Primitive(primitive);
            return Ok(Parsed {
                expression,
                qualifiers: None,
                bare: false,
            });
        }
        if let Some(qualifiers) = self.parse_qualifiers(protocol)? {
            let expression = self.parse_values(qualifiers)?;
            return Ok(Parsed {
                expression,
                qualifiers: Some(qualifiers),
                bare: false,
            });
        }
        match protocol {
            Some(Protocol::Ether) => {
                let next = self.peek();
                let expected = "host, src, dst, proto, broadcast, multicast or [ after ether";
                Err(FilterError::unexpected(next.position, next.text, expected))
            }
            Some(protocol) => {
                let expression = Expression::Primitive(Primitive::Protocol(protocol));
                Ok(Parsed {
                    expression,
                    qualifiers: None,
                    bare: false,
                })
            }
            None => Err(FilterError::unsupported(
                start.position,
                start.text,
                format!("supported are {TERMS}"),
            )),
        }
    }

    /// The primitives that take no qualified value.
    fn parse_other(
        &mut self,
        protocol: Option<Protocol>,
    ) -> Result<Option<Primitive>, FilterError> {
        let token = self.peek();
        let primitive = match (token.text, protocol) {
            ("broadcast", None | Some(Protocol::Ether)) => Primitive::Broadcast,
            ("multicast", None | Some(Protocol::Ether)) => Primitive::Multicast(Layer::Ether),
            ("multicast", Some(Protocol::Ip)) => Primitive::Multicast(Layer::Ip),
            ("multicast", Some(Protocol::Ip6)) => Primitive::Multicast(Layer::Ip6),
            ("broadcast" | "multicast", Some(_)) => {
                let remedy = "only ether broadcast and ether, ip, ip6 multicast are; ip broadcast \
                              needs a netmask: use `dst host` with the broadcast address";
                return Err(FilterError::unsupported(token.position, token.text, remedy));
            }
            ("less", None) => {
                self.advance();
                return self
                    .expect_number()
                    .map(|n| Some(Primitive::LengthAtMost(n)));
            }
            ("greater", None) => {
                self.advance();
                return self
                    .expect_number()
                    .map(|n| Some(Primitive::LengthAtLeast(n)));
            }
            ("vlan", None) => {
                self.advance();
                return self.parse_vlan().map(Some);
            }
            _ => return Ok(None),
        };
        self.advance();
        Ok(Some(primitive))
    }

    fn parse_vlan(&mut self) -> Result<Primitive, FilterError> {
        let parentheses = (0..DEPTH_MAX)
            .take_while(|ahead| self.peek_at(*ahead).text == "(")
            .count();
        if !matches!(self.peek_at(parentheses).kind, TokenKind::Number(_)) {
            return Ok(Primitive::Vlan(None));
        }
        self.next += parentheses;
        let token = self.peek();
        let id = self.expect_number()?;
        for _ in 0..parentheses {
            self.expect_symbol(")")?;
        }
        match u16::try_from(id) {
            Ok(id) if id <= 4095 => Ok(Primitive::Vlan(Some(id))),
            _ => Err(FilterError::value(
                token.position,
                token.text,
                "a VLAN id is at most 4095",
            )),
        }
    }

    fn expect_number(&mut self) -> Result<u32, FilterError> {
        let token = self.advance();
        match token.kind {
            TokenKind::Number(number) => Ok(number),
            _ => Err(FilterError::unexpected(
                token.position,
                token.text,
                "a number",
            )),
        }
    }

    /// `[src|dst|src or dst|src and dst] [host|net|port|portrange]` or `proto`.
    fn parse_qualifiers(
        &mut self,
        protocol: Option<Protocol>,
    ) -> Result<Option<Qualifiers>, FilterError> {
        let direction = self.parse_direction();
        let directed = direction.is_some();
        let token = self.peek();
        let kind = match token.text {
            _ if token.kind != TokenKind::Word => Kind::Default,
            "host" => Kind::Host,
            "net" => Kind::Net,
            "port" => Kind::Port,
            "portrange" => Kind::PortRange,
            "proto" if !directed => Kind::Proto,
            "gateway" | "protochain" => {
                let remedy = "supported are host, net, port, portrange and proto";
                return Err(FilterError::unsupported(token.position, token.text, remedy));
            }
            _ => Kind::Default,
        };
        if kind != Kind::Default {
            self.advance();
        } else if !directed {
            return Ok(None);
        }
        let direction = direction.unwrap_or(Direction::Either);
        Ok(Some(Qualifiers {
            protocol,
            direction,
            kind,
        }))
    }

    fn parse_direction(&mut self) -> Option<Direction> {
        let first = self.peek().text;
        let (single, other) = match first {
            "src" => (Direction::Source, "dst"),
            "dst" => (Direction::Destination, "src"),
            _ => return None,
        };
        self.advance();
        if self.peek_at(1).text != other {
            return Some(single);
        }
        let both = match self.peek().kind {
            TokenKind::And => Direction::Both,
            TokenKind::Or => Direction::Either,
            _ => return Some(single),
        };
        self.next += 2;
        Some(both)
    }
}

/// A word with a meaning of its own in pcap-filter, supported or not; any other word is a name.
fn is_keyword(word: &str) -> bool {
    const KEYWORDS: [&str; 66] = [
        "src",
        "dst",
        "host",
        "net",
        "mask",
        "port",
        "portrange",
        "proto",
        "protochain",
        "gateway",
        "less",
        "greater",
        "byte",
        "broadcast",
        "multicast",
        "vlan",
        "mpls",
        "pppoed",
        "pppoes",
        "geneve",
        "len",
        "length",
        "inbound",
        "outbound",
        "atalk",
        "aarp",
        "decnet",
        "lat",
        "sca",
        "moprc",
        "mopdl",
        "iso",
        "esis",
        "isis",
        "clnp",
        "stp",
        "ipx",
        "netbeui",
        "igrp",
        "carp",
        "radio",
        "fddi",
        "tr",
        "wlan",
        "ppp",
        "slip",
        "llc",
        "lane",
        "metac",
        "bcc",
        "oam",
        "oamf4",
        "sc",
        "ilmic",
        "vpi",
        "vci",
        "type",
        "subtype",
        "dir",
        "ifname",
        "on",
        "rnr",
        "rulenum",
        "reason",
        "action",
        "ruleset",
    ];
    KEYWORDS.contains(&word) || Protocol::ALL.iter().any(|(name, _)| *name == word)
}

impl Carrier {
    fn of(protocol: Option<Protocol>) -> Option<Self> {
        match protocol {
            None => Some(Carrier::Any),
            Some(Protocol::Ip) => Some(Carrier::Ip),
            Some(Protocol::Arp) => Some(Carrier::Arp),
            Some(Protocol::Rarp) => Some(Carrier::Rarp),
            Some(_) => None,
        }
    }
}
