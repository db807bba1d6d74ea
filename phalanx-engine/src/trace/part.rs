//! The sizes of a tracer's parts in bytes, for the arithmetic of memory.

use super::Trace;
use super::copy::Recent;
use super::tcp::TcpTrace;
use crate::segment::Half;

pub(crate) const ENTRY: usize = size_of::<Option<Trace>>();
pub(crate) const WATCHED: usize = super::silence::DUE_BYTES;
pub(crate) const UNSEEN: usize = size_of::<(u64, u64)>();
pub(crate) const TCP: usize = size_of::<TcpTrace>();
pub(crate) const PRINT: usize = Recent::PRINT_BYTES;
pub(crate) const RUN: usize = Half::PART_BYTES[0];
pub(crate) const VIEW: usize = Half::PART_BYTES[1];
pub(crate) const REFUSAL: usize = size_of::<super::Refusal>();
