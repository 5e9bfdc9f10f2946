//! The binary: see `tenantry --help`.

use std::process::ExitCode;

// Measured: 20 to 35 % less CPU in the GraphQL engine than with glibc's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tenantry::cli::main()
}
