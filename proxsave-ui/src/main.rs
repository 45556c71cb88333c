//! The front-end's program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: the caged child must not do what a front-end does on starting.
    if proxsave_ui::decoder::child::is_requested() {
        return proxsave_ui::decoder::child::main();
    }
    proxsave_ui::commands::main(std::env::args_os()).into()
}
