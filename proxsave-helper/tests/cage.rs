//! Each layer of the writer's cage alone: every act that a layer must refuse is refused by the kernel with all
//! other layers off, and done when no layer is up (so that the refusal is the layer's).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking too"
)]

mod support;

use proxsave_helper::cage::{self, Access, Cage, Files, Layers, PROBER_CAPS, Profile, Rule, Who};
use proxsave_helper::sys::{self, Exit};
use proxsave_helper::writer::{FromWriter, Job, content_pipe, spawn, spawn_taken_over};
use proxsave_proto::message::Phase;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Uid;
use rustix::thread::CapabilitySet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::*;

/// Names for what was asked of the kernel; the number is the errno, 0 for done.
const DONE: i32 = 0;
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const EBUSY: i32 = 16;
const EXDEV: i32 = 18;
const EROFS: i32 = 30;

fn code(result: Result<(), Errno>) -> i32 {
    result.map_or_else(Errno::raw_os_error, |()| DONE)
}

fn io_code(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(249)
}

/// A place outside the plan: a file, a directory, a socket that answers.
struct Outside {
    dir: PathBuf,
    _socket: std::os::unix::net::UnixListener,
}

impl Outside {
    fn make(at: PathBuf) -> Self {
        fs::create_dir_all(at.join("mountpoint")).unwrap();
        fs::write(at.join("victim"), "victim").unwrap();
        let socket = std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap();
        Self { dir: at, _socket: socket }
    }
}

type Act = fn(&Path) -> i32;

const ACTS: [(&str, Act); 12] = [
    ("create", |dir| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        code(rustix::fs::open(dir.join("new"), flags, Mode::RUSR).map(drop))
    }),
    ("rename", |dir| code(rustix::fs::rename(dir.join("victim"), dir.join("moved")))),
    ("chmod", |dir| code(rustix::fs::chmod(dir.join("victim"), Mode::RWXU))),
    ("chown", |dir| code(rustix::fs::chown(dir.join("victim"), Some(Uid::from_raw(7)), None))),
    ("utimes", |dir| {
        let time = Timespec { tv_sec: 7, tv_nsec: 7 };
        let times = Timestamps { last_access: time, last_modification: time };
        code(rustix::fs::utimensat(CWD, dir.join("victim"), &times, AtFlags::empty()))
    }),
    ("setxattr", |dir| code(rustix::fs::setxattr(dir.join("victim"), "user.x", b"x", XattrFlags::empty()))),
    ("connect", |dir| {
        std::os::unix::net::UnixStream::connect(dir.join("socket")).map_or_else(|error| io_code(&error), |_| DONE)
    }),
    ("mount", |dir| {
        let at = dir.join("mountpoint");
        let mounted = rustix::mount::mount("none", &at, "tmpfs", MountFlags::empty(), None);
        if mounted.is_ok() {
            rustix::mount::unmount(&at, UnmountFlags::DETACH).unwrap();
        }
        code(mounted)
    }),
    ("exec", |_| io_code(&std::process::Command::new("/bin/true").exec())),
    ("fork", |_| match sys::fork(|| 0) {
        Ok(mut child) => i32::from(child.wait().unwrap() != Exit::Code(0)),
        Err(error) => io_code(&error),
    }),
    ("mknod", |dir| {
        let device = rustix::fs::makedev(1, 3);
        code(rustix::fs::mknodat(CWD, dir.join("null"), FileType::CharacterDevice, Mode::RUSR, device))
    }),
    ("setuid", |_| {
        let uid = Uid::from_raw(7);
        code(rustix::thread::set_thread_res_uid(uid, uid, uid))
    }),
];

/// Runs an act in a writer for `etc/hosts` that was taken over, with these layers.
fn run(layers: Layers, act: impl FnOnce(&Path, &[OwnedFd]) -> i32) -> (i32, Vec<String>) {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    let outside = Outside::make(tmp.path().join("outside"));
    let plan = plan(&root, vec![(path("etc/hosts"), file(b"x", meta(0o644)))]);
    let anchors = open_anchors(&root, &plan);
    let job = Job::unchecked(&plan, anchors.iter().map(AsFd::as_fd).collect(), "t").layers(layers);
    let before = snapshot(&outside.dir);
    let mut child = spawn_taken_over(&job, |dirs| act(&outside.dir, dirs)).unwrap();
    let Exit::Code(status) = child.wait().unwrap() else { panic!("the writer was killed") };
    let after = snapshot(&outside.dir);
    let changed = before
        .keys()
        .chain(after.keys())
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    (status, changed)
}

