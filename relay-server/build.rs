//! `sqlx::migrate!` and `rust-embed` read files while compiling; new ones must compile the crate anew.

/// The built portal, as `browser-pairing`'s own build leaves it.
const PORTAL: &str = "../browser-pairing/dist/portal";

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
    // Cargo takes a folder that is missing for one that has just changed, every time. An empty one is seen
    // when it is filled. Where it cannot be made, every build compiles this crate; nothing worse.
    let _ = std::fs::create_dir_all(PORTAL);
    println!("cargo:rerun-if-changed={PORTAL}");
}
