//! Link options of the program.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        // Relative relocations as a bitmap (RELR; glibc 2.36, Debian 12). As a table they are a megabyte that every
        // process reads once at its start, a quarter of the keeper's resident memory.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
