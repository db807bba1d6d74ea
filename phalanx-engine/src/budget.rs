//! The time budget: every nanosecond of a conversation's life in exactly one bucket.
//!
//! Between two packets time is owed to what the conversation waited for, which often only the
//! packet that ends the wait tells. So what cannot be decided yet is held as *waiting*, beside the
//! buckets, and settled by the next data; and what was taken for ordinary while a loss was not yet
//! known is moved when it is, from a checkpoint taken at its first sign.

/// What a conversation can be waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Bucket {
    /// From the first SYN to the handshake's end.
    Handshake = 0,
    /// The client has its answer and asks nothing.
    ClientIdle = 1,
    /// The server has the request and does not answer.
    ServerThink = 2,
    /// The receiver's window is full.
    ReceiverWindow = 3,
    /// The receiver's window is closed.
    ZeroWindow = 4,
    /// A loss is being repaired, told by acknowledgements.
    FastRecovery = 5,
    /// A loss is being repaired, after the retransmission timeout or a tail-loss probe.
    TimeoutRecovery = 6,
    /// The sender's own host holds back, although window and path have room.
    SenderLimited = 7,
    /// The congestion window and the delay of the path.
    Path = 8,
    /// From the end of the data to the last packet.
    Close = 9,
    /// Cannot be told: one direction is missing, or the capture has gaps.
    Unknown = 10,
}

impl Bucket {
    /// How many buckets there are.
    pub const COUNT: usize = 11;

    /// All buckets, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Handshake,
        Self::ClientIdle,
        Self::ServerThink,
        Self::ReceiverWindow,
        Self::ZeroWindow,
        Self::FastRecovery,
        Self::TimeoutRecovery,
        Self::SenderLimited,
        Self::Path,
        Self::Close,
        Self::Unknown,
    ];

    /// The bucket as reports spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::ClientIdle => "client_idle",
            Self::ServerThink => "server_think",
            Self::ReceiverWindow => "receiver_window",
            Self::ZeroWindow => "zero_window",
            Self::FastRecovery => "fast_recovery",
            Self::TimeoutRecovery => "timeout_recovery",
            Self::SenderLimited => "sender_limited",
            Self::Path => "path",
            Self::Close => "close",
            Self::Unknown => "unknown",
        }
    }
}

/// Where a conversation's time went, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeBudget {
    spent_ns: [i64; Bucket::COUNT],
}

impl TimeBudget {
    /// The time in one bucket, in nanoseconds, never negative.
    #[must_use]
    pub const fn get(&self, bucket: Bucket) -> i64 {
        self.spent_ns[bucket as usize]
    }

    /// All buckets with their times.
    pub fn iter(&self) -> impl Iterator<Item = (Bucket, i64)> + '_ {
        Bucket::ALL
            .into_iter()
            .map(|bucket| (bucket, self.get(bucket)))
    }

    /// The sum, in nanoseconds: the wall time from the first packet to the last.
    #[must_use]
    pub fn total_ns(&self) -> i64 {
        self.spent_ns.iter().sum()
    }

    /// Puts time into a bucket.
    pub(crate) const fn add(&mut self, bucket: Bucket, nanoseconds: i64) {
        self.spent_ns[bucket as usize] += nanoseconds;
    }

    /// Moves what came into `from` since the checkpoint to another bucket.
    pub(crate) fn move_since(&mut self, since: &Checkpoint, from: &[Bucket], to: Bucket) {
        for bucket in from.iter().filter(|bucket| **bucket != to) {
            let index = *bucket as usize;
            let grown = (self.spent_ns[index] - since.0.spent_ns[index]).max(0);
            self.spent_ns[index] -= grown;
            self.spent_ns[to as usize] += grown;
        }
    }
}

impl FromIterator<(Bucket, i64)> for TimeBudget {
    /// From buckets and nanoseconds, which are never negative; a bucket may come several times.
    fn from_iter<T: IntoIterator<Item = (Bucket, i64)>>(times: T) -> Self {
        let mut budget = Self::default();
        for (bucket, nanoseconds) in times {
            budget.add(bucket, nanoseconds);
        }
        budget
    }
}

/// What had been spent at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint(TimeBudget);

impl From<TimeBudget> for Checkpoint {
    fn from(budget: TimeBudget) -> Self {
        Self(budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_stays_in_the_sum() {
        let mut budget = TimeBudget::default();
        budget.add(Bucket::Path, 5);
        let since = Checkpoint::from(budget);
        budget.add(Bucket::Path, 7);
        budget.add(Bucket::ServerThink, 3);
        budget.move_since(&since, &[Bucket::Path], Bucket::FastRecovery);
        assert_eq!(budget.get(Bucket::Path), 5);
        assert_eq!(budget.get(Bucket::FastRecovery), 7);
        assert_eq!(budget.get(Bucket::ServerThink), 3);
        assert_eq!(budget.total_ns(), 15);
    }
}
