//! Timestamps of a pcapng interface to nanoseconds since 1970.

const SECOND_NS: i128 = 1_000_000_000;

/// What an interface's timestamps count, and from when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeScale {
    unit: Unit,
    offset_seconds: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Nanoseconds in a unit.
    Nanoseconds(u64),
    /// Units in a nanosecond.
    PerNanosecond(u64),
    /// A second is two to the power of so many units.
    PowerOfTwo(u32),
    /// So small that all of them are less than a nanosecond.
    Nothing,
}

impl Default for TimeScale {
    /// Microseconds since 1970, where an interface says nothing.
    fn default() -> Self {
        Self {
            unit: Unit::Nanoseconds(1000),
            offset_seconds: 0,
        }
    }
}

impl TimeScale {
    /// Takes the value of an `if_tsresol` option: a negative power of ten, or of two where the
    /// highest bit is set.
    pub(super) fn set_resolution(&mut self, value: u8) {
        let power = u32::from(value & 0x7f);
        self.unit = if value & 0x80 != 0 {
            Unit::PowerOfTwo(power)
        } else if power <= 9 {
            Unit::Nanoseconds(10_u64.pow(9 - power))
        } else {
            let per_nanosecond = 10_u64.checked_pow(power - 9);
            per_nanosecond.map_or(Unit::Nothing, Unit::PerNanosecond)
        };
    }

    /// Takes the value of an `if_tsoffset` option, in seconds.
    pub(super) fn set_offset_seconds(&mut self, seconds: i64) {
        self.offset_seconds = seconds;
    }

    /// Nanoseconds since 1970 of a timestamp, cut to the years 1677 to 2262.
    #[inline]
    pub(super) fn nanoseconds(&self, units: u64) -> i64 {
        if let (Unit::Nanoseconds(factor), 0) = (self.unit, self.offset_seconds) {
            let time_ns = units.saturating_mul(factor);
            return i64::try_from(time_ns).unwrap_or(i64::MAX);
        }
        self.nanoseconds_of_any(units)
    }

    fn nanoseconds_of_any(&self, units: u64) -> i64 {
        let wide = i128::from(units);
        let since_offset_ns = match self.unit {
            Unit::Nanoseconds(factor) => wide * i128::from(factor),
            Unit::PerNanosecond(count) => wide / i128::from(count),
            // At most 2^64 × 10^9 < 2^94, shifted by at most 127.
            Unit::PowerOfTwo(power) => (wide * SECOND_NS) >> power,
            Unit::Nothing => 0,
        };
        let time_ns = since_offset_ns + i128::from(self.offset_seconds) * SECOND_NS;
        let clamped = time_ns.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        i64::try_from(clamped).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(resolution: u8, offset_seconds: i64) -> TimeScale {
        let mut scale = TimeScale::default();
        scale.set_resolution(resolution);
        scale.set_offset_seconds(offset_seconds);
        scale
    }

    #[test]
    fn any_resolution_and_offset() {
        assert_eq!(TimeScale::default().nanoseconds(1_500_000), 1_500_000_000);
        assert_eq!(scale(0, 0).nanoseconds(7), 7_000_000_000);
        assert_eq!(scale(3, 0).nanoseconds(7), 7_000_000);
        assert_eq!(scale(9, 0).nanoseconds(7), 7);
        assert_eq!(scale(12, 0).nanoseconds(7_999), 7);
        assert_eq!(scale(0x7f, 0).nanoseconds(u64::MAX), 0);
        assert_eq!(scale(0x80, 0).nanoseconds(3), 3_000_000_000);
        assert_eq!(scale(0x80 | 10, 0).nanoseconds(1536), 1_500_000_000);
        assert_eq!(scale(0xff, 0).nanoseconds(u64::MAX), 0);
        assert_eq!(scale(6, -2).nanoseconds(1_500_000), -500_000_000);
        assert_eq!(scale(9, 1).nanoseconds(5), 1_000_000_005);
    }

    #[test]
    fn hostile_values_saturate() {
        for resolution in 0..=255 {
            for offset in [i64::MIN, -1, 0, 1, i64::MAX] {
                for units in [0, 1, u64::MAX / 2, u64::MAX] {
                    scale(resolution, offset).nanoseconds(units);
                }
            }
        }
        assert_eq!(scale(0, 0).nanoseconds(u64::MAX), i64::MAX);
        assert_eq!(scale(6, i64::MIN).nanoseconds(0), i64::MIN);
        assert_eq!(scale(0x80, i64::MAX).nanoseconds(u64::MAX), i64::MAX);
    }
}
