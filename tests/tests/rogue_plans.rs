//! Plans that lie, in every field: refused whole, with a reason, before anything is touched.

use proxsave_proto::message::{Submission, Verdict, Why};
use proxsave_proto::plan::{Meta, Node, Origin, Plan, Xattr};
use proxsave_proto::rpc::Fd;
use proxsave_proto::{CategoryId, Digest};
use proxsave_tests::rogue::{NEW, OLD, Rogue, block_on, context, hash, memfd, rel, stage};
use rustix::fs::SealFlags;

/// One lie, told in an otherwise honest plan.
fn lie(what: &str, change: impl Fn(&mut Plan)) {
    let stage = stage();
    block_on(async {
        let rogue = Rogue::new(&stage.helper.socket).await;
        let mut plan = rogue.plan(&[(OLD, b"over"), (NEW, b"new")]).await;
        change(&mut plan);
        match rogue.submit(&plan).await {
            Ok(Ok(Verdict::Approved(_))) => panic!("{what}: approved"),
            Ok(Ok(Verdict::Refused(reasons))) => assert!(!reasons.is_empty(), "{what}: no reason"),
            Ok(Err(_)) | Err(_) => {}
        }
    });
    stage.assert_untouched(what);
}

fn meta(plan: &mut Plan, index: usize) -> &mut Meta {
    match &mut plan.entries[index].node {
        Node::File { meta, .. } => meta,
        other => panic!("{other:?}"),
    }
}

#[test]
fn lies_about_the_live_tree() {
    lie("nothing there", |p| p.entries[0].before = None);
    lie("something there", |p| p.entries[1].before = p.entries[0].before.clone());
    type Change = fn(&mut proxsave_proto::state::Present);
    let fields: [(&str, Change); 10] = [
        ("mode", |b| b.mode ^= 1),
        ("uid", |b| b.uid += 1),
        ("gid", |b| b.gid += 1),
        ("size", |b| b.size += 1),
        ("mtime", |b| b.mtime.secs += 1),
        ("ctime", |b| b.ctime.nanos ^= 1),
        ("dev", |b| b.dev += 1),
        ("ino", |b| b.ino += 1),
        ("nlink", |b| b.nlink += 1),
        ("xattrs", |b| b.xattrs = Digest::of(b"other")),
    ];
    for (name, change) in fields {
        lie(name, |p| change(p.entries[0].before.as_mut().unwrap()));
    }
    lie("anchor's device", |p| p.anchors[0].dev += 1);
    lie("anchor's inode", |p| p.anchors[0].ino += 1);
    lie("anchor's mount", |p| p.anchors[0].mount += 1);
    lie("no anchor", |p| p.anchors.clear());
    lie("another anchor", |p| p.anchors[0].path = rel("etc"));
}

#[test]
fn lies_about_what_to_write() {
    for path in [
        "etc/shadow",
        "etc/passwd",
        "etc/pve/storage.cfg",
        "etc/proxsave/policy.toml",
        "proc/sys/kernel/core_pattern",
        "dev/sda",
        "run/x",
        "var/lib/proxsave/audit.jsonl",
        "usr/bin/proxsave-ui",
        "etc/systemd/system/proxsave-helper.service",
        "var/lib/pve-cluster/config.db",
        "srv/live",
        "x",
    ] {
        for category in [CategoryId::UserData, CategoryId::Services, CategoryId::PveCluster, CategoryId::Accounts] {
            lie(&format!("{path} as {category}"), |p| {
                p.entries[0].path = rel(path);
                p.entries[0].category = category;
                p.entries.sort_by(|a, b| a.path.cmp(&b.path));
            });
        }
    }
    lie("another category", |p| p.entries[0].category = CategoryId::Ssh);
    lie("an export category", |p| p.entries[0].category = CategoryId::PveConfigExport);
    lie("order", |p| p.entries.reverse());
    lie("twice", |p| p.entries.insert(1, p.entries[0].clone()));
    lie("mode over twelve bits", |p| meta(p, 0).mode = 0o10644);
    lie("owner -1", |p| meta(p, 0).uid = u32::MAX);
    lie("group -1", |p| meta(p, 0).gid = u32::MAX);
    lie("time", |p| meta(p, 0).mtime = Some(proxsave_proto::digest::Timestamp { secs: 0, nanos: 1_000_000_000 }));
    for name in ["trusted.x", "security.selinux", "user.", "system.posix_acl", "security.ima", "user.a\0b"] {
        lie(name, |p| meta(p, 0).xattrs = vec![Xattr { name: name.into(), value: b"x".to_vec() }]);
    }
    lie("sizes that overflow", |p| {
        for entry in &mut p.entries {
            if let Node::File { size, .. } = &mut entry.node {
                *size = u64::MAX / 2 + 1;
            }
        }
    });
    lie("more than there is room for", |p| {
        if let Node::File { size, .. } = &mut p.entries[0].node {
            *size = 1 << 60;
        }
    });
    lie("a folder over a file", |p| p.entries[0].node = Node::Dir { meta: meta(p, 0).clone() });
    lie("a parent that is a file", |p| p.entries[0].origin = Origin::Parent);
    lie("a link without a target", |p| p.entries[1].node = Node::Symlink { target: vec![], meta: meta(p, 1).clone() });
    lie("a link with NUL", |p| {
        p.entries[1].node = Node::Symlink { target: b"a\0b".to_vec(), meta: meta(p, 1).clone() }
    });
    lie("a hard link to a live file", |p| p.entries[1].node = Node::Hardlink { to: rel("etc/shadow") });
    lie("a hard link to itself", |p| p.entries[1].node = Node::Hardlink { to: rel(NEW) });
    lie("beneath a file", |p| {
        p.entries[1].path = rel("home/anna/live.txt/x");
        p.entries.sort_by(|a, b| a.path.cmp(&b.path));
    });
}

