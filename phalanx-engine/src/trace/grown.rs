//! What the flows of a tracer have grown to: runs of bytes under way, acknowledgements on their
//! way, distributions and what is held of payload. It has one budget for all flows together.

/// Bytes that a flow has grown to, as they were last counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Grown {
    bytes: usize,
}

/// The same of all flows together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    bytes: usize,
    bytes_max: usize,
}

impl Growth {
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self {
            bytes: 0,
            bytes_max,
        }
    }

    /// Whether flows are to make do with less: a quarter is left.
    pub(super) const fn is_scarce(&self) -> bool {
        self.bytes > self.bytes_max - self.bytes_max / 4
    }

    /// Whether flows have to end.
    pub(super) const fn is_used_up(&self) -> bool {
        self.bytes > self.bytes_max
    }

    /// Counts a flow anew.
    pub(super) const fn count(&mut self, grown: &mut Grown, bytes: usize) {
        self.bytes = self.bytes + bytes - grown.bytes;
        grown.bytes = bytes;
    }

    /// Counts a flow no longer.
    pub(super) const fn forget(&mut self, grown: Grown) {
        self.bytes -= grown.bytes;
    }

    #[cfg(test)]
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts none.
    pub(super) const fn clear(&mut self) {
        self.bytes = 0;
    }
}
