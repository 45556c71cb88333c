//! The decoder child's cage. What is taken away, in this order:
//!
//! 1. every descriptor but the three standard ones (0 is the socket, 1 is `/dev/null`, 2 a pipe to the parent), by
//!    the child before it takes its socket up;
//! 2. memory, descriptors and core dumps beyond bounds (`setrlimit`), attaching and `/proc/self` (not dumpable), new
//!    privileges, all capabilities;
//! 3. the file system, signals and abstract sockets (Landlock, an empty domain);
//! 4. all system calls but those that computing on given descriptors takes (seccomp): no `open`, `socket`, `connect`,
//!    `execve`, `fork`, `kill`, `ptrace`, `ioctl`, and no executable memory. Threads can be started, nothing else.

use super::error::DecodeError;
use super::limits::Limits;
use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// Descriptors: the standard three, the socket's second one, and those of one request.
const DESCRIPTORS: u64 = 32;
/// Address space for the program, its threads' stacks and its allocator's arenas.
const BASE_MEMORY: u64 = 1 << 30;
/// What an entry of the index may take on average, names and attributes included.
const ENTRY_MEMORY: u64 = 1 << 10;
const EPERM: u32 = libc::EPERM as u32;
const ENOSYS: u32 = libc::ENOSYS as u32;

/// Closes the cage around the calling thread and all that it starts. Must come before any other thread exists and
/// before anything untrusted is read. Gives what was enforced, as text.
///
/// # Errors
/// [`DecodeError::Sandbox`] when a part cannot be had; for Landlock and seccomp not if `allow_unsandboxed`.
pub fn enter(limits: &Limits, allow_unsandboxed: bool) -> Result<String, DecodeError> {
    let system = |what: &str| {
        let what = what.to_owned();
        move |error: rustix::io::Errno| DecodeError::Sandbox(format!("{what}: {error}"))
    };
    limit_resources(limits).map_err(system("setting resource limits"))?;
    set_no_new_privs(true).map_err(system("giving up new privileges"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(system("forbidding core dumps"))?;
    drop_capabilities().map_err(system("dropping capabilities"))?;
    let mut enforced = vec!["no capabilities".to_owned()];
    for (part, result) in [("Landlock", close_files()), ("seccomp", filter_calls())] {
        match result {
            Ok(what) => enforced.push(what),
            Err(_) if allow_unsandboxed => enforced.push(format!("WITHOUT {part}")),
            Err(why) => {
                return Err(DecodeError::Sandbox(format!(
                    "{part}: {why}. To go on without it, which lets a hostile archive that finds a fault in a decoder \
                     act with all your rights, give --allow-unsandboxed-decoder"
                )));
            }
        }
    }
    Ok(enforced.join(", "))
}

fn limit_resources(limits: &Limits) -> rustix::io::Result<()> {
    let memory = BASE_MEMORY
        .saturating_add(limits.window_bytes.saturating_mul(3))
        .saturating_add(limits.keep_bytes)
        .saturating_add(u64::from(limits.dedup_bytes).saturating_mul(8))
        .saturating_add(u64::from(limits.manifest_bytes).saturating_mul(16))
        .saturating_add(u64::from(limits.entries).saturating_mul(ENTRY_MEMORY));
    for (resource, wanted) in [(Resource::As, memory), (Resource::Nofile, DESCRIPTORS), (Resource::Core, 0)] {
        // What the operator's shell allows can be less.
        let have = rustix::process::getrlimit(resource);
        let value = have.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
    }
    Ok(())
}

fn drop_capabilities() -> rustix::io::Result<()> {
    // Without CAP_SETPCAP the bounding set cannot be changed; with no_new_privs and nothing permitted it is moot.
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

fn close_files() -> Result<String, String> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .map_err(|error| error.to_string())?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V9))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V9)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V9)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|error| error.to_string())?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel does not enforce it".to_owned()),
        RulesetStatus::PartiallyEnforced => Ok("Landlock (what this kernel has)".to_owned()),
        RulesetStatus::FullyEnforced => Ok("Landlock".to_owned()),
    }
}

