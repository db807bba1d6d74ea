//! Between what the shell tells and the messages that say it. What the names file holds stays with
//! its agent: the hub has one of its own.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use phalanx_common::abi::COUNTER_COUNT;
use phalanx_engine::name::{Owner, Socket};
use phalanx_engine::{
    Endpoint, Hop, HopId, Input, Link, NameFact, NamespaceId, Sides, Translation,
};
use zerocopy::IntoBytes;

use super::protocol::item::Kind;
use super::protocol::{self, clock_event, hop_status, name_fact};
use super::told::Told;
use crate::clock::ClockEvent;
use crate::daemon::{HopState, HopStatus, InstanceStatus, KernelStatus, RingStatus};
use crate::lookback::LookbackStatus;
use crate::translation::LookupCounts;

/// The item that says it, if the hub is told of it.
pub(super) fn item(told: &Told<'_>) -> Option<protocol::Item> {
    let (hop, kind) = match told {
        Told::Input(input) => return input_item(input),
        Told::Status(status) => (HopId(0), Kind::Status(status_message(status))),
        Told::Clock(event) => (HopId(0), Kind::Clock(clock_message(event))),
    };
    Some(protocol::Item {
        hop: hop.0,
        kind: Some(kind),
    })
}

fn input_item(input: &Input<'_>) -> Option<protocol::Item> {
    let copy = Bytes::copy_from_slice;
    let (hop, kind) = match input {
        Input::HopAppeared(hop) => (hop.id, Kind::HopAppeared(true)),
        Input::HopVanished(hop) => (*hop, Kind::HopVanished(true)),
        Input::Update { hop, update } => (*hop, Kind::Update(copy(update.as_bytes()))),
        Input::FlowRead { hop, update } => (*hop, Kind::FlowRead(copy(update.as_bytes()))),
        Input::FlowGone {
            hop,
            key,
            incarnation,
        } => {
            let gone = protocol::FlowGone {
                key: copy(key.as_bytes()),
                incarnation: *incarnation,
            };
            (*hop, Kind::FlowGone(gone))
        }
        Input::Attempt { hop, attempt } => (*hop, Kind::Attempt(copy(attempt.as_bytes()))),
        // Packets travel as captures.
        Input::Record { .. } | Input::HopHeard { .. } => return None,
        Input::Names(fact) => (HopId(0), Kind::Name(name_message(fact)?)),
    };
    Some(protocol::Item {
        hop: hop.0,
        kind: Some(kind),
    })
}

pub(super) fn hop_message(hop: &Hop) -> protocol::Hop {
    let link = match hop.link {
        Link::Ethernet => protocol::Link::Ethernet,
        Link::Ip => protocol::Link::Ip,
        Link::Loopback => protocol::Link::Loopback,
    };
    protocol::Hop {
        id: hop.id.0,
        namespace: hop.namespace.0,
        namespace_name: hop.namespace_name.as_deref().unwrap_or("").to_owned(),
        interface: hop.interface.to_string(),
        ifindex: hop.ifindex,
        link: link.into(),
    }
}

/// What frames begin with at a hop.
#[must_use]
pub(crate) fn link_of(hop: &protocol::Hop) -> Link {
    match hop.link() {
        protocol::Link::Ip => Link::Ip,
        protocol::Link::Loopback => Link::Loopback,
        protocol::Link::Ethernet | protocol::Link::Unknown => Link::Ethernet,
    }
}

