//! The `clsact` queueing discipline, where TC programs are attached on kernels without TCX: added,
//! and removed again where nobody else uses it.

use std::io;

use nix::sys::socket::SockProtocol;

use crate::netlink::{Netlink, attributes, push_attribute, text};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
/// Length of `struct tcmsg`.
const MESSAGE_SIZE: usize = 20;
const PARENT_CLSACT: u32 = 0xffff_fff1;
const HANDLE_CLSACT: u32 = 0xffff_0000;
const PARENT_INGRESS: u32 = 0xffff_fff2;
const PARENT_EGRESS: u32 = 0xffff_fff3;

/// Adds the discipline to an interface; `false`: it was there.
pub(crate) fn add(name: &str) -> anyhow::Result<bool> {
    let index = nix::net::if_::if_nametoindex(name)?;
    let mut netlink = Netlink::open(SockProtocol::NetlinkRoute, 0)?;
    let mut body = message(index, HANDLE_CLSACT, PARENT_CLSACT);
    push_attribute(&mut body, TCA_KIND, b"clsact\0");
    match netlink.command(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &body) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes the discipline from an interface if no filter is left in it; whether it did.
pub(crate) fn remove_if_empty(index: u32) -> io::Result<bool> {
    if !filter_names(index)?.is_empty() {
        return Ok(false);
    }
    let mut netlink = Netlink::open(SockProtocol::NetlinkRoute, 0)?;
    let mut body = message(index, HANDLE_CLSACT, PARENT_CLSACT);
    push_attribute(&mut body, TCA_KIND, b"clsact\0");
    netlink.command(RTM_DELQDISC, 0, &body)?;
    Ok(true)
}

/// Names of the filters of an interface, in and out; empty where a filter has none. A filter
/// without options is the head of a chain and counts for nothing.
pub(crate) fn filter_names(index: u32) -> io::Result<Vec<String>> {
    let mut netlink = Netlink::open(SockProtocol::NetlinkRoute, 0)?;
    let mut names = Vec::new();
    for parent in [PARENT_INGRESS, PARENT_EGRESS] {
        let dumped = netlink.dump(RTM_GETTFILTER, &message(index, 0, parent), |kind, body| {
            if kind != RTM_NEWTFILTER {
                return;
            }
            let options = attributes(body.get(MESSAGE_SIZE..).unwrap_or_default())
                .find(|(kind, _)| *kind == TCA_OPTIONS);
            if let Some((_, options)) = options {
                let name = attributes(options).find(|(kind, _)| *kind == TCA_BPF_NAME);
                names.push(name.map(|(_, name)| text(name)).unwrap_or_default());
            }
        });
        match dumped {
            Ok(()) => {}
            // No such discipline: no filters.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}

fn message(index: u32, handle: u32, parent: u32) -> Vec<u8> {
    let mut body = vec![0; MESSAGE_SIZE];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&handle.to_ne_bytes());
    body[12..16].copy_from_slice(&parent.to_ne_bytes());
    body
}
