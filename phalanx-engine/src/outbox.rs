//! What leaves the engine: changes, commands and counts of loss, all bounded.

use std::collections::VecDeque;

use crate::change::{Change, ChangeKind, FlowTraced};
use crate::input::Command;
use crate::limits::{CHANGE_COUNT_MAX, COMMAND_COUNT_MAX, LIVE_STORY_COUNT_MAX};
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
    /// Stories among the changes.
    story_count: usize,
}

impl Outbox {
    /// Tells a change; where nobody drains, the oldest one makes room.
    pub(crate) fn change(&mut self, kind: ChangeKind) {
        if self.changes.len() >= CHANGE_COUNT_MAX {
            let oldest = self.changes.pop_front();
            let is_story =
                oldest.is_some_and(|change| matches!(change.kind, ChangeKind::FlowTraced(_)));
            self.story_count -= usize::from(is_story);
            self.tally.changes_lost += 1;
        }
        self.sequence += 1;
        self.changes.push_back(Change {
            sequence: self.sequence,
            at: self.now,
            kind,
        });
    }

    /// Tells a story, unless too many wait: they are larger than other changes.
    pub(crate) fn story(&mut self, traced: FlowTraced) {
        if self.story_count >= LIVE_STORY_COUNT_MAX {
            self.tally.stories_lost += 1;
            return;
        }
        self.change(ChangeKind::FlowTraced(Box::new(traced)));
        self.story_count += 1;
    }

    /// Drains the changes.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Change> + '_ {
        self.story_count = 0;
        self.changes.drain(..)
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
