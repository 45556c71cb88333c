//! Describing, finding and opening, on files.

mod describing;
mod finding;
mod real;

use super::*;
use std::fs::File;

/// Describes in this process what the decoder child describes in its cage.
struct InProcess;

impl Describe for InProcess {
    fn describe(&mut self, input: DescribeInput<'_>) -> Result<Description, DescribeError> {
        let file = |fd: std::os::fd::BorrowedFd<'_>| File::from(fd.try_clone_to_owned().unwrap());
        let archive = file(input.archive);
        let companions: Vec<_> = input.companions.iter().map(|(kind, fd)| (*kind, file(*fd))).collect();
        let companions: Vec<_> = companions.iter().map(|(kind, file)| (*kind, file)).collect();
        let size = archive.metadata().unwrap().len();
        Ok(describe::describe(input.name, &archive, size, &companions)?)
    }
}
