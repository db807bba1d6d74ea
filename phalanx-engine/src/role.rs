//! Who is the client of a flow whose opening may not have been seen.

use phalanx_common::abi::{Direction, FlowUpdate, ReadSample, SampleKind};

use crate::side::RoleBasis;

/// Ports from here on are given out as source ports: `ip_local_port_range` of Linux begins here.
const EPHEMERAL_PORT_FIRST: u16 = 32_768;

/// Ports below belong to services.
const WELL_KNOWN_PORT_END: u16 = 1_024;

/// Decides from the best evidence there is; `is_listener` tells whether a local process is known
/// to listen at that end.
pub(crate) fn decide(
    update: &FlowUpdate,
    is_listener: impl Fn(Direction) -> bool,
) -> (Direction, RoleBasis) {
    match update.initiator {
        1 => return (Direction::FromLow, RoleBasis::Opener),
        2 => return (Direction::FromHigh, RoleBasis::Opener),
        _ => {}
    }
    let listens = (
        is_listener(Direction::FromLow),
        is_listener(Direction::FromHigh),
    );
    match listens {
        (true, false) => return (Direction::FromHigh, RoleBasis::Listener),
        (false, true) => return (Direction::FromLow, RoleBasis::Listener),
        _ => {}
    }
    let (low, high) = (update.key.low_port, update.key.high_port);
    if let Some(is_low) = by_port(low, high) {
        let client = if is_low {
            Direction::FromLow
        } else {
            Direction::FromHigh
        };
        return (client, RoleBasis::Port);
    }
    if let Some(client) = by_first_payload(update) {
        return (client, RoleBasis::FirstPayload);
    }
    let client = if low < high {
        Direction::FromHigh
    } else {
        Direction::FromLow
    };
    (client, RoleBasis::Order)
}

/// Whether the first port is the client's, as far as ports tell.
pub(crate) fn by_port(first: u16, second: u16) -> Option<bool> {
    let rank = |port: u16| match port {
        0..WELL_KNOWN_PORT_END => 0,
        WELL_KNOWN_PORT_END..EPHEMERAL_PORT_FIRST => 1,
        EPHEMERAL_PORT_FIRST.. => 2,
    };
    match rank(first).cmp(&rank(second)) {
        std::cmp::Ordering::Less => Some(false),
        std::cmp::Ordering::Greater => Some(true),
        std::cmp::Ordering::Equal => None,
    }
}

/// The first turn was made by the end that answered.
fn by_first_payload(update: &FlowUpdate) -> Option<Direction> {
    let mut first = None;
    update.read_samples(&mut 0, |read| {
        if let (None, ReadSample::Sample(sample)) = (first, read)
            && let SampleKind::Turn(answerer) = sample.kind
        {
            first = Some(answerer.reverse());
        }
    });
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::update;
    use phalanx_common::abi::Sample;

    #[test]
    fn the_best_evidence_decides() {
        let cases = [
            // initiator, low port, high port, listener, turn by, client, basis
            (
                2,
                80,
                50_000,
                None,
                None,
                Direction::FromHigh,
                RoleBasis::Opener,
            ),
            (
                1,
                80,
                50_000,
                None,
                None,
                Direction::FromLow,
                RoleBasis::Opener,
            ),
            (
                0,
                40_000,
                50_000,
                Some(Direction::FromHigh),
                None,
                Direction::FromLow,
                RoleBasis::Listener,
            ),
            (
                0,
                443,
                50_000,
                None,
                None,
                Direction::FromHigh,
                RoleBasis::Port,
            ),
            (
                0,
                50_000,
                8_080,
                None,
                None,
                Direction::FromLow,
                RoleBasis::Port,
            ),
            (
                0,
                443,
                8_080,
                None,
                None,
                Direction::FromHigh,
                RoleBasis::Port,
            ),
            (
                0,
                8_080,
                9_090,
                None,
                Some(Direction::FromHigh),
                Direction::FromLow,
                RoleBasis::FirstPayload,
            ),
            (
                0,
                8_080,
                9_090,
                None,
                None,
                Direction::FromHigh,
                RoleBasis::Order,
            ),
            (
                0,
                9_090,
                8_080,
                None,
                None,
                Direction::FromLow,
                RoleBasis::Order,
            ),
        ];
        for (initiator, low_port, high_port, listener, turn, client, basis) in cases {
            let mut update = update(1);
            update.initiator = initiator;
            update.key.low_port = low_port;
            update.key.high_port = high_port;
            if let Some(answerer) = turn {
                let kind = SampleKind::Turn(answerer);
                let microseconds = 5;
                update.push_sample(Sample { kind, microseconds });
            }
            let decided = decide(&update, |end| Some(end) == listener);
            assert_eq!(decided, (client, basis), "ports {low_port} and {high_port}");
        }
    }
}
