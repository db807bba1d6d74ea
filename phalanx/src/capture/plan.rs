//! Which part of a filter the kernel checks: from 5-tuples of the language to recording filters.

use std::net::{IpAddr, Ipv4Addr};

use phalanx_common::limits::FILTER_COUNT_MAX;
use phalanx_engine::filter::{Filter, FlowFilter, IpVersion, Side};

use super::request::{BadField, Wanted, snap_class};
use super::view::PlanView;
use crate::kernel::{RecordingEnd, RecordingFilter};

/// The recording filters of one capture, and what is told of them.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) filters: Vec<RecordingFilter>,
    pub(super) view: PlanView,
}

impl Plan {
    /// Narrows a filter to what the kernel can check.
    pub(super) fn new(wanted: &Wanted) -> Result<Self, BadField> {
        let filters = recording_filters(&wanted.filter, wanted.request.snaplen)?;
        let pushdown = Filter::pushdown(&wanted.filter);
        Ok(Self {
            filters,
            view: PlanView {
                kernel: pushdown.filters.iter().map(ToString::to_string).collect(),
                user_space: pushdown.residual.as_ref().map(ToString::to_string),
                explanation: pushdown.explain(),
            },
        })
    }
}

/// Which part of a filter is checked where.
pub(crate) fn plan_of(wanted: &Wanted) -> Result<PlanView, BadField> {
    Plan::new(wanted).map(|plan| plan.view)
}

/// What of a filter the kernel checks, with so many bytes of each packet; 0: headers only.
pub(crate) fn recording_filters(
    filter: &Filter,
    snaplen: u32,
) -> Result<Vec<RecordingFilter>, BadField> {
    let snap_class = snap_class(snaplen)?;
    let pushdown = Filter::pushdown(filter);
    if !pushdown.matches_ip() {
        return Err(BadField::new(
            "filter",
            "it matches no IP packet, and live captures record IP packets only",
            "choose a filter that IP packets can match",
        ));
    }
    let recording = |filter: &FlowFilter| RecordingFilter {
        a: end(&filter.a, filter.version),
        b: end(&filter.b, filter.version),
        protocol: filter.protocol,
        snap_class,
        has_payload: snaplen > 0,
    };
    Ok(pushdown.filters.iter().map(recording).collect())
}

/// One end; a version without a prefix is the prefix of all mapped addresses for IPv4, and cannot
/// be said for IPv6 (records tell).
fn end(side: &Side, version: Option<IpVersion>) -> RecordingEnd {
    let ports = side.ports.clone();
    match (side.prefix, version) {
        (Some(prefix), _) => RecordingEnd::in_network(prefix.address, prefix.length, ports),
        (None, Some(IpVersion::V4)) => {
            RecordingEnd::in_network(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0, ports)
        }
        (None, Some(IpVersion::V6) | None) => RecordingEnd {
            ports,
            ..RecordingEnd::ANY
        },
    }
}

/// Free numbers of recording filters.
pub(super) fn free_numbers(used: u64, count: usize) -> Option<Vec<u8>> {
    let numbers: Vec<u8> = (0..FILTER_COUNT_MAX as u8)
        .filter(|number| used >> number & 1 == 0)
        .take(count)
        .collect();
    (numbers.len() == count).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::CaptureRequest;

    fn plan(filter: &str) -> Result<Plan, BadField> {
        let body = serde_json::json!({ "filter": filter });
        let request: CaptureRequest = serde_json::from_value(body).unwrap();
        Plan::new(&request.check(1 << 30).unwrap())
    }

    #[test]
    fn tuples_go_to_the_kernel() {
        let plan = plan("tcp port 443 and host 10.0.0.2").unwrap();
        assert!(!plan.filters.is_empty());
        assert!(plan.filters.iter().all(|filter| filter.protocol == Some(6)));
        assert!(plan.filters.iter().all(|filter| !filter.has_payload));
        assert_eq!(plan.view.user_space, None);
    }

    #[test]
    fn the_rest_stays_in_user_space() {
        let plan = plan("tcp port 443 and tcp[tcpflags] & tcp-syn != 0").unwrap();
        assert!(
            plan.view
                .user_space
                .is_some_and(|rest| rest.contains("tcp["))
        );
    }

    #[test]
    fn a_filter_without_ip_is_refused() {
        assert_eq!(plan("arp").unwrap_err().field, "filter");
    }

    #[test]
    fn the_version_narrows_an_end_without_prefix() {
        let side = Side {
            prefix: None,
            ports: 1..=2,
        };
        assert_eq!(end(&side, Some(IpVersion::V4)).network.1, 96);
        assert_eq!(end(&side, Some(IpVersion::V6)).network.1, 0);
    }

    #[test]
    fn numbers_are_given_once() {
        assert_eq!(free_numbers(0b101, 2), Some(vec![1, 3]));
        assert_eq!(free_numbers(u64::MAX, 1), None);
        assert_eq!(free_numbers(0, 65), None);
    }
}
