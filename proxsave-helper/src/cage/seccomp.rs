//! The seccomp layer: for each kind of worker the system calls it needs, by name; all else is EPERM.
//!
//! A refused call returns EPERM rather than killing, so that a library that tries something first and falls back
//! still works, and a refusal can be reported. A call of a foreign architecture kills.

use super::CageError;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// A kind of worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// An async runtime over descriptors it already has; no file, no new socket.
    Gate,
    /// Opens and reads; changes nothing.
    Prober,
    /// Makes and changes files beneath its directories; no socket, no process, no mount, no node.
    Writer,
}

/// What every process needs to live: memory, time, randomness, signals, its end; and to talk over what it has.
const COMMON: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// The runtime's: readiness, wake-ups.
const GATE: &[i64] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_getsockopt,
    libc::SYS_sched_getaffinity,
    libc::SYS_shutdown,
];

const PROBER: &[i64] = &[
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    libc::SYS_getdents64,
];

const WRITER: &[i64] = &[
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readlinkat,
    libc::SYS_renameat2,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
];

/// `fcntl` commands: flags of descriptors, and duplicates of them; no locks, leases, owners or signals.
const FCNTL: &[i32] = &[libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];

/// Puts the filter of a profile on this process (its one thread).
pub(super) fn enforce(profile: Profile) -> Result<(), CageError> {
    let program = compile(profile).map_err(|error| CageError::Seccomp(error.to_string()))?;
    seccompiler::apply_filter(&program).map_err(|error| CageError::Seccomp(error.to_string()))
}

fn compile(profile: Profile) -> Result<BpfProgram, seccompiler::BackendError> {
    let own = match profile {
        Profile::Gate => GATE,
        Profile::Prober => PROBER,
        Profile::Writer => WRITER,
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = COMMON.iter().chain(own).map(|call| (*call, Vec::new())).collect();
    // Memory is never both new and executable.
    let not_executable = vec![argument(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)?];
    rules.insert(libc::SYS_mmap, not_executable.clone());
    rules.insert(libc::SYS_mprotect, not_executable);
    let commands: Result<_, _> = FCNTL.iter().map(|command| argument(1, SeccompCmpOp::Eq, *command as u64)).collect();
    rules.insert(libc::SYS_fcntl, commands?);
    if profile == Profile::Gate {
        // The runtime makes its sockets non-blocking this way.
        rules.insert(libc::SYS_ioctl, vec![argument(1, SeccompCmpOp::Eq, libc::FIONBIO)?]);
    }
    SeccompFilter::new(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow, ARCH)?.try_into()
}

fn argument(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)?])
}

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the seccomp lists have been thought through for x86_64 and aarch64 only");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_profile_holds_what_leads_out() {
        let never = [
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_mount,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_mknodat,
            libc::SYS_setresuid,
            libc::SYS_setuid,
            libc::SYS_ptrace,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_kill,
            libc::SYS_pidfd_getfd,
            libc::SYS_prctl,
        ];
        for list in [COMMON, GATE, PROBER, WRITER] {
            for call in never {
                assert!(!list.contains(&call), "{call}");
            }
        }
        for call in WRITER.iter().filter(|call| !PROBER.contains(call)) {
            assert!(!GATE.contains(call), "the gate touches files: {call}");
        }
    }

    #[test]
    fn every_profile_compiles() {
        for profile in [Profile::Gate, Profile::Prober, Profile::Writer] {
            assert!(compile(profile).unwrap().len() > 40);
        }
    }
}
