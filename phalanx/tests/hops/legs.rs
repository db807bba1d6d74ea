//! What a report says that legs did, against the truth.

use std::collections::BTreeMap;

use phalanx_range::synthesis::{HopTruth, TrueLeg};

use crate::told::{Report, Way};

/// How far reordered and duplicated may be off, as a share, where there are enough to tell.
const OFF_MAX: f64 = 0.01;
const FEW: u64 = 100;

/// Compares; conversations are known by their client's name at the first hop, which no two share.
pub(crate) fn judge(report: &Report, truth: &HopTruth) -> Vec<String> {
    let mut faults = Vec::new();
    let mut sums: BTreeMap<(usize, usize, bool), (Way, TrueLeg)> = BTreeMap::new();
    for flow in truth.flows.iter().filter(|flow| flow.hop == 0) {
        let client = flow.pair.client;
        let Some(told) = report
            .conversations
            .iter()
            .find(|told| told.client == client)
        else {
            faults.push(format!("no conversation of {client}"));
            continue;
        };
        let own = truth
            .legs
            .iter()
            .filter(|leg| leg.conversation == flow.conversation);
        for leg in own {
            let ends = [leg.from, leg.to].map(|hop| format!("hop{hop}"));
            let (enter, leave) = match leg.is_reverse {
                false => (&ends[0], &ends[1]),
                true => (&ends[1], &ends[0]),
            };
            let wanted = (enter.as_str(), leave.as_str(), usize::from(leg.is_reverse));
            let way = told.ways().find(|way| (way.0, way.1, way.2) == wanted);
            let Some((.., way)) = way else {
                faults.push(format!("{client}: no leg {wanted:?}"));
                continue;
            };
            if (way.packets, way.lost) != (leg.packets, leg.lost) {
                let own = &truth.conversations[flow.conversation as usize];
                faults.push(format!("{client}: {way:?}, truth {leg:?} of {own:?}"));
            }
            let sum = sums.entry((leg.from, leg.to, leg.is_reverse)).or_default();
            sum.0.reordered += way.reordered;
            sum.0.duplicated += way.duplicated;
            sum.1.reordered += leg.reordered;
            sum.1.duplicated += leg.duplicated;
        }
    }
    for (leg, (told, truth)) in sums {
        println!("{leg:?}: {told:?}, truth {truth:?}");
        for (what, told, truth) in [
            ("reordered", told.reordered, truth.reordered),
            ("duplicated", told.duplicated, truth.duplicated),
        ] {
            let off_max = if truth < FEW {
                1
            } else {
                (truth as f64 * OFF_MAX) as u64
            };
            if told.abs_diff(truth) > off_max {
                faults.push(format!("{leg:?}: {told} {what}, truth {truth}"));
            }
        }
    }
    faults
}
