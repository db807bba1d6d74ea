//! The sizes of a tracer's parts in bytes, for the arithmetic of memory.

use super::copy::Recent;
use super::tcp::TcpTrace;
use super::{Opening, Trace};
use crate::segment::Half;

pub(crate) const ENTRY: usize = size_of::<Option<Trace>>();
pub(crate) const OPENING: usize = size_of::<Opening>();
pub(crate) const TCP: usize = size_of::<TcpTrace>();
pub(crate) const PRINT: usize = Recent::PRINT_BYTES;
pub(crate) const RUN: usize = Half::PART_BYTES[0];
pub(crate) const VIEW: usize = Half::PART_BYTES[1];