fn filter_calls() -> Result<String, String> {
    // clone3 hides its flags from a filter: the C library must fall back to clone. The stricter of two filters counts.
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    let filters = [
        (allowed()?, SeccompAction::Errno(EPERM), SeccompAction::Allow),
        (no_clone3, SeccompAction::Allow, SeccompAction::Errno(ENOSYS)),
    ];
    let arch = std::env::consts::ARCH.try_into().map_err(|error| format!("{error}"))?;
    let mut programs = Vec::new();
    for (rules, otherwise, matched) in filters {
        let filter = SeccompFilter::new(rules, otherwise, matched, arch).map_err(|error| error.to_string())?;
        programs.push(BpfProgram::try_from(filter).map_err(|error| error.to_string())?);
    }
    // The allowing filter last: it does not allow installing another.
    for program in programs.iter().rev() {
        seccompiler::apply_filter(program).map_err(|error| error.to_string())?;
    }
    Ok("seccomp".to_owned())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn allowed() -> Result<Rules, String> {
    let condition = |argument, length, operator, value| {
        SeccompCondition::new(argument, length, operator, value).map_err(|error| error.to_string())
    };
    let rule = |conditions| SeccompRule::new(conditions).map_err(|error| error.to_string());
    let equal =
        |argument, value: u64| rule(vec![condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?]);
    let mut rules: Rules = [
        // Given descriptors.
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_pread64,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        libc::SYS_ppoll,
        // Memory.
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        // Threads and time.
        libc::SYS_clone3,
        libc::SYS_futex,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_clock_gettime,
        libc::SYS_getrandom,
        // Signals that come from within, and the end.
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]
    .into_iter()
    .map(|call| (call, vec![]))
    .collect();
    let exec = libc::PROT_EXEC as u64;
    let not_executable = || rule(vec![condition(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(exec), 0)?]);
    rules.insert(libc::SYS_mmap, vec![not_executable()?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable()?]);
    let thread = (libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID) as u64;
    // The second is musl's.
    let clone = vec![equal(0, thread)?, equal(0, thread | libc::CLONE_DETACHED as u64)?];
    rules.insert(libc::SYS_clone, clone);
    rules.insert(libc::SYS_prctl, vec![equal(0, libc::PR_SET_NAME as u64)?]);
    let fcntl = [libc::F_GETFD, libc::F_GETFL, libc::F_DUPFD_CLOEXEC].map(|command| equal(1, command as u64));
    rules.insert(libc::SYS_fcntl, fcntl.into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::process::Command;

    const INSIDE: &str = "PROXSAVE_TEST_INSIDE_CAGE";

    /// Runs in the test program started again by the next test: what code that took the decoder over could try.
    #[test]
    fn inside() {
        let Some(secret) = std::env::var_os(INSIDE) else { return };
        let root = File::open("/").unwrap();
        // A directory that a request brought, so to speak: it must be below 3 to outlive the cage's closing.
        rustix::stdio::dup2_stdout(root.as_fd()).unwrap();
        drop(root);
        let parent = rustix::process::getppid().unwrap();
        crate::sys::descriptors::close_from(3).unwrap();
        enter(&Limits::default(), false).unwrap();
        let outcome = |name: &str, worked: bool| eprintln!("{name}={}", if worked { "WORKED" } else { "refused" });
        let via = rustix::stdio::stdout();
        outcome("open", File::open(&secret).is_ok());
        outcome("stat", std::fs::metadata(&secret).is_ok());
        outcome("create", File::create("/tmp/proxsave-cage-test").is_ok());
        outcome("proc", File::open("/proc/self/environ").is_ok());
        outcome("list", std::fs::read_dir("/").is_ok());
        outcome("openat", rustix::fs::openat(via, "etc/passwd", rustix::fs::OFlags::RDONLY, 0.into()).is_ok());
        outcome(
            "tcp",
            std::net::TcpStream::connect("127.0.0.1:1").is_err_and(|e| e.raw_os_error() != Some(libc::EPERM)),
        );
        outcome("unix", std::os::unix::net::UnixDatagram::unbound().is_ok());
        outcome("pair", std::os::unix::net::UnixStream::pair().is_ok());
        outcome("exec", Command::new("/bin/true").status().is_ok());
        outcome("kill", rustix::process::test_kill_process(parent).is_ok());
        outcome(
            "chmod",
            std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o777)).is_ok(),
        );
        outcome("memfd", rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::empty()).is_ok());
        outcome(
            "thread",
            std::thread::Builder::new().spawn(|| File::open("/etc/passwd").is_ok()).unwrap().join().unwrap(),
        );
        eprintln!("end");
        std::process::exit(0);
    }

    #[test]
    fn code_that_took_the_child_over_reaches_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let identity = directory.path().join("identity.txt");
        std::fs::write(&identity, "AGE-SECRET-KEY-1TEST").unwrap();
        let output = Command::new("/proc/self/exe")
            .args(["--exact", "decoder::cage::tests::inside", "--nocapture", "--test-threads=1"])
            .env(INSIDE, &identity)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let outcomes: Vec<_> = said.lines().filter_map(|line| line.split_once('=')).collect();
        assert!(said.contains("\nend\n") && outcomes.len() >= 14, "{said}");
        for (what, outcome) in outcomes {
            // Landlock does not hide that a name exists; seccomp does.
            assert_eq!(outcome, "refused", "{what}");
        }
    }
}
