//! The program: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    s3pod::cli::run(std::env::args_os())
}
