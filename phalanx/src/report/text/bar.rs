//! The time budget as a bar of letters: each stands for the same share of the time.

use phalanx_engine::budget::{Bucket, TimeBudget};

use super::style::Style;
use crate::report::word;

/// The letter of a bucket in the bar.
pub(super) const fn letter(bucket: Bucket) -> char {
    match bucket {
        Bucket::Handshake => 'h',
        Bucket::ClientIdle => 'i',
        Bucket::ServerThink => 's',
        Bucket::ReceiverWindow => 'w',
        Bucket::ZeroWindow => 'z',
        Bucket::FastRecovery => 'f',
        Bucket::TimeoutRecovery => 't',
        Bucket::SenderLimited => 'l',
        Bucket::Path => 'p',
        Bucket::Close => 'c',
        Bucket::Unknown => '?',
    }
}

/// The bar, absent where no time passed.
pub(super) fn draw(budget: &TimeBudget, width: usize, style: Style) -> Option<String> {
    let cells = cells(budget, width)?;
    let parts = Bucket::ALL
        .iter()
        .zip(cells)
        .filter(|(_, count)| *count > 0);
    Some(
        parts
            .map(|(bucket, count)| {
                let letters: String = std::iter::repeat_n(letter(*bucket), count).collect();
                style.bucket(*bucket, &letters)
            })
            .collect(),
    )
}

/// What the letters mean, the largest first.
pub(super) fn legend(budget: &TimeBudget) -> String {
    let total = word::seconds(budget.total_ns());
    let mut spent: Vec<(Bucket, i64)> = budget.iter().filter(|(_, ns)| *ns > 0).collect();
    spent.sort_by_key(|(bucket, ns)| (std::cmp::Reverse(*ns), *bucket));
    let parts = spent.iter().map(|(bucket, ns)| {
        format!(
            "{} {} {} ({})",
            letter(*bucket),
            word::bucket(*bucket),
            word::duration(*ns),
            word::percent(word::seconds(*ns) / total)
        )
    });
    parts.collect::<Vec<_>>().join(" · ")
}

/// Cells by the largest remainder, so that they fill the width exactly.
fn cells(budget: &TimeBudget, width: usize) -> Option<[usize; Bucket::COUNT]> {
    let total = i128::from(budget.total_ns());
    let width_wide = i128::try_from(width).ok()?;
    if total <= 0 {
        return None;
    }
    let mut cells = [0; Bucket::COUNT];
    let mut rests = Vec::with_capacity(Bucket::COUNT);
    for (index, (_, ns)) in budget.iter().enumerate() {
        let share = i128::from(ns) * width_wide;
        cells[index] = usize::try_from(share / total).unwrap_or(0);
        rests.push((std::cmp::Reverse(share % total), index));
    }
    rests.sort_unstable();
    let missing = width.saturating_sub(cells.iter().sum());
    for (_, index) in rests.into_iter().take(missing) {
        cells[index] += 1;
    }
    Some(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_wide_as_asked() {
        let times = Bucket::ALL.iter().zip([3, 0, 10, 0, 0, 7, 80, 0, 1, 0, 0]);
        let budget: TimeBudget = times.map(|(bucket, ns)| (*bucket, ns)).collect();
        for width in 1..80 {
            let bar = draw(&budget, width, Style::new(false)).unwrap();
            assert_eq!(bar.len(), width);
        }
        let bar = draw(&budget, 20, Style::new(false)).unwrap();
        assert_eq!(bar, "hssftttttttttttttttt");
        assert!(draw(&TimeBudget::default(), 20, Style::new(false)).is_none());
    }
}
