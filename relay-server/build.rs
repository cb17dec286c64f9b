//! `sqlx::migrate!` reads the migrations while compiling; a new file must compile the crate anew.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
