//! [`Told`]: everything an agent tells, whoever takes it.

use phalanx_engine::Input;

use crate::clock::ClockEvent;
use crate::daemon::KernelStatus;

/// What an agent tells, in order.
#[derive(Debug)]
pub enum Told<'a> {
    /// What goes into an engine.
    Input(Input<'a>),
    /// How its kernel side does; once a second.
    Status(Box<KernelStatus>),
    /// Its clocks jumped.
    Clock(ClockEvent),
}
