//! The bounded sets of label values of service pairs, and what becomes of those beyond.

use phalanx_engine::PairKey;

/// Label sets with a client of their own. One TCP set has some 130 series, so 256 sets have
/// 33,000: what one Prometheus takes from one target without trouble.
pub(super) const CLIENT_SET_COUNT_MAX: usize = 256;

/// Label sets whose client is `other`, of servers whose clients found the sets above full.
pub(super) const SERVER_SET_COUNT_MAX: usize = 64;

/// A label set that saw nothing for this long makes room for another, in nanoseconds.
pub(super) const IDLE_NS: u64 = 3_600_000_000_000;

/// What stands for values beyond the bound.
pub(super) const OTHER: &str = "other";

/// The label values of a service pair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Labels {
    pub(super) client: String,
    pub(super) server: String,
    pub(super) port: String,
    pub(super) protocol: u8,
}

impl Labels {
    pub(super) fn of(key: &PairKey) -> Self {
        Self {
            client: key.client.to_string(),
            server: key.server.to_string(),
            port: key.port.to_string(),
            protocol: key.protocol,
        }
    }

    /// The same for whichever client.
    pub(super) fn of_server(key: &PairKey) -> Self {
        Self {
            client: OTHER.to_owned(),
            ..Self::of(key)
        }
    }

    /// The set of all that overflows.
    pub(super) fn of_other(protocol: u8) -> Self {
        let protocol = if protocol == PROTOCOL_TCP {
            protocol
        } else {
            PROTOCOL_OTHER
        };
        let other = || OTHER.to_owned();
        Self {
            client: other(),
            server: other(),
            port: other(),
            protocol,
        }
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.protocol == PROTOCOL_TCP
    }

    pub(super) fn protocol_name(&self) -> String {
        if self.protocol == PROTOCOL_OTHER {
            return OTHER.to_owned();
        }
        crate::view::protocol_name(self.protocol).into_owned()
    }
}

const PROTOCOL_TCP: u8 = 6;

/// Reserved by IANA: stands for all but TCP.
const PROTOCOL_OTHER: u8 = 255;
