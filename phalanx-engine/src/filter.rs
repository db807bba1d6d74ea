//! The capture filter language: a documented subset of pcap-filter syntax.
//!
//! A text becomes a [`Filter`]: what was typed, as a tree. For a link type it becomes a
//! [`Program`]: what it means, as decisions over the bytes of a frame, matching exactly the
//! frames that `tcpdump -O` would. Tcpdump's optimiser changes the order of tests, which shows
//! only on frames cut off before a byte that an expression names ([`Decision::Undecided`]).
//! What the kernel can check of it is a [`Pushdown`].
//!
//! Deliberately absent: name resolution, `gateway`, `protochain`, MPLS, PPPoE, Geneve, 802.11.

mod ast;
mod compile;
mod error;
mod lexer;
mod limit;
mod link;
mod parser;
mod program;
mod pushdown;

pub use ast::{
    Arithmetic, Carrier, Comparison, Direction, Expression, Family, Layer, Operator, Primitive,
    Protocol, Transport,
};
pub use compile::CompileError;
pub use error::{FilterError, FilterErrorKind};
pub use limit::{DEPTH_MAX, EXPRESSION_BYTES_MAX, FLOW_FILTER_COUNT_MAX, TOKEN_COUNT_MAX};
pub use link::LinkType;
pub use program::{Decision, Program};
pub use pushdown::{FlowFilter, IpVersion, Prefix, Pushdown, Side};

/// A parsed capture filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    expression: Option<Expression>,
}

impl Filter {
    /// Parses pcap-filter syntax; an empty text matches every frame.
    ///
    /// # Errors
    /// Says at which byte what was found and what is supported there.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        Ok(Self {
            expression: parser::parse(text)?,
        })
    }

    /// The tree; `None` matches every frame.
    #[must_use]
    pub fn expression(&self) -> Option<&Expression> {
        self.expression.as_ref()
    }

    /// What it means for frames of one link type.
    ///
    /// # Errors
    /// The link type lacks what a primitive looks at, or a constant divides by zero.
    pub fn compile(&self, link: LinkType) -> Result<Program, CompileError> {
        compile::compile(self.expression.as_ref(), link)
    }
    /// What the kernel can check of it, and what is left for the records.
    #[must_use]
    pub fn pushdown(&self) -> Pushdown {
        Pushdown::of(self.expression.as_ref())
    }
}
