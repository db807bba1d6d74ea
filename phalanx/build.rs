//! Finds the prebuilt kernel object. Without it the daemon builds all the same, and says at the
//! start what is missing.

use std::path::PathBuf;

fn main() {
    let prebuilt = PathBuf::from("../phalanx-ebpf/prebuilt/phalanx.bpf.o");
    println!("cargo::rerun-if-changed={}", prebuilt.display());
    let object = match prebuilt.canonicalize() {
        Ok(object) => object,
        Err(_) => {
            println!("cargo::warning=no kernel object: cargo xtask ebpf builds it");
            let empty = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
            let empty = empty.join("none.o");
            if let Err(error) = std::fs::write(&empty, []) {
                println!("cargo::error=write {}: {error}", empty.display());
            }
            empty
        }
    };
    println!("cargo::rustc-env=PHALANX_OBJECT={}", object.display());
}
