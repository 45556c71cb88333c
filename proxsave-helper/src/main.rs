//! The helper's program: everything is in the library.
fn main() {
    std::process::exit(proxsave_helper::cli::run(std::env::args_os()));
}
