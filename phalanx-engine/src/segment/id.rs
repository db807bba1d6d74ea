//! IP identifications of one sender: whether they tell the order of its packets, and which are
//! missing.

/// A jump farther than this tells of no packets.
const STEP_MAX: u16 = 64;

/// Least silence before a segment that is taken for one lost before the hop, in nanoseconds: half
/// of the least timeout of Linux.
pub(super) const LOST_SILENCE_NS: i64 = 100_000_000;

/// Whether a sender's IP ids tell the order of its packets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ids {
    last: u16,
    /// Steps of 1.
    ones: u16,
    /// Steps of up to [`STEP_MAX`], those of 1 too.
    rising: u16,
    other: u16,
}

impl Ids {
    /// How far an id is beyond the latest.
    pub(super) const fn step(&self, id: u16) -> u16 {
        id.wrapping_sub(self.last)
    }

    /// Packets that are missing just before the one of an id, where ids tell that any are.
    pub(super) fn missing_before(&self, id: u16) -> Option<u64> {
        let step = self.step(id);
        let is_jump = (2..=STEP_MAX).contains(&step);
        (is_jump && self.tell_missing()).then(|| u64::from(step) - 1)
    }

    pub(super) fn learn(&mut self, id: u16) {
        let step = id.wrapping_sub(self.last) as i16;
        match step {
            1..=64 => {
                self.ones = self.ones.saturating_add(u16::from(step == 1));
                self.rising = self.rising.saturating_add(1);
                self.last = id;
            }
            // Overtaken, or a copy: says nothing new.
            -64..=0 => {}
            _ => {
                self.other = self.other.saturating_add(1);
                self.last = id;
            }
        }
    }

    pub(super) fn tell_order(&self) -> bool {
        self.rising >= 2 && self.rising / 16 >= self.other.saturating_sub(1)
    }

    /// Whether each packet has the next id: then a jump means packets that were not seen.
    pub(super) fn tell_missing(&self) -> bool {
        self.tell_order() && self.rising >= 8 && self.ones >= self.rising - self.rising / 8
    }
}

/// A sender was silent for as long as a tail-loss probe takes, and packets of before are missing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    pub(super) passed_ns: i64,
    /// Longer than an application's pause is likely to be.
    pub(super) is_long: bool,
    pub(super) missing_count: u64,
}

impl Silence {
    /// Whether what comes now was lost before: more packets are missing than the hole before it
    /// takes, by one or two. Without a hole they may be lost acknowledgements of a sender that had
    /// nothing to send; one that is likely to have had (`has_more`) would not have waited.
    pub(super) fn has_lost(&self, hole_count: u64, has_more: bool) -> bool {
        let lost_count = self.missing_count.saturating_sub(hole_count);
        let is_clear = hole_count > 0 || has_more || self.is_long;
        is_clear && (1..=2).contains(&lost_count)
    }
}
