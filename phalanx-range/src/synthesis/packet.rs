//! A TCP packet on its way between the two simulated hosts.

/// One of the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Syn,
    SynAck,
    /// The segment of this number of the transfer under way.
    Data(u32),
    Ack,
    Fin,
    Reset,
}

/// SACK blocks that fit beside timestamps (RFC 2018).
pub(super) const SACK_BLOCK_COUNT: usize = 3;

/// Selective acknowledgements, in relative sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SackBlocks {
    blocks: [(u32, u32); SACK_BLOCK_COUNT],
    count: u8,
}

impl SackBlocks {
    /// Adds a block where there is room, and no such block yet.
    pub(super) fn push(&mut self, block: (u32, u32)) {
        let count = usize::from(self.count);
        if count < SACK_BLOCK_COUNT && !self.as_slice().contains(&block) {
            self.blocks[count] = block;
            self.count += 1;
        }
    }

    pub(super) fn as_slice(&self) -> &[(u32, u32)] {
        &self.blocks[..usize::from(self.count)]
    }
}

/// A packet; sequence numbers count from its sender's (and its receiver's) initial one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) from: Side,
    pub(super) kind: Kind,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) payload_bytes: u16,
    pub(super) window: u16,
    pub(super) ip_id: u16,
    /// Ends a write of the application.
    pub(super) is_push: bool,
    /// Was sent before.
    pub(super) is_again: bool,
    /// Dies between the tap and its receiver.
    pub(super) is_lost_after: bool,
    pub(super) timestamp: u32,
    pub(super) timestamp_echo: u32,
    pub(super) sack: SackBlocks,
}