#[test]
fn every_layer_refuses_its_acts_alone() {
    let namespace: (Layers, &[i32]) = (Layers::ONLY_NAMESPACE, &[ENOENT, EROFS]);
    let landlock: (Layers, &[i32]) = (Layers::ONLY_LANDLOCK, &[EACCES, EXDEV]);
    let seccomp: (Layers, &[i32]) = (Layers::ONLY_SECCOMP, &[EPERM]);
    let capabilities: (Layers, &[i32]) = (Layers::ONLY_CAPABILITIES, &[EPERM]);
    for (name, act) in ACTS {
        let layers = match name {
            "create" | "rename" => vec![namespace, landlock],
            "chmod" | "chown" | "utimes" | "setxattr" => vec![namespace],
            "connect" | "mount" | "exec" | "fork" => vec![seccomp],
            _ => vec![seccomp, capabilities],
        };
        let (status, changed) = run(Layers::NONE, |dir, _| act(dir));
        assert_eq!(status, DONE, "{name} fails without any layer: it proves nothing");
        let leaves_a_mark = !matches!(name, "connect" | "mount" | "exec" | "fork" | "setuid");
        assert_eq!(!changed.is_empty(), leaves_a_mark, "{name} without any layer changed {changed:?}");
        for (layer, refusals) in layers {
            let (status, changed) = run(layer, |dir, _| act(dir));
            assert!(refusals.contains(&status), "{name} with {layer:?} alone: {status}");
            assert!(changed.is_empty(), "{name} with {layer:?} alone changed {changed:?}");
        }
        let (status, changed) = run(Layers::ALL, |dir, _| act(dir));
        assert!(status != DONE && changed.is_empty(), "{name} with all layers: {status}");
        let (status, changed) = run(Layers::WITHOUT_LANDLOCK, |dir, _| act(dir));
        assert!(status != DONE && changed.is_empty(), "{name} without Landlock: {status}");
    }
}

#[test]
fn the_view_leads_nowhere_and_cannot_be_changed() {
    for (what, status) in [
        // The parent of a held directory is the empty root.
        (
            "up",
            run(Layers::ONLY_NAMESPACE, |_, dirs| {
                code(rustix::fs::openat(&dirs[0], "../../outside/victim", OFlags::RDONLY, Mode::empty()).map(drop))
            })
            .0,
        ),
        (
            "proc",
            run(Layers::ONLY_NAMESPACE, |_, _| {
                code(rustix::fs::open("/proc/self/root", OFlags::PATH, Mode::empty()).map(drop))
            })
            .0,
        ),
    ] {
        assert_eq!(status, ENOENT, "{what}");
    }
    let root = |act: fn() -> Result<(), Errno>| run(Layers::ONLY_NAMESPACE, move |_, _| code(act())).0;
    assert_eq!(root(|| rustix::fs::mkdir("/x", Mode::RWXU)), EROFS);
    assert_eq!(root(|| rustix::fs::chmod("/", Mode::RWXU)), EROFS);
    assert_eq!(root(|| rustix::fs::chown("/", Some(Uid::from_raw(7)), None)), EROFS);
    // Beneath the plan's own directory it can write: that is what it is for.
    let own = run(Layers::ALL, |_, dirs| code(rustix::fs::mkdirat(&dirs[0], "x", Mode::RWXU)));
    assert_eq!(own.0, DONE);
}

#[test]
fn in_a_chroot_there_is_no_view_and_so_no_restore() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    for dir in ["etc", "dev"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("dev/null"), "").unwrap();
    let plan = plan(root, vec![(path("etc/hosts"), file(b"x", meta(0o644)))]);
    let anchors = open_anchors(root, &plan);
    let mut outer = sys::fork(|| {
        rustix::process::chroot(root).unwrap();
        let job = Job::unchecked(&plan, anchors.iter().map(AsFd::as_fd).collect(), "t");
        let (read, _write) = content_pipe().unwrap();
        let writer = spawn(&job, read).unwrap();
        rustix::event::poll(&mut [rustix::event::PollFd::new(&writer.socket(), rustix::event::PollFlags::IN)], None)
            .unwrap();
        let Some(FromWriter::Over(outcome)) = writer.receive().unwrap() else { return 1 };
        i32::from(outcome.phase != Phase::Failed) + 2 * i32::from(!outcome.error.unwrap().contains("chroot"))
    })
    .unwrap();
    assert_eq!(outer.wait().unwrap(), Exit::Code(0));
    assert_eq!(fs::read_dir(root.join("etc")).unwrap().count(), 0);
}

