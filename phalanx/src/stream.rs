//! The numbered stream of changes, and its resumption: a bounded buffer that each reader follows
//! at its own pace.
//!
//! **Invariant:** a reader never holds up the daemon. There is no queue for a reader: one that
//! falls behind the buffer is told which range it missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use phalanx_engine::{Change, ChangeKind};
use tokio::sync::watch;

/// Changes that can be read again: a change has up to 1 KB, so 8 MB at the most, and some seconds
/// of a busy host.
pub const REPLAY_COUNT_MAX: usize = 8_192;

/// Stories of traced flows among them: up to 35 KB each, 2 KB as a rule, so 36 MB at the most.
pub const STORY_REPLAY_COUNT_MAX: usize = 1_024;

/// Changes that a reader takes at once.
pub const BATCH_COUNT_MAX: usize = 256;

/// The latest changes.
#[derive(Debug)]
pub struct Stream {
    id: String,
    buffer: Mutex<Buffer>,
    latest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Buffer {
    changes: VecDeque<Arc<Change>>,
    story_count: usize,
}

impl Buffer {
    fn push(&mut self, change: Change) {
        self.story_count += usize::from(is_story(&change));
        self.changes.push_back(Arc::new(change));
        while self.changes.len() > REPLAY_COUNT_MAX || self.story_count > STORY_REPLAY_COUNT_MAX {
            let oldest = self.changes.pop_front();
            self.story_count -= usize::from(oldest.is_some_and(|oldest| is_story(&oldest)));
        }
    }
}

fn is_story(change: &Change) -> bool {
    matches!(change.kind, ChangeKind::FlowTraced(_))
}

/// What a reader gets next.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// Changes, in order, without a hole.
    Changes(Vec<Arc<Change>>),
    /// The buffer no longer has these.
    Gap {
        /// Number of the first change that is missed.
        first: u64,
        /// Number of the last change that is missed.
        last: u64,
    },
}

impl Stream {
    /// An empty stream, with an id of its own: numbers start again with the daemon.
    #[must_use]
    pub fn new() -> Self {
        let now = crate::clock::Reading::take();
        Self {
            id: format!("{:x}-{:x}", now.wall_ns, std::process::id()),
            buffer: Mutex::default(),
            latest: watch::Sender::new(0),
        }
    }

    /// Tells this stream from that of another run of the daemon.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Number of the latest change.
    #[must_use]
    pub fn latest(&self) -> u64 {
        *self.latest.borrow()
    }

    /// Adds changes; the oldest make room.
    pub fn push(&self, changes: Vec<Change>) {
        let Some(latest) = changes.last().map(|change| change.sequence) else {
            return;
        };
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            buffer.push(change);
        }
        drop(buffer);
        self.latest.send_replace(latest);
    }

    /// A reader of what follows the change with number `after`.
    #[must_use]
    pub fn reader(&self, after: u64) -> Reader<'_> {
        Reader {
            stream: self,
            latest: self.latest.subscribe(),
            after,
        }
    }

    fn read(&self, after: u64) -> Option<Next> {
        let buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let buffer = &buffer.changes;
        let start = buffer.partition_point(|change| change.sequence <= after);
        let first = buffer.get(start)?.sequence;
        if first > after + 1 {
            return Some(Next::Gap {
                first: after + 1,
                last: first - 1,
            });
        }
        let mut expected = first;
        let run = buffer
            .range(start..)
            .take(BATCH_COUNT_MAX)
            .take_while(|change| {
                let is_next = change.sequence == expected;
                expected += 1;
                is_next
            });
        Some(Next::Changes(run.cloned().collect()))
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

/// A place in the stream.
#[derive(Debug)]
pub struct Reader<'a> {
    stream: &'a Stream,
    latest: watch::Receiver<u64>,
    after: u64,
}

impl Reader<'_> {
    /// Waits for what comes next. May be dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> Next {
        loop {
            self.latest.mark_unchanged();
            if let Some(next) = self.stream.read(self.after) {
                self.after = match &next {
                    Next::Changes(changes) => {
                        changes.last().map_or(self.after, |change| change.sequence)
                    }
                    Next::Gap { last, .. } => *last,
                };
                return next;
            }
            if self.latest.changed().await.is_err() {
                // The stream outlives its readers: it holds the sender.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use phalanx_engine::change::FlowTraced;
    use phalanx_engine::story::FlowStory;
    use phalanx_engine::{HopId, Monotonic};

    use super::*;

    fn changes(range: std::ops::RangeInclusive<u64>) -> Vec<Change> {
        range
            .map(|sequence| Change {
                sequence,
                at: Monotonic(sequence),
                kind: ChangeKind::HopVanished(HopId(0)),
            })
            .collect()
    }

    fn numbers(next: Next) -> Vec<u64> {
        match next {
            Next::Changes(changes) => changes.iter().map(|change| change.sequence).collect(),
            gap @ Next::Gap { .. } => panic!("{gap:?}"),
        }
    }

    #[tokio::test]
    async fn a_reader_resumes_where_it_was() {
        let stream = Stream::new();
        stream.push(changes(1..=10));
        assert_eq!(numbers(stream.reader(7).next().await), [8, 9, 10]);
        let mut reader = stream.reader(10);
        stream.push(changes(11..=12));
        assert_eq!(numbers(reader.next().await), [11, 12]);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let stream = Arc::new(Stream::new());
        let other = Arc::clone(&stream);
        let reading = tokio::spawn(async move { numbers(other.reader(0).next().await) });
        tokio::task::yield_now().await;
        stream.push(changes(1..=2));
        assert_eq!(reading.await.unwrap(), [1, 2]);
    }

    #[tokio::test]
    async fn who_falls_behind_is_told_what_is_lost() {
        let stream = Stream::new();
        let mut reader = stream.reader(0);
        let count = REPLAY_COUNT_MAX as u64 + 5;
        stream.push(changes(1..=count));
        assert_eq!(reader.next().await, Next::Gap { first: 1, last: 5 });
        assert_eq!(numbers(reader.next().await)[0], 6);
    }

    #[tokio::test]
    async fn stories_are_fewer_than_other_changes() {
        let stream = Stream::new();
        let count = STORY_REPLAY_COUNT_MAX as u64 + 5;
        let stories = (1..=count).map(|sequence| Change {
            sequence,
            at: Monotonic(sequence),
            kind: ChangeKind::FlowTraced(Box::new(FlowTraced {
                hop: HopId(0),
                story: FlowStory::default(),
            })),
        });
        stream.push(stories.collect());
        stream.push(changes(count + 1..=count + 5));
        let mut reader = stream.reader(0);
        assert_eq!(reader.next().await, Next::Gap { first: 1, last: 5 });
        assert_eq!(numbers(reader.next().await)[0], 6);
    }

    #[tokio::test]
    async fn a_hole_in_the_numbers_is_a_gap() {
        let stream = Stream::new();
        stream.push(changes(1..=2));
        stream.push(changes(5..=6));
        let mut reader = stream.reader(0);
        assert_eq!(numbers(reader.next().await), [1, 2]);
        assert_eq!(reader.next().await, Next::Gap { first: 3, last: 4 });
        assert_eq!(numbers(reader.next().await), [5, 6]);
    }
}
