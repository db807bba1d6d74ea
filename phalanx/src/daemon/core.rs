//! [`Core`]: an engine and the feed of what it decides. `up` and the agent have one fed by their
//! own loop, a hub one fed by all agents.

use std::net::IpAddr;
use std::sync::mpsc::SyncSender;

use phalanx_engine::{Change, ChangeKind, Command, Engine, Input, Monotonic, Tally};
use tokio::sync::mpsc;

use super::feed::Feed;
use super::wake::Waker;
use crate::translation::Asker;

/// Inputs after which the engine's changes are handed on: far below what it keeps.
const CHANGE_BATCH: usize = 512;

/// The feed's receiver is gone: the API has ended.
#[derive(Debug, thiserror::Error)]
#[error("nobody takes the feed any more")]
pub(crate) struct FeedClosed;

/// Who is asked for names and translations when flows are opened.
pub(crate) struct NameSeekers {
    /// Wakes the one who finds owners of sockets.
    pub(crate) finder: Waker,
    /// Where addresses go whose names are asked for; none: they are not.
    pub(crate) resolver: Option<SyncSender<IpAddr>>,
    /// Asks whether flows are translated, where that can be known.
    pub(crate) translations: Option<Asker>,
}

/// An engine and the feed of what it decides.
pub(crate) struct Core {
    engine: Engine,
    feed: mpsc::Sender<Feed>,
    seekers: Option<NameSeekers>,
    input_count: usize,
    commands: Vec<Command>,
}

impl Core {
    pub(crate) fn new(
        engine: Engine,
        feed: mpsc::Sender<Feed>,
        seekers: Option<NameSeekers>,
    ) -> Self {
        Self {
            engine,
            feed,
            seekers,
            input_count: 0,
            commands: Vec::new(),
        }
    }

    /// Takes an input in, and hands changes on when there may be many.
    ///
    /// # Errors
    /// Nobody takes the feed any more.
    pub(crate) fn handle(&mut self, input: Input<'_>, now: Monotonic) -> Result<(), FeedClosed> {
        self.engine.handle(input, now);
        self.input_count += 1;
        if self.input_count >= CHANGE_BATCH {
            self.hand_on()?;
        }
        Ok(())
    }

    /// When the engine wants to work.
    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        self.engine.deadline()
    }

    /// Lets the engine do what has become due by `now`, a bounded part of it.
    pub(crate) fn handle_deadline(&mut self, now: Monotonic) {
        self.engine.handle_deadline(now);
    }

    /// Hands on what the engine decided.
    ///
    /// # Errors
    /// Nobody takes the feed any more.
    pub(crate) fn hand_on(&mut self) -> Result<(), FeedClosed> {
        self.input_count = 0;
        self.commands.extend(self.engine.commands());
        let changes: Vec<_> = self.engine.changes().collect();
        if changes.is_empty() {
            return Ok(());
        }
        self.ask_names(&changes);
        self.tell(Feed::Changes(changes))
    }

    /// What the engine asked for since it was last looked.
    pub(crate) fn commands(&mut self) -> Vec<Command> {
        self.commands.extend(self.engine.commands());
        std::mem::take(&mut self.commands)
    }

    /// Puts something into the feed, after what was handed on.
    ///
    /// # Errors
    /// Nobody takes the feed any more.
    pub(crate) fn tell(&self, feed: Feed) -> Result<(), FeedClosed> {
        self.feed.blocking_send(feed).map_err(|_| FeedClosed)
    }

    /// What the engine could not use or keep.
    pub(crate) fn tally(&self) -> Tally {
        *self.engine.tally()
    }

    /// Those who find names look when flows were opened.
    fn ask_names(&mut self, changes: &[Change]) {
        let Some(seekers) = &mut self.seekers else {
            return;
        };
        let mut has_opened = false;
        for change in changes {
            if let Some(asker) = &mut seekers.translations {
                asker.follow(&change.kind);
            }
            let ChangeKind::FlowOpened(opened) = &change.kind else {
                continue;
            };
            has_opened = true;
            if let Some(resolver) = &seekers.resolver {
                // Full: the address is asked for with its next flow.
                let _ = resolver.try_send(opened.endpoints.client.address);
                let _ = resolver.try_send(opened.endpoints.server.address);
            }
        }
        if has_opened {
            seekers.finder.wake();
        }
    }
}
