//! Socket options that the standard library does not know.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use serde::Serialize;

/// What the kernel says about a TCP connection (`TCP_INFO`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct TcpTruth {
    /// Segments retransmitted so far.
    pub retransmits: u32,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: u32,
    /// Path MTU in bytes.
    pub path_mtu_bytes: u32,
    /// MSS for sending in bytes.
    pub send_mss_bytes: u32,
}

/// Reads what the kernel says about a connection.
pub(crate) fn tcp_truth(stream: &TcpStream) -> io::Result<TcpTruth> {
    // SAFETY: tcp_info is plain numbers; all zeros is a valid value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` has room for `length` bytes, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpTruth {
        retransmits: info.tcpi_total_retrans,
        rtt_us: info.tcpi_rtt,
        path_mtu_bytes: info.tcpi_pmtu,
        send_mss_bytes: info.tcpi_snd_mss,
    })
}

/// Sets the receive buffer to `bytes`; the kernel doubles it for its own bookkeeping.
pub(crate) fn set_receive_buffer(stream: &TcpStream, bytes: u32) -> io::Result<()> {
    set(
        stream,
        libc::SO_RCVBUF,
        &libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX),
    )
}

/// Gives a UDP socket room for bursts while its threads are busy: 16 MiB, past the limit of the
/// machine where we may.
pub(crate) fn make_room(socket: &UdpSocket) -> io::Result<()> {
    let bytes: libc::c_int = 16 << 20;
    set(socket, libc::SO_RCVBUFFORCE, &bytes).or_else(|_| set(socket, libc::SO_RCVBUF, &bytes))
}

/// Makes closing the connection send a reset.
pub(crate) fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    set(
        stream,
        libc::SO_LINGER,
        &libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )
}

fn set<T>(socket: &impl AsRawFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is a valid T for the whole call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Whom a datagram came from, and which of our addresses it was sent to.
pub(crate) struct Envelope {
    peer: SockaddrIn6,
    own: Option<libc::in6_pktinfo>,
}

/// Makes the socket tell the address that each datagram was sent to.
pub(crate) fn tell_destination(socket: &UdpSocket) -> io::Result<()> {
    setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true).map_err(io::Error::from)
}

/// Receives a datagram on a socket of both families.
pub(crate) fn receive_from(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Envelope)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let message = recvmsg::<SockaddrIn6>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let own = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv6PacketInfo(mut info) => {
            // The route decides the interface; only the address is ours to give.
            info.ipi6_ifindex = 0;
            Some(info)
        }
        _ => None,
    });
    let peer = message.address.ok_or(io::ErrorKind::InvalidData)?;
    Ok((message.bytes, Envelope { peer, own }))
}

/// Answers a datagram from the address that it was sent to.
pub(crate) fn send_back(socket: &UdpSocket, payload: &[u8], envelope: &Envelope) -> io::Result<()> {
    let control: Vec<ControlMessage<'_>> = envelope
        .own
        .as_ref()
        .map(ControlMessage::Ipv6PacketInfo)
        .into_iter()
        .collect();
    let parts = [IoSlice::new(payload)];
    let flags = MsgFlags::empty();
    sendmsg(
        socket.as_raw_fd(),
        &parts,
        &control,
        flags,
        Some(&envelope.peer),
    )?;
    Ok(())
}
