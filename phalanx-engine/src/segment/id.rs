//! IP identifications of one sender: whether they tell the order of its packets, and which are
//! missing.

/// Whether a sender's IP ids tell the order of its packets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ids {
    last: u16,
    /// Steps of 1.
    ones: u16,
    /// Steps of up to 64, those of 1 too.
    rising: u16,
    other: u16,
}

impl Ids {
    /// How far an id is beyond the latest.
    pub(super) const fn step(&self, id: u16) -> u16 {
        id.wrapping_sub(self.last)
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
