//! A conversation with the kernel over netlink: requests out, messages and their attributes in.
//!
//! Deliberately small: dumps, multicasts and single objects are all that interfaces, routes,
//! sockets and connection tracking need, and it works on any thread, so that a thread in another
//! namespace can use it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};

/// Length of the header of a message: `struct nlmsghdr`.
const HEADER_SIZE: usize = 16;
/// Longest datagram that the kernel sends: it builds dumps in pages of at most 32 KiB.
const DATAGRAM_SIZE_MAX: usize = 32 << 10;
/// Receive buffer of a socket that listens to multicasts, in bytes: some 1,000 link messages. When
/// it overflows the kernel says so and the listener reads everything again.
const MULTICAST_BUFFER_SIZE: usize = 1 << 20;
/// How often an interrupted dump is repeated before its last answer is taken as it is.
const DUMP_ATTEMPT_COUNT_MAX: usize = 4;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Bits of an attribute's type that are flags.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;

/// A netlink socket of one protocol in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What a multicast socket has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Nothing is waiting.
    Nothing,
    /// At least one message.
    Messages,
    /// Messages were lost: what they told must be read again.
    Overflow,
}

/// What one datagram of an answer told about the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    is_done: bool,
    is_interrupted: bool,
}

impl Netlink {
    /// Opens a socket; `groups` are the multicast groups it listens to, as bits.
    pub(crate) fn open(protocol: SockProtocol, groups: u32) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        if groups != 0 {
            // Beyond the system's limit only with CAP_NET_ADMIN; a smaller buffer overflows
            // earlier, which is handled.
            if setsockopt(&socket, sockopt::RcvBufForce, &MULTICAST_BUFFER_SIZE).is_err() {
                setsockopt(&socket, sockopt::RcvBuf, &MULTICAST_BUFFER_SIZE)?;
            }
        }
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; DATAGRAM_SIZE_MAX],
        })
    }

    /// Asks for all objects of a kind: `each` gets the type and the body of every message.
    pub(crate) fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        // An interrupted dump may miss or repeat objects: once more, with the callers keyed by
        // object so that repeats do no harm.
        for _ in 0..DUMP_ATTEMPT_COUNT_MAX {
            self.request(kind, NLM_F_REQUEST | NLM_F_DUMP, body)?;
            if !self.answer(&mut each)? {
                break;
            }
        }
        Ok(())
    }

    /// Asks for one object: `each` gets the type and the body of every message about it.
    pub(crate) fn get(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.request(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body)?;
        self.answer(&mut each).map(|_| ())
    }

    /// Gives an order and waits until it is done.
    pub(crate) fn command(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.get(kind, flags, body, |_, _| {})
    }

    /// Takes what multicasts are waiting, without blocking; their content is not looked at.
    pub(crate) fn drain(&mut self) -> io::Result<Received> {
        let mut received = Received::Nothing;
        loop {
            match recv(
                self.socket.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(_) if received == Received::Nothing => received = Received::Messages,
                Ok(_) => {}
                Err(nix::Error::ENOBUFS) => received = Received::Overflow,
                Err(nix::Error::EAGAIN) => return Ok(received),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER_SIZE + body.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER_SIZE + body.len());
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Reads one whole answer; whether the dump was interrupted by a change.
    fn answer(&mut self, each: &mut impl FnMut(u16, &[u8])) -> io::Result<bool> {
        let mut was_interrupted = false;
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let progress = parse_datagram(&self.buffer[..length], self.sequence, each)?;
            was_interrupted |= progress.is_interrupted;
            if progress.is_done {
                return Ok(was_interrupted);
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Hands the messages of one datagram that belong to `sequence` to `each`.
fn parse_datagram(
    mut datagram: &[u8],
    sequence: u32,
    each: &mut impl FnMut(u16, &[u8]),
) -> io::Result<Progress> {
    let mut progress = Progress::default();
    while datagram.len() >= HEADER_SIZE {
        let length = word(datagram, 0).unwrap_or_default() as usize;
        let kind = half_word(datagram, 4).unwrap_or_default();
        let flags = half_word(datagram, 6).unwrap_or_default();
        if length < HEADER_SIZE || length > datagram.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "netlink message cut short",
            ));
        }
        let body = &datagram[HEADER_SIZE..length];
        if word(datagram, 8) == Some(sequence) {
            progress.is_interrupted |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                NLMSG_DONE => progress.is_done = true,
                NLMSG_ERROR => match word(body, 0).unwrap_or_default().cast_signed() {
                    0 => progress.is_done = true,
                    error => return Err(io::Error::from_raw_os_error(-error)),
                },
                kind => each(kind, body),
            }
        }
        datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
    }
    Ok(progress)
}

/// The attributes of a message in their order; what is cut short ends them.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half_word(bytes, 0)?);
        let kind = half_word(bytes, 2)? & ATTRIBUTE_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Appends an attribute, padded.
pub(crate) fn push_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// The 16 bit word at `offset`, in the machine's order.
pub(crate) fn half_word(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(
        bytes.get(offset..offset + 2)?.try_into().ok()?,
    ))
}

/// The 32 bit word at `offset`, in the machine's order.
pub(crate) fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(
        bytes.get(offset..offset + 4)?.try_into().ok()?,
    ))
}

/// The 64 bit word at `offset`, in the machine's order.
pub(crate) fn double_word(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(
        bytes.get(offset..offset + 8)?.try_into().ok()?,
    ))
}

/// The text of an attribute that ends with a zero.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&(HEADER_SIZE as u32 + body.len() as u32).to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn attributes_survive_padding_and_end_where_cut() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 3, b"eth0\0");
        push_attribute(&mut bytes, 0x8012, &[1, 2, 3, 4]);
        let whole: Vec<_> = attributes(&bytes)
            .map(|(kind, value)| (kind, value.len()))
            .collect();
        assert_eq!(whole, [(3, 5), (0x12, 4)]);
        assert_eq!(attributes(&bytes[..bytes.len() - 1]).count(), 1);
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0);
    }

    #[test]
    fn messages_of_other_requests_are_left_out() {
        let mut datagram = message(16, 7, &[1; 4]);
        datagram.extend(message(16, 8, &[2; 4]));
        datagram.extend(message(NLMSG_DONE, 8, &[0; 4]));
        let mut seen = Vec::new();
        let progress =
            parse_datagram(&datagram, 8, &mut |_, body: &[u8]| seen.push(body[0])).unwrap();
        assert_eq!(
            progress,
            Progress {
                is_done: true,
                is_interrupted: false
            }
        );
        assert_eq!(seen, [2]);
    }

    #[test]
    fn an_error_names_its_number_and_a_cut_message_is_refused() {
        let refused = message(NLMSG_ERROR, 1, &(-libc_eperm()).to_ne_bytes());
        let error = parse_datagram(&refused, 1, &mut |_, _: &[u8]| {})
            .err()
            .unwrap();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let cut = &message(16, 1, &[0; 8])[..20];
        assert!(parse_datagram(cut, 1, &mut |_, _: &[u8]| {}).is_err());
    }

    fn libc_eperm() -> i32 {
        nix::Error::EPERM as i32
    }
}
