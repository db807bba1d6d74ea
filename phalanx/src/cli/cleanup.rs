//! `phalanx cleanup`: removes what a daemon left behind that was killed where only `clsact` exists.

use super::print;
use crate::interface::LinkTable;
use crate::kernel::remove_stale_filters;
use crate::plain::plain;

/// Removes our filters from all interfaces of this namespace. TCX and XDP links need none of this:
/// they die with the process.
pub(super) fn run() -> anyhow::Result<()> {
    let links = LinkTable::open()?.read()?;
    let mut removed_count = 0;
    for link in links.values() {
        for name in remove_stale_filters(link)? {
            print(&format!("{}: removed filter {name}\n", plain(&link.name)))?;
            removed_count += 1;
        }
    }
    if removed_count == 0 {
        print("nothing was left behind\n")?;
    }
    Ok(())
}