fn name_message(fact: &NameFact) -> Option<protocol::NameFact> {
    let local = |namespace: &NamespaceId, address: &IpAddr| protocol::LocalAddress {
        namespace: namespace.0,
        address: address_bytes(address),
    };
    let fact = match fact {
        NameFact::SocketOwned { socket, owner } => {
            name_fact::Fact::SocketOwned(protocol::SocketOwned {
                socket: Some(socket_message(socket)),
                process: owner.process.to_string(),
                pid: owner.pid,
                cgroup: owner.cgroup.to_string(),
                container_name: owner.container_name.as_deref().map(str::to_owned),
                is_listener: owner.is_listener,
            })
        }
        NameFact::SocketClosed(socket) => name_fact::Fact::SocketClosed(socket_message(socket)),
        NameFact::AddressAdded { namespace, address } => {
            name_fact::Fact::AddressAdded(local(namespace, address))
        }
        NameFact::AddressRemoved { namespace, address } => {
            name_fact::Fact::AddressRemoved(local(namespace, address))
        }
        NameFact::ReverseDns { address, host } => {
            name_fact::Fact::ReverseName(protocol::ReverseName {
                address: address_bytes(address),
                host: host.as_deref().map(str::to_owned),
            })
        }
        NameFact::Translated {
            host: _,
            namespace,
            translation,
        } => name_fact::Fact::Translated(protocol::Translated {
            namespace: namespace.0,
            protocol: u32::from(translation.protocol),
            inside: Some(ends_message(&translation.inside)),
            outside: Some(ends_message(&translation.outside)),
        }),
        NameFact::File(_) => return None,
    };
    Some(protocol::NameFact { fact: Some(fact) })
}

fn socket_message(socket: &Socket) -> protocol::Socket {
    protocol::Socket {
        protocol: u32::from(socket.protocol),
        port: u32::from(socket.port),
        address: socket
            .address
            .map_or_else(Bytes::new, |it| address_bytes(&it)),
        namespace: socket.namespace.0,
    }
}

fn ends_message(ends: &Sides<Endpoint>) -> protocol::Ends {
    protocol::Ends {
        client_address: address_bytes(&ends.client.address),
        client_port: u32::from(ends.client.port),
        server_address: address_bytes(&ends.server.address),
        server_port: u32::from(ends.server.port),
    }
}

fn ends_of(message: &protocol::Ends) -> Option<Sides<Endpoint>> {
    let end = |bytes: &[u8], port: u32| {
        Some(Endpoint {
            address: address(bytes)?,
            port: u16::try_from(port).ok()?,
        })
    };
    Some(Sides {
        client: end(&message.client_address, message.client_port)?,
        server: end(&message.server_address, message.server_port)?,
    })
}

fn address_bytes(address: &IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(octets));
    }
    <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok()
}

/// The fact of a message of an agent called `host`; `namespace` tells the hub's number of a
/// namespace of the agent. None where the message makes no sense.
#[must_use]
pub(crate) fn name_of(
    message: &protocol::NameFact,
    host: &Arc<str>,
    mut namespace: impl FnMut(u64) -> NamespaceId,
) -> Option<NameFact> {
    Some(match message.fact.as_ref()? {
        name_fact::Fact::SocketOwned(owned) => NameFact::SocketOwned {
            socket: socket_of(owned.socket.as_ref()?, namespace)?,
            owner: Owner {
                process: Arc::from(owned.process.as_str()),
                pid: owned.pid,
                cgroup: Arc::from(owned.cgroup.as_str()),
                container_name: owned.container_name.as_deref().map(Arc::from),
                is_listener: owned.is_listener,
            },
        },
        name_fact::Fact::SocketClosed(socket) => {
            NameFact::SocketClosed(socket_of(socket, namespace)?)
        }
        name_fact::Fact::AddressAdded(local) => NameFact::AddressAdded {
            namespace: namespace(local.namespace),
            address: address(&local.address)?,
        },
        name_fact::Fact::AddressRemoved(local) => NameFact::AddressRemoved {
            namespace: namespace(local.namespace),
            address: address(&local.address)?,
        },
        name_fact::Fact::ReverseName(name) => NameFact::ReverseDns {
            address: address(&name.address)?,
            host: name.host.as_deref().map(Arc::from),
        },
        name_fact::Fact::Translated(told) => NameFact::Translated {
            host: Arc::clone(host),
            namespace: namespace(told.namespace),
            translation: translation_of(told)?,
        },
    })
}

