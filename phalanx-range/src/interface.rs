//! The few interface operations that go through ioctls: tun devices and offloads.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use serde::{Deserialize, Serialize};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_SGRO: u32 = 0x2c;

/// Which offloads an interface uses; what is absent stays as the kernel sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offload {
    /// TCP segmentation offload: super-segments reach the device.
    #[serde(default)]
    pub tso: Option<bool>,
    /// Generic segmentation offload: super-segments reach the device's hooks.
    #[serde(default)]
    pub gso: Option<bool>,
    /// Generic receive offload: received segments are merged.
    #[serde(default)]
    pub gro: Option<bool>,
    /// Transmit checksums left to the device.
    #[serde(default)]
    pub tx_checksum: Option<bool>,
}

/// Opens a new tun device `name` in the calling thread's namespace: no link layer, no packet
/// information, no offload header. The device goes when the file is closed.
pub(crate) fn open_tun(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open and `request` is a valid ifreq for the whole call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// Sets the offloads of interface `name` in the calling thread's namespace.
pub(crate) fn set_offload(name: &str, offload: Offload) -> io::Result<()> {
    let commands = [
        (ETHTOOL_STXCSUM, offload.tx_checksum),
        (ETHTOOL_SGSO, offload.gso),
        (ETHTOOL_STSO, offload.tso),
        (ETHTOOL_SGRO, offload.gro),
    ];
    for (command, wanted) in commands {
        if let Some(wanted) = wanted {
            set_feature(name, command, wanted)?;
        }
    }
    Ok(())
}

/// `struct ethtool_value` of the kernel.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

fn set_feature(name: &str, command: u32, wanted: bool) -> io::Result<()> {
    // Any socket of the namespace will do to address its interfaces.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut value = EthtoolValue {
        command,
        data: u32::from(wanted),
    };
    let mut request = request(name)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the socket is open; `request` and the value it points to outlive the call, and
    // the commands used here read and write one `ethtool_value`.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain bytes; all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "interface name too long",
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}
