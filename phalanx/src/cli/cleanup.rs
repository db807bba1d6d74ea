//! `phalanx cleanup`: removes what a daemon left behind that was killed where only `clsact` exists.

use crate::interface::LinkTable;
use crate::kernel::remove_stale_filters;

/// Removes our filters from all interfaces of this namespace. TCX and XDP links need none of this:
/// they die with the process.
pub(super) fn run() -> anyhow::Result<()> {
    let links = LinkTable::open()?.read()?;
    let mut removed_count = 0;
    for link in links.values() {
        for name in remove_stale_filters(link)? {
            println!("{}: removed filter {name}", link.name);
            removed_count += 1;
        }
    }
    if removed_count == 0 {
        println!("nothing was left behind");
    }
    Ok(())
}
