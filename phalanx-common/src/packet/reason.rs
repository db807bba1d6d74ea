//! Why a packet takes part in no flow. Each reason has a counter of its own.

/// Why a packet could not be parsed down to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Unparsed {
    /// The packet, or what was captured of it, ends inside a header.
    Truncated = 0,
    /// The link layer carries something else than IP (ARP, LLDP, …).
    NotIp = 1,
    /// More VLAN tags than the two that are followed.
    VlanTooDeep = 2,
    /// MPLS, where it is not followed.
    Mpls = 3,
    /// PPPoE, where it is not followed.
    Pppoe = 4,
    /// The version field contradicts the link layer, or the header length is below its minimum.
    BadIpHeader = 5,
    /// A fragment that is not the first one: it has no ports.
    NonFirstFragment = 6,
    /// More IPv6 extension headers than the bound.
    ExtensionsTooMany = 7,
    /// The TCP data offset is below its minimum or beyond the packet, or the UDP length is below
    /// its minimum.
    BadTransportHeader = 8,
    /// A link type that is not known.
    UnknownLink = 9,
    /// More headers inside each other than are followed.
    NestingTooDeep = 10,
    /// A header between two IP layers (GRE, VXLAN, Geneve, PPPoE) that contradicts its format.
    BadEncapsulation = 11,
}

impl Unparsed {
    /// How many reasons there are.
    pub const COUNT: usize = 12;

    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Truncated,
        Self::NotIp,
        Self::VlanTooDeep,
        Self::Mpls,
        Self::Pppoe,
        Self::BadIpHeader,
        Self::NonFirstFragment,
        Self::ExtensionsTooMany,
        Self::BadTransportHeader,
        Self::UnknownLink,
        Self::NestingTooDeep,
        Self::BadEncapsulation,
    ];

    /// The reason as reports and metrics spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::NotIp => "not_ip",
            Self::VlanTooDeep => "vlan_too_deep",
            Self::Mpls => "mpls",
            Self::Pppoe => "pppoe",
            Self::BadIpHeader => "bad_ip_header",
            Self::NonFirstFragment => "non_first_fragment",
            Self::ExtensionsTooMany => "extensions_too_many",
            Self::BadTransportHeader => "bad_transport_header",
            Self::UnknownLink => "unknown_link",
            Self::NestingTooDeep => "nesting_too_deep",
            Self::BadEncapsulation => "bad_encapsulation",
        }
    }
}