fn translation_of(message: &protocol::Translated) -> Option<Translation> {
    let translation = Translation {
        protocol: u8::try_from(message.protocol).ok()?,
        inside: ends_of(message.inside.as_ref()?)?,
        outside: ends_of(message.outside.as_ref()?)?,
    };
    Some(translation).filter(Translation::changes_anything)
}

fn socket_of(
    message: &protocol::Socket,
    mut namespace: impl FnMut(u64) -> NamespaceId,
) -> Option<Socket> {
    Some(Socket {
        protocol: u8::try_from(message.protocol).ok()?,
        port: u16::try_from(message.port).ok()?,
        address: match message.address.is_empty() {
            true => None,
            false => Some(address(&message.address)?),
        },
        namespace: namespace(message.namespace),
    })
}

fn clock_message(event: &ClockEvent) -> protocol::ClockEvent {
    let (at, kind) = match *event {
        ClockEvent::Stepped { at, by_ns } => (at, clock_event::Kind::SteppedNs(by_ns)),
        ClockEvent::Suspended { at, for_ns } => (at, clock_event::Kind::SuspendedNs(for_ns)),
    };
    protocol::ClockEvent {
        at_ns: at.0,
        kind: Some(kind),
    }
}

fn status_message(status: &KernelStatus) -> protocol::Status {
    let instance = |it: &InstanceStatus| protocol::Instance {
        namespace: it.namespace.clone(),
        events_used_bytes: it.events.used_bytes,
        events_size_bytes: it.events.size_bytes,
        records_used_bytes: it.records.used_bytes,
        records_size_bytes: it.records.size_bytes,
        flow_count: it.flow_count,
        flow_count_max: it.flow_count_max,
    };
    protocol::Status {
        at_ns: status.at.0,
        counters: status.counters.to_vec(),
        instances: status.instances.iter().map(instance).collect(),
        hops: status.hops.iter().map(hop_status_message).collect(),
        map_memory_bytes: status.map_memory_bytes,
        events_read: status.events_read,
        events_unknown: status.events_unknown,
        events_unplaced: status.events_unplaced,
        records_read: status.records_read,
        promoted_packets: status.promoted_packets,
        promoted_evicted: status.promoted_evicted,
        records_dropped_queue_full: status.records_dropped_queue_full,
        event_lag_ns: status.event_lag_ns,
        cpu_ns: status.cpu_ns,
        resident_bytes: status.resident_bytes,
    }
}

fn hop_status_message(status: &HopStatus) -> protocol::HopStatus {
    let (state, failure) = match &status.state {
        HopState::Quiet => (hop_status::State::Quiet, ""),
        HopState::Running => (hop_status::State::Running, ""),
        HopState::Blind => (hop_status::State::Blind, ""),
        HopState::Failed(why) => (hop_status::State::Failed, why.as_str()),
    };
    protocol::HopStatus {
        hop: status.hop.map_or(0, |hop| hop.0),
        namespace: status.namespace.clone(),
        interface: status.interface.clone(),
        ifindex: status.ifindex,
        ingress: status.ingress.clone(),
        egress: status.egress.clone(),
        reason: status.reason.clone(),
        state: state.into(),
        failure: failure.to_owned(),
    }
}