#[test]
fn lies_about_the_plan_itself() {
    type Change = fn(Vec<u8>) -> Vec<u8>;
    let cases: [(&str, Change, bool); 6] = [
        ("another hash", |b| b, false),
        ("empty", |_| vec![], true),
        ("junk", |_| vec![0xff; 1000], true),
        (
            "cut",
            |mut b| {
                b.truncate(b.len() - 1);
                b
            },
            true,
        ),
        (
            "more behind",
            |mut b| {
                b.push(0);
                b
            },
            true,
        ),
        (
            "endless length",
            |mut b| {
                b.truncate(40);
                b.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
                b
            },
            true,
        ),
    ];
    for (what, change, true_hash) in cases {
        let stage = stage();
        block_on(async {
            let rogue = Rogue::new(&stage.helper.socket).await;
            let bytes = change(rogue.plan(&[(NEW, b"new")]).await.encode().unwrap());
            let said = if true_hash {
                Digest::of(&[b"proxsave plan 1\0".as_slice(), &bytes].concat())
            } else {
                Digest::of(b"no")
            };
            let verdict = rogue.submit_bytes(&bytes, said).await;
            assert!(!matches!(verdict, Ok(Ok(Verdict::Approved(_)))), "{what}: {verdict:?}");
        });
        stage.assert_untouched(what);
    }
}

#[test]
fn plans_that_are_not_sealed() {
    for missing in [SealFlags::WRITE, SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL, SealFlags::all()] {
        let stage = stage();
        block_on(async {
            let rogue = Rogue::new(&stage.helper.socket).await;
            let plan = rogue.plan(&[(NEW, b"new")]).await;
            let fd = memfd(&plan.encode().unwrap(), SealFlags::all() - missing);
            let submission = Submission { nonce: rogue.hello.nonce, plan_hash: hash(&plan), dry_run: false };
            let verdict = rogue.client.submit(context(), submission, Fd::from(fd)).await;
            let refused = match &verdict {
                Ok(Ok(Verdict::Refused(reasons))) => reasons.iter().any(|r| r.why == Why::NotSealed),
                Ok(Ok(Verdict::Approved(_))) => false,
                _ => true,
            };
            assert!(refused, "without {missing:?}: {verdict:?}");
        });
        stage.assert_untouched("unsealed");
    }
    for path in ["/etc/passwd", "/dev/zero", "/"] {
        let stage = stage();
        block_on(async {
            let rogue = Rogue::new(&stage.helper.socket).await;
            let submission = Submission { nonce: rogue.hello.nonce, plan_hash: Digest::of(b""), dry_run: false };
            let fd = std::fs::File::open(path).unwrap();
            let verdict = rogue.client.submit(context(), submission, Fd::from(std::os::fd::OwnedFd::from(fd))).await;
            assert!(!matches!(verdict, Ok(Ok(Verdict::Approved(_)))), "{path}: {verdict:?}");
        });
        stage.assert_untouched(path);
    }
}
