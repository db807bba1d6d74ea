//! Which hooks an interface gets, and why: decided from values alone.

use std::fmt;
use std::str::FromStr;

use crate::interface::{Link, LinkLayer};

/// Drivers whose native XDP does harm: veth turns the peer's segmentation offload off, virtio_net
/// its own receive offloads, and both cost most of the throughput; tun runs it per system call.
const HARMED_DRIVERS: &[&str] = &["veth", "virtio_net", "tun", "hv_netvsc", "xen-netfront"];

/// What the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookChoice {
    /// XDP where the driver has it and it does no harm, TC otherwise.
    #[default]
    Auto,
    /// XDP of the driver, or nothing.
    Xdp,
    /// XDP behind the driver, or nothing.
    XdpGeneric,
    /// TC.
    Tc,
}

impl HookChoice {
    /// The choices as they are typed.
    pub const NAMES: &[&str] = &["auto", "xdp", "xdp-generic", "tc"];
}

impl FromStr for HookChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "xdp" => Ok(Self::Xdp),
            "xdp-generic" => Ok(Self::XdpGeneric),
            "tc" => Ok(Self::Tc),
            _ => Err(format!("must be one of {}", Self::NAMES.join(", "))),
        }
    }
}

/// How packets in are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// XDP in the driver.
    Xdp,
    /// XDP behind the driver.
    XdpGeneric,
    /// TC.
    Tc,
}

impl fmt::Display for Ingress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tc",
        })
    }
}

/// Which hooks an interface gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How packets in are seen.
    pub ingress: Ingress,
    /// Whether packets out are seen (by TC).
    pub has_egress: bool,
    /// Whether TC is tried where XDP fails.
    pub may_fall_back: bool,
    /// Why.
    pub reason: String,
}

/// Decides the hooks of an interface; `driver` where it is known.
#[must_use]
pub fn plan(choice: HookChoice, link: &Link, driver: Option<&str>) -> Plan {
    let tc = |reason: String| Plan {
        ingress: Ingress::Tc,
        has_egress: !link.is_loopback,
        may_fall_back: false,
        reason,
    };
    if link.is_loopback {
        return tc("tc: on the loopback each packet passes once each way; ingress sees all".into());
    }
    if link.layer == LinkLayer::None && choice != HookChoice::Tc {
        return tc("tc: XDP cannot read an interface without a link layer".into());
    }
    let xdp = |ingress, may_fall_back, reason: String| {
        if let Some(id) = link.xdp_program_id {
            return tc(format!(
                "tc: XDP program {id} of somebody else is there and stays"
            ));
        }
        Plan {
            ingress,
            has_egress: true,
            may_fall_back,
            reason,
        }
    };
    match choice {
        HookChoice::Tc => tc("tc: asked for".into()),
        HookChoice::Xdp => xdp(Ingress::Xdp, false, "xdp: asked for".into()),
        HookChoice::XdpGeneric => xdp(Ingress::XdpGeneric, false, "xdp-generic: asked for".into()),
        HookChoice::Auto => match driver {
            _ if !link.is_physical => tc(format!(
                "tc: {} is virtual",
                if link.kind.is_empty() {
                    "the interface"
                } else {
                    &link.kind
                }
            )),
            None => tc("tc: the driver is not known".into()),
            Some(driver) if HARMED_DRIVERS.contains(&driver) => {
                tc(format!("tc: XDP of {driver} turns offloads off"))
            }
            Some(driver) => xdp(
                Ingress::Xdp,
                true,
                format!("xdp: native XDP of {driver}, if it has it"),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str) -> Link {
        Link {
            index: 2,
            name: name.to_owned(),
            kind: String::new(),
            layer: LinkLayer::Ethernet,
            is_up: true,
            is_loopback: false,
            is_physical: true,
            xdp_program_id: None,
            has_default_route: true,
            received_packets: 0,
        }
    }

    #[test]
    fn automatic_choice() {
        let choose = |link: &Link, driver| plan(HookChoice::Auto, link, driver);
        let physical = choose(&link("eth0"), Some("ice"));
        assert_eq!(
            (physical.ingress, physical.may_fall_back),
            (Ingress::Xdp, true)
        );
        assert_eq!(
            choose(&link("eth0"), Some("virtio_net")).ingress,
            Ingress::Tc
        );
        assert_eq!(choose(&link("eth0"), None).ingress, Ingress::Tc);
        let veth = Link {
            kind: "veth".into(),
            is_physical: false,
            ..link("veth0")
        };
        let plan = choose(&veth, None);
        assert_eq!((plan.ingress, plan.has_egress), (Ingress::Tc, true));
        assert!(plan.reason.contains("veth"));
    }

    #[test]
    fn the_loopback_is_seen_once_whatever_was_asked() {
        let loopback = Link {
            is_loopback: true,
            is_physical: false,
            ..link("lo")
        };
        for choice in HookChoice::NAMES {
            let plan = plan(choice.parse().unwrap(), &loopback, None);
            assert_eq!(
                (plan.ingress, plan.has_egress),
                (Ingress::Tc, false),
                "{choice}"
            );
        }
    }

    #[test]
    fn a_foreign_xdp_program_stays() {
        let taken = Link {
            xdp_program_id: Some(42),
            ..link("eth0")
        };
        for choice in ["auto", "xdp", "xdp-generic"] {
            let plan = plan(choice.parse().unwrap(), &taken, Some("ice"));
            assert_eq!(plan.ingress, Ingress::Tc, "{choice}");
            assert!(plan.reason.contains("42"), "{}", plan.reason);
        }
    }

    #[test]
    fn xdp_is_strict_when_asked_for_and_not_used_without_link_layer() {
        assert!(!plan(HookChoice::Xdp, &link("eth0"), Some("ice")).may_fall_back);
        let tun = Link {
            layer: LinkLayer::None,
            ..link("tun0")
        };
        assert_eq!(plan(HookChoice::Xdp, &tun, None).ingress, Ingress::Tc);
    }
}
