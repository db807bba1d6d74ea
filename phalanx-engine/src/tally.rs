//! What the engine could not use or keep, counted by reason.

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Counters of odd input and of what was lost to a bound; cumulative.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Tally {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl Tally {
            /// The counters by name, in order.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }
        }
    };
}

tally! {
    /// Changes that were dropped, the oldest first, because nobody drained them.
    changes_lost,
    /// Commands that were dropped because nobody drained them.
    commands_lost,
    /// Inputs of a hop that is not known.
    hop_unknown,
    /// Hops refused: the table is full.
    hops_refused,
    /// Updates that never came, told by a jump in the version.
    updates_lost,
    /// Updates older than what is known already.
    updates_stale,
    /// Updates of a flow that was closed here already.
    updates_after_close,
    /// Updates with a counter that fell.
    counters_fell,
    /// Samples that were overwritten before an update told of them.
    samples_lost,
    /// Flows closed to make room for others.
    flows_evicted,
    /// Answers to a read that nobody waits for.
    reads_unexpected,
    /// Reads that were never answered.
    reads_unanswered,
    /// Flows left out of the path of their conversation: it is full.
    paths_full,
    /// Conversations closed to make room for others.
    conversations_evicted,
    /// Service pairs forgotten to make room for others.
    pairs_evicted,
    /// Updates and attempts counted in the pair `other`: the table is full of active pairs.
    pairs_overflowed,
    /// Attempts whose table was full: their failure may go unnoticed.
    attempts_refused,
    /// Attempts of an outcome that is not known.
    attempts_unknown,
    /// Connections that opened after they had been declared unanswered.
    attempts_late,
    /// Socket owners forgotten to make room for others.
    owners_evicted,
    /// Local addresses refused: the table is full.
    local_addresses_refused,
    /// Reverse DNS names forgotten to make room for others.
    reverse_names_evicted,
    /// Translations of which no side is an open conversation.
    translations_unplaced,
    /// Records received.
    records,
    /// Bytes of frames in them.
    record_bytes,
    /// Records that could not be decoded.
    records_unparsed,
    /// Traced flows whose story was told early, to make room for others.
    traces_evicted,
    /// Stories of traced flows that were dropped because nobody drained those before them.
    stories_lost,
}
