//! The Phalanx binary: everything is in the library, so that tests reach it.

use std::process::ExitCode;

/// Threads of an analysis free what others have allocated: glibc's allocator spends a fifth of the
/// time of two threads with locks and page protection there (`docs/decisions/0014-allocator.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    phalanx::cli::run()
}
