//! What leaves the engine: changes, commands and counts of loss, all bounded.

use std::collections::VecDeque;

use crate::change::{Change, ChangeKind};
use crate::input::Command;
use crate::limits::{CHANGE_COUNT_MAX, COMMAND_COUNT_MAX};
use crate::tally::Tally;
use crate::time::Monotonic;

#[derive(Default)]
pub(crate) struct Outbox {
    /// The latest time that the engine was told.
    pub(crate) now: Monotonic,
    pub(crate) changes: VecDeque<Change>,
    pub(crate) commands: VecDeque<Command>,
    pub(crate) tally: Tally,
    sequence: u64,
}

impl Outbox {
    /// Tells a change; where nobody drains, the oldest one makes room.
    pub(crate) fn change(&mut self, kind: ChangeKind) {
        if self.changes.len() >= CHANGE_COUNT_MAX {
            self.changes.pop_front();
            self.tally.changes_lost += 1;
        }
        self.sequence += 1;
        self.changes.push_back(Change {
            sequence: self.sequence,
            at: self.now,
            kind,
        });
    }

    /// Asks the shell; where nobody drains, the oldest command makes room.
    pub(crate) fn command(&mut self, command: Command) {
        if self.commands.len() >= COMMAND_COUNT_MAX {
            self.commands.pop_front();
            self.tally.commands_lost += 1;
        }
        self.commands.push_back(command);
    }
}