/// A writer for `etc/hosts`, taken over, with `etc/shadow` and `etc/sudoers.d` beside it.
fn beside_shadow(layers: Layers, act: fn(BorrowedFd<'_>) -> Result<(), Errno>) -> i32 {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    fs::create_dir_all(root.join("etc/sudoers.d")).unwrap();
    for name in ["etc/shadow", "etc/hosts", "etc/sudoers.d/admin"] {
        fs::write(root.join(name), name).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let plan = plan(root, vec![(path("etc/hosts"), file(b"x", meta(0o644)))]);
    let anchors = open_anchors(root, &plan);
    let job = Job::unchecked(&plan, anchors.iter().map(AsFd::as_fd).collect(), "t").layers(layers);
    let before: Vec<_> =
        ["etc/shadow", "etc/sudoers.d", "etc/sudoers.d/admin"].map(|name| (name, snapshot_of(&root.join(name)))).into();
    let mut child = spawn_taken_over(&job, |dirs| code(act(dirs[0].as_fd()))).unwrap();
    let Exit::Code(status) = child.wait().unwrap() else { panic!("the writer was killed") };
    if status != DONE {
        for (name, before) in before {
            assert_eq!(snapshot_of(&root.join(name)), before, "{name}");
        }
    }
    status
}

fn snapshot_of(at: &Path) -> String {
    fs::symlink_metadata(at).map_or_else(
        |e| e.to_string(),
        |stat| {
            format!(
                "{} {:o} {} {}.{} {:?}",
                stat.ino(),
                stat.mode(),
                stat.uid(),
                stat.mtime(),
                stat.mtime_nsec(),
                fs::read(at).ok()
            )
        },
    )
}

#[test]
fn a_plan_for_hosts_cannot_touch_shadow() {
    type Try = (&'static str, fn(BorrowedFd<'_>) -> Result<(), Errno>, &'static [i32]);
    let tries: [Try; 9] = [
        (
            "replace",
            |etc| rustix::fs::renameat_with(etc, "hosts", etc, "shadow", rustix::fs::RenameFlags::empty()),
            &[EBUSY],
        ),
        (
            "exchange",
            |etc| rustix::fs::renameat_with(etc, "hosts", etc, "shadow", rustix::fs::RenameFlags::EXCHANGE),
            &[EBUSY],
        ),
        ("remove", |etc| rustix::fs::unlinkat(etc, "shadow", AtFlags::empty()), &[EBUSY]),
        (
            "move away",
            |etc| rustix::fs::renameat_with(etc, "shadow", etc, "shadow.gone", rustix::fs::RenameFlags::empty()),
            &[EBUSY],
        ),
        ("link out", |etc| rustix::fs::linkat(etc, "shadow", etc, "copy", AtFlags::empty()), &[EXDEV, EROFS]),
        ("open to write", |etc| rustix::fs::openat(etc, "shadow", OFlags::RDWR, Mode::empty()).map(drop), &[EROFS]),
        ("chown", |etc| rustix::fs::chownat(etc, "shadow", Some(Uid::from_raw(7)), None, AtFlags::empty()), &[EROFS]),
        ("create in sudoers.d", |etc| rustix::fs::mkdirat(etc, "sudoers.d/x", Mode::RWXU), &[EROFS]),
        (
            "move sudoers.d",
            |etc| rustix::fs::renameat_with(etc, "sudoers.d", etc, "x", rustix::fs::RenameFlags::empty()),
            &[EBUSY],
        ),
    ];
    for (what, act, refusals) in tries {
        assert_eq!(beside_shadow(Layers::NONE, act), DONE, "{what} fails without the view: it proves nothing");
        for layers in [Layers::ONLY_NAMESPACE, Layers::ALL] {
            let status = beside_shadow(layers, act);
            assert!(refusals.contains(&status), "{what} with {layers:?}: {status}");
        }
    }
}

/// A tmpfs with shared propagation, taken away at the end.
struct Shared(tempfile::TempDir);

impl Shared {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        rustix::mount::mount("none", dir.path(), "tmpfs", MountFlags::empty(), None).unwrap();
        rustix::mount::mount_change(dir.path(), rustix::mount::MountPropagationFlags::SHARED).unwrap();
        Self(dir)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn what_the_host_mounts_meanwhile_is_not_written_to() {
    let shared = Shared::new();
    let root = shared.0.path();
    fs::create_dir_all(root.join("etc/d")).unwrap();
    fs::write(root.join("etc/old"), "old").unwrap();
    let things = vec![
        (path("etc/new"), file(b"1", meta(0o644))),
        (path("etc/old"), file(b"2", meta(0o644))),
        (path("etc/d/f"), file(b"3", meta(0o644))),
    ];
    let plan = plan(root, things);
    let mounts = || {
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .filter(|line| line.contains(root.to_str().unwrap()))
            .count()
    };
    let before = mounts();
    let mut running = start(root, &plan, Layers::ALL, Duration::from_secs(20));
    running.feed(&stream(&plan, &[("etc/new", b"1"), ("etc/old", b"2"), ("etc/d/f", b"3")]));
    running.staged().unwrap();
    assert_eq!(mounts(), before, "the writer's mounts show on the host");
    for name in ["etc/d", "etc"] {
        rustix::mount::mount("none", root.join(name), "tmpfs", MountFlags::empty(), None).unwrap();
    }
    let outcome = running.commit();
    assert_eq!((outcome.phase, outcome.error), (Phase::Done, None));
    assert_eq!(fs::read_dir(root.join("etc")).unwrap().count(), 0, "the new mount was written to");
    rustix::mount::unmount(root.join("etc"), UnmountFlags::empty()).unwrap();
    assert_eq!(fs::read_dir(root.join("etc/d")).unwrap().count(), 0, "the new mount below was written to");
    rustix::mount::unmount(root.join("etc/d"), UnmountFlags::empty()).unwrap();
    for (name, content) in [("etc/new", "1"), ("etc/old", "2"), ("etc/d/f", "3")] {
        assert_eq!(fs::read_to_string(root.join(name)).unwrap(), content);
    }
}

#[test]
fn what_the_host_mounts_later_does_not_arrive_in_the_view() {
    let shared = Shared::new();
    let root = shared.0.path();
    fs::create_dir_all(root.join("etc/d")).unwrap();
    let plan = plan(root, vec![(path("etc/new"), file(b"1", meta(0o644)))]);
    let anchors = open_anchors(root, &plan);
    let job = Job::unchecked(&plan, anchors.iter().map(AsFd::as_fd).collect(), "t");
    let mut child = spawn_taken_over(&job, |dirs| {
        if rustix::fs::mkdirat(&dirs[0], "ready", Mode::RWXU).is_err() {
            return 251;
        }
        while rustix::fs::statx(&dirs[0], "go", AtFlags::empty(), rustix::fs::StatxFlags::INO).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        code(rustix::fs::mkdirat(&dirs[0], "d/x", Mode::RWXU))
    })
    .unwrap();
    while !root.join("etc/ready").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    rustix::mount::mount("none", root.join("etc/d"), "tmpfs", MountFlags::empty(), None).unwrap();
    fs::create_dir(root.join("etc/go")).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(DONE));
    assert!(!root.join("etc/d/x").exists(), "the host's new mount was written to");
    rustix::mount::unmount(root.join("etc/d"), UnmountFlags::empty()).unwrap();
    assert!(root.join("etc/d/x").exists());
}

#[test]
fn a_mount_below_an_anchor_is_not_in_the_view() {
    let shared = Shared::new();
    let root = shared.0.path();
    fs::create_dir_all(root.join("etc/m")).unwrap();
    rustix::mount::mount("none", root.join("etc/m"), "tmpfs", MountFlags::empty(), None).unwrap();
    let plan = plan(root, vec![(path("etc/new"), file(b"1", meta(0o644)))]);
    let anchors = open_anchors(root, &plan);
    let job = Job::unchecked(&plan, anchors.iter().map(AsFd::as_fd).collect(), "t");
    let mut child = spawn_taken_over(&job, |dirs| code(rustix::fs::mkdirat(&dirs[0], "m/x", Mode::RWXU))).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(DONE));
    assert!(!root.join("etc/m/x").exists(), "the view reaches into another mount");
    rustix::mount::unmount(root.join("etc/m"), UnmountFlags::empty()).unwrap();
}

#[test]
fn the_writer_keeps_five_capabilities_and_says_what_holds_it() {
    let tmp = tempfile::tempdir().unwrap();
    let plan = plan(tmp.path(), vec![(path("a"), file(b"1", meta(0o644)))]);
    let mut running = start(tmp.path(), &plan, Layers::ALL, Duration::from_secs(20));
    let Some(FromWriter::Ready { enforced, .. }) = running.next() else { panic!("not ready") };
    assert!(enforced.landlock_abi.is_some_and(|abi| abi >= 2) && enforced.seccomp);
    assert_eq!(enforced.capabilities, cage::WRITER_CAPS.bits());
    assert_eq!(enforced.capabilities.count_ones(), 5);
}

/// Runs something in a cage that is entered as the gate and the prober enter theirs.
fn caged(cage: &Cage<'_>, act: impl FnOnce() -> i32) -> i32 {
    let mut child = sys::fork(|| if cage::enter(cage, Layers::ALL).is_ok() { act() } else { 250 }).unwrap();
    let Exit::Code(status) = child.wait().unwrap() else { panic!("killed") };
    status
}

#[test]
fn the_prober_reads_everything_beneath_its_root_and_changes_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("in")).unwrap();
    for name in ["in/secret", "out"] {
        fs::write(tmp.path().join(name), "x").unwrap();
        fs::set_permissions(tmp.path().join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let (root, above) = (open(&tmp.path().join("in")), open(tmp.path()));
    let cage = || Cage {
        who: Who::User { uid: 64_000, gid: 64_000 },
        keep: PROBER_CAPS,
        files: Files::Beneath(vec![Rule { dir: root.as_fd(), access: Access::Read }]),
        profile: Profile::Prober,
        open_files: None,
    };
    let get = |dir: &OwnedFd, name: &str, flags| {
        code(rustix::fs::openat2(dir, name, flags, Mode::empty(), rustix::fs::ResolveFlags::BENEATH).map(drop))
    };
    assert_eq!(caged(&cage(), || get(&root, "secret", OFlags::RDONLY)), DONE);
    assert_eq!(caged(&cage(), || get(&root, "secret", OFlags::WRONLY)), EACCES);
    assert_eq!(caged(&cage(), || get(&above, "out", OFlags::RDONLY)), EACCES);
    assert_eq!(caged(&cage(), || code(rustix::fs::mkdirat(&root, "x", Mode::RWXU))), EPERM);
    assert_eq!(caged(&cage(), || code(rustix::fs::unlinkat(&root, "secret", AtFlags::empty()))), EPERM);
    let connect = || std::os::unix::net::UnixStream::pair().map_or_else(|error| io_code(&error), |_| DONE);
    assert_eq!(caged(&cage(), connect), EPERM);
}

#[test]
fn the_gate_has_nothing() {
    let cage = Cage {
        who: Who::User { uid: 64_001, gid: 64_001 },
        keep: CapabilitySet::empty(),
        files: Files::Nothing,
        profile: Profile::Gate,
        open_files: None,
    };
    let open = || rustix::fs::open("/etc/hostname", OFlags::RDONLY, Mode::empty()).map(drop);
    assert_eq!(caged(&cage, || code(open())), EPERM);
    assert_eq!(caged(&cage, || std::os::unix::net::UnixStream::pair().map_or_else(|e| io_code(&e), |_| DONE)), EPERM);
    assert_eq!(caged(&cage, || std::thread::Builder::new().spawn(|| ()).map_or_else(|e| io_code(&e), |_| DONE)), EPERM);
    let none = || i32::from(rustix::thread::capabilities(None).is_ok());
    assert_eq!(caged(&cage, none), 0, "reading capabilities is not among the gate's calls");
    assert_eq!(caged(&cage, || i32::from(rustix::process::getpid().as_raw_nonzero().get() == 1)), 0);
}

#[test]
fn a_landlock_domain_alone_leaves_reading_to_its_directories() {
    // The gate's empty domain, without seccomp in front of it.
    let cage = Cage {
        who: Who::Root,
        keep: CapabilitySet::all(),
        files: Files::Nothing,
        profile: Profile::Gate,
        open_files: None,
    };
    let act = || code(rustix::fs::open("/etc/hostname", OFlags::RDONLY, Mode::empty()).map(drop));
    let mut child = sys::fork(|| if cage::enter(&cage, Layers::ONLY_LANDLOCK).is_ok() { act() } else { 250 }).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(EACCES));
}

#[test]
fn sensitive_names_below_the_root_are_covered_or_named() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path();
    for dir in ["usr/bin", "etc/ssh", "etc/cron.d", "boot"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
    fs::write(root.join("etc/shadow"), "s").unwrap();
    let plan =
        plan(root, vec![(path("opt/new"), file(b"x", meta(0o644))), (path("etc/cron.d/job"), file(b"y", meta(0o644)))]);
    let mut running = start(root, &plan, Layers::ALL, Duration::from_secs(20));
    running.feed(&stream(&plan, &[("opt/new", b"x"), ("etc/cron.d/job", b"y")]));
    running.staged().unwrap();
    // usr/bin, etc/ssh, etc/shadow, boot; etc/cron.d is the plan's. A link is covered where the kernel does that.
    assert_eq!(running.covered as usize + running.uncovered.len(), 5, "{:?}", running.uncovered);
    assert!(running.uncovered.iter().all(|text| text.starts_with("bin ")), "{:?}", running.uncovered);
    assert_eq!(running.commit().phase, Phase::Done);
    assert!(root.join("opt/new").exists() && root.join("etc/cron.d/job").exists());
}
