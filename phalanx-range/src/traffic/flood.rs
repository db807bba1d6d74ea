//! Bounded floods from many made-up sources: raw IPv4 packets with their own headers, to a host
//! of the range.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::limits::{FLOOD_BATCH, FLOOD_PACKETS_MAX, FLOOD_SOURCES_MAX};
use crate::packet::checksum;

/// What a flood is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FloodKind {
    /// TCP SYNs with an MSS option.
    Syn,
    /// Bare TCP ACKs of no connection.
    Ack,
    /// UDP datagrams of 16 bytes.
    Udp,
}

/// A flood; sources are consecutive addresses, one packet each in turn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Flood {
    /// What it is made of.
    pub kind: FloodKind,
    /// Where it goes.
    pub target: SocketAddrV4,
    /// The first source address.
    pub source_first: Ipv4Addr,
    /// Distinct source addresses.
    pub sources: u32,
    /// Packets altogether.
    pub packets: u64,
    /// Packets per second; 0 for as fast as it goes.
    pub rate_per_s: f64,
}

/// What a flood really was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FloodOutcome {
    /// Packets that the kernel took.
    pub packets: u64,
    /// Distinct sources among them.
    pub sources: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Flood {
    /// Sends the flood from the calling thread's namespace; needs root.
    pub fn run(&self) -> Result<FloodOutcome> {
        self.check()?;
        let socket = open()?;
        let start = Instant::now();
        let mut sent = 0u64;
        while sent < self.packets {
            let count = (self.packets - sent).min(FLOOD_BATCH as u64);
            let packets: Vec<Vec<u8>> = (sent..sent + count).map(|i| self.packet(i)).collect();
            send_all(&socket, &packets, self.target)?;
            sent += count;
            if self.rate_per_s > 0.0 {
                let due = Duration::from_secs_f64(sent as f64 / self.rate_per_s);
                if let Some(early) = due.checked_sub(start.elapsed()) {
                    std::thread::sleep(early);
                }
            }
        }
        Ok(FloodOutcome {
            packets: sent,
            sources: sent.min(self.sources.into()),
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn check(&self) -> Result<()> {
        if self.packets == 0 || self.packets > FLOOD_PACKETS_MAX {
            bail!("packets: give 1 to {FLOOD_PACKETS_MAX}");
        }
        if self.sources == 0 || self.sources > FLOOD_SOURCES_MAX {
            bail!("sources: give 1 to {FLOOD_SOURCES_MAX}");
        }
        if u32::from(self.source_first)
            .checked_add(self.sources)
            .is_none()
        {
            bail!(
                "source_first: the sources do not fit behind {}",
                self.source_first
            );
        }
        // Rates that make a pause of more than a day are typing errors.
        if self.rate_per_s < 0.0 || (self.rate_per_s > 0.0 && self.rate_per_s < 1e-3) {
            bail!("rate_per_s: give 0 or at least 0.001");
        }
        Ok(())
    }

    /// Packet number `index`: after each round through the sources the source port changes, so
    /// that no two packets are of one flow.
    fn packet(&self, index: u64) -> Vec<u8> {
        let offset = (index % u64::from(self.sources)) as u32;
        let source = Ipv4Addr::from(u32::from(self.source_first) + offset);
        let round = index / u64::from(self.sources);
        let source_port = 1_024 + (round % 60_000) as u16;
        let sequence = (index as u32).wrapping_mul(0x9e37_79b1);
        let ports = [source_port.to_be_bytes(), self.target.port().to_be_bytes()].concat();
        let tcp = |flags: u8, options: &[u8]| {
            let mut segment = ports.clone();
            segment.extend(sequence.to_be_bytes());
            segment.extend(if flags & 0x10 == 0 {
                [0; 4]
            } else {
                [0, 0, 0, 1]
            });
            segment.push(((5 + options.len() / 4) as u8) << 4);
            segment.push(flags);
            segment.extend(64_240_u16.to_be_bytes());
            segment.extend([0; 4]);
            segment.extend(options);
            segment
        };
        let (protocol, mut transport, checksum_at) = match self.kind {
            FloodKind::Syn => (6, tcp(0x02, &[2, 4, 0x05, 0xb4]), 16),
            FloodKind::Ack => (6, tcp(0x10, &[]), 16),
            FloodKind::Udp => {
                let mut datagram = ports.clone();
                datagram.extend(24_u16.to_be_bytes());
                datagram.extend([0; 2]);
                datagram.extend(index.to_be_bytes());
                datagram.extend([0; 8]);
                (17, datagram, 6)
            }
        };
        let target = *self.target.ip();
        let sum = pseudo_header_sum(source, target, protocol, transport.len());
        let sum = checksum(&transport, sum).to_be_bytes();
        transport[checksum_at..checksum_at + 2].copy_from_slice(&sum);
        let mut packet = vec![0x45, 0];
        packet.extend(((20 + transport.len()) as u16).to_be_bytes());
        packet.extend((index as u16).max(1).to_be_bytes());
        packet.extend([0x40, 0, 64, protocol, 0, 0]);
        packet.extend(source.octets());
        packet.extend(target.octets());
        let sum = checksum(&packet, 0).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet.extend(transport);
        packet
    }
}

fn pseudo_header_sum(source: Ipv4Addr, target: Ipv4Addr, protocol: u8, length: usize) -> u32 {
    let halves = |address: Ipv4Addr| {
        let bits = u32::from(address);
        (bits >> 16) + (bits & 0xffff)
    };
    halves(source) + halves(target) + u32::from(protocol) + length as u32
}

fn open() -> Result<OwnedFd> {
    // SAFETY: no pointers are involved.
    let descriptor = unsafe {
        libc::socket(
            libc::AF_INET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::IPPROTO_RAW,
        )
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error()).context("open a raw socket: needs root");
    }
    // SAFETY: the descriptor is new and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Hands all packets to the kernel, in order, waiting for room as needed.
fn send_all(socket: &OwnedFd, packets: &[Vec<u8>], target: SocketAddrV4) -> Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from(*target.ip()).to_be(),
        },
        sin_zero: [0; 8],
    };
    let mut parts: Vec<libc::iovec> = packets
        .iter()
        .map(|packet| libc::iovec {
            iov_base: packet.as_ptr().cast_mut().cast(),
            iov_len: packet.len(),
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: mmsghdr is plain numbers and pointers; all zeros is a valid value.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = (&raw const address).cast_mut().cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let mut done = 0;
    while done < messages.len() {
        let left = &mut messages[done..];
        // SAFETY: every message points to the address, one iovec and one packet, all of which
        // outlive the call; the kernel reads them only.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                left.as_mut_ptr(),
                left.len() as libc::c_uint,
                0,
            )
        };
        if sent >= 0 {
            done += sent.unsigned_abs() as usize;
            continue;
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR) => {
                std::thread::sleep(Duration::from_micros(100));
            }
            _ => return Err(error).with_context(|| format!("send to {target}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn flood(kind: FloodKind) -> Flood {
        Flood {
            kind,
            target: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 80),
            source_first: Ipv4Addr::new(100, 64, 0, 1),
            sources: 300,
            packets: 900,
            rate_per_s: 0.0,
        }
    }

    #[test]
    fn sources_are_distinct_and_flows_never_repeat() {
        let packets: Vec<Vec<u8>> = (0..900).map(|i| flood(FloodKind::Syn).packet(i)).collect();
        let sources: BTreeSet<&[u8]> = packets.iter().map(|p| &p[12..16]).collect();
        let flows: BTreeSet<&[u8]> = packets.iter().map(|p| &p[12..24]).collect();
        assert_eq!((sources.len(), flows.len()), (300, 900));
    }

    #[test]
    fn checksums_are_right() {
        for kind in [FloodKind::Syn, FloodKind::Ack, FloodKind::Udp] {
            for index in [0, 1, 299, 300, 70_000] {
                let packet = flood(kind).packet(index);
                assert_eq!(usize::from(packet[3]), packet.len());
                assert_eq!(checksum(&packet[..20], 0), 0, "{kind:?} {index}: IP");
                let address = |at: usize| {
                    Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3])
                };
                let length = packet.len() - 20;
                let sum = pseudo_header_sum(address(12), address(16), packet[9], length);
                assert_eq!(
                    checksum(&packet[20..], sum),
                    0,
                    "{kind:?} {index}: transport"
                );
            }
        }
    }

    #[test]
    fn unbounded_floods_are_refused() {
        let ok = flood(FloodKind::Ack);
        for wrong in [
            Flood { packets: 0, ..ok },
            Flood {
                packets: FLOOD_PACKETS_MAX + 1,
                ..ok
            },
            Flood { sources: 0, ..ok },
            Flood {
                source_first: Ipv4Addr::BROADCAST,
                ..ok
            },
            Flood {
                rate_per_s: -1.0,
                ..ok
            },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
        assert!(ok.check().is_ok());
    }
}