/// The status of an agent's kernel side. Hops have their numbers at the agent still.
#[must_use]
pub(crate) fn status_of(message: protocol::Status) -> KernelStatus {
    let mut counters = [0; COUNTER_COUNT];
    for (counter, told) in counters.iter_mut().zip(&message.counters) {
        *counter = *told;
    }
    let instance = |it: protocol::Instance| InstanceStatus {
        namespace: it.namespace,
        events: RingStatus {
            used_bytes: it.events_used_bytes,
            size_bytes: it.events_size_bytes,
        },
        records: RingStatus {
            used_bytes: it.records_used_bytes,
            size_bytes: it.records_size_bytes,
        },
        flow_count: it.flow_count,
        flow_count_max: it.flow_count_max,
    };
    KernelStatus {
        at: phalanx_engine::Monotonic(message.at_ns),
        counters,
        instances: message.instances.into_iter().map(instance).collect(),
        tally: phalanx_engine::Tally::default(),
        map_memory_bytes: message.map_memory_bytes,
        hops: message.hops.into_iter().map(hop_status_of).collect(),
        events_read: message.events_read,
        events_unknown: message.events_unknown,
        events_unplaced: message.events_unplaced,
        records_read: message.records_read,
        promoted_packets: message.promoted_packets,
        promoted_evicted: message.promoted_evicted,
        records_dropped_queue_full: message.records_dropped_queue_full,
        event_lag_ns: message.event_lag_ns,
        cpu_ns: message.cpu_ns,
        resident_bytes: message.resident_bytes,
        // What an agent keeps and asks its kernel is asked of it.
        lookback: LookbackStatus::off(),
        translations: LookupCounts::default(),
    }
}

fn hop_status_of(message: protocol::HopStatus) -> HopStatus {
    let state = match message.state() {
        hop_status::State::Quiet => HopState::Quiet,
        hop_status::State::Running => HopState::Running,
        hop_status::State::Blind => HopState::Blind,
        hop_status::State::Failed => HopState::Failed(message.failure),
    };
    HopStatus {
        hop: (message.hop != 0).then_some(HopId(message.hop)),
        namespace: message.namespace,
        interface: message.interface,
        ifindex: message.ifindex,
        ingress: message.ingress,
        egress: message.egress,
        reason: message.reason,
        state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(address: &str, port: u16) -> Endpoint {
        let address = address.parse().unwrap();
        Endpoint { address, port }
    }

    fn fact(translation: Translation) -> NameFact {
        NameFact::Translated {
            host: "as the agent calls it".into(),
            namespace: NamespaceId(4_026_531_840),
            translation,
        }
    }

    fn translation() -> Translation {
        Translation {
            protocol: 17,
            inside: Sides {
                client: end("10.0.0.2", 50_000),
                server: end("fd00::1", 53),
            },
            outside: Sides {
                client: end("192.0.2.1", 1_025),
                server: end("fd00::1", 53),
            },
        }
    }

    #[test]
    fn a_translation_is_of_the_host_that_the_hub_knows() {
        let message = name_message(&fact(translation())).unwrap();
        let host: Arc<str> = "edge-1".into();
        let read = name_of(&message, &host, |inode| NamespaceId(inode + 1)).unwrap();
        let NameFact::Translated {
            host,
            namespace,
            translation: told,
        } = read
        else {
            panic!("{read:?}");
        };
        assert_eq!((&*host, namespace.0), ("edge-1", 4_026_531_841));
        assert_eq!(told, translation());
    }

    #[test]
    fn a_translation_that_makes_no_sense_is_none() {
        type Spoil = fn(&mut protocol::Translated);
        let spoils: [Spoil; 7] = [
            |it| it.protocol = 256,
            |it| it.inside = None,
            |it| it.outside = None,
            |it| it.outside = it.inside.clone(),
            |it| it.inside.as_mut().unwrap().client_port = 65_536,
            |it| it.inside.as_mut().unwrap().client_address = Bytes::from_static(&[1; 5]),
            |it| it.outside.as_mut().unwrap().server_address = Bytes::new(),
        ];
        for spoil in spoils {
            let mut message = name_message(&fact(translation())).unwrap();
            let Some(name_fact::Fact::Translated(told)) = &mut message.fact else {
                panic!("{message:?}");
            };
            spoil(told);
            let host = "edge-1".into();
            assert!(
                name_of(&message, &host, NamespaceId).is_none(),
                "{message:?}"
            );
        }
    }
}
