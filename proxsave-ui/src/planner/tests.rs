//! Each rule of the planner, on make-believe backups and hosts.

use super::testing::*;
use super::*;
use crate::selection::{PathGlob, Request, available};
use proxsave_proto::plan::{Node, Origin};
use proxsave_proto::{Mode, Roles};

fn plan_with(index: &Index, host: &Host, request: Request, granted: Option<&[CategoryId]>) -> Planned {
    let selection = Selection::new(&available(index), request, Roles::DUAL, Roles::DUAL).unwrap();
    let draft = Draft::new(index, &selection, granted).unwrap();
    let answers: Vec<_> = draft.questions().map(|item| Some(host.probe(&item.path))).collect();
    draft.finish(answers, archive()).unwrap()
}

fn full() -> Request {
    Request { mode: Mode::Full, categories: vec![], include: vec![], exclude: vec![] }
}

fn plan(entries: Vec<IndexEntry>, host: &Host) -> Planned {
    plan_with(&index(entries), host, full(), None)
}

fn outcome(planned: &Planned, text: &str) -> Outcome {
    planned.wanted.iter().find(|want| want.path == path(text)).unwrap_or_else(|| panic!("{text}")).outcome
}

fn written(planned: &Planned) -> Vec<String> {
    planned.plan.as_ref().unwrap().plan().entries.iter().map(|entry| entry.path.to_string()).collect()
}

fn anchors(planned: &Planned) -> Vec<String> {
    planned.plan.as_ref().unwrap().plan().anchors.iter().map(|anchor| anchor.path.to_string()).collect()
}

fn changed(aspects: &[Aspect]) -> Outcome {
    Outcome::Changed(aspects.iter().fold(Aspects::default(), |all, aspect| all.with(*aspect)))
}

fn mode_of(planned: &Planned, text: &str) -> (Origin, u16) {
    let entry = planned.plan.as_ref().unwrap().entry(&path(text)).unwrap_or_else(|| panic!("{text}"));
    (entry.origin, entry.node.meta().unwrap().mode)
}

#[test]
fn new_changed_and_same_are_told_apart() {
    let host = Host::default()
        .file("root/same", b"s")
        .file("root/content", b"old")
        .with("root/mode", proxsave_proto::state::Present { mode: 0o600, ..present(Kind::File, 0, b"m") })
        .with("root/link", present(Kind::Symlink, 0o777, b"elsewhere"))
        .with("root/type", present(Kind::Symlink, 0o777, b"x"));
    let mut owned = meta(0o644);
    (owned.uid, owned.xattrs) = (7, vec![Xattr { name: b"user.a".to_vec(), value: vec![1] }]);
    let planned = plan(
        vec![
            file("root/same", b"s"),
            file("root/content", b"new"),
            file("root/mode", b"m"),
            link("root/link", "there"),
            file("root/type", b"t"),
            file("root/new", b"n"),
            file_with("root/owned", b"o", owned),
        ],
        &host.file("root/owned", b"o"),
    );
    assert_eq!(outcome(&planned, "root/same"), Outcome::Same);
    assert_eq!(outcome(&planned, "root/new"), Outcome::New);
    assert_eq!(outcome(&planned, "root/content"), changed(&[Aspect::Content]));
    assert_eq!(outcome(&planned, "root/mode"), changed(&[Aspect::Mode]));
    assert_eq!(outcome(&planned, "root/link"), changed(&[Aspect::Link]));
    assert_eq!(outcome(&planned, "root/type"), changed(&[Aspect::Kind]));
    assert_eq!(outcome(&planned, "root/owned"), changed(&[Aspect::Owner, Aspect::Xattrs]));
    assert_eq!(written(&planned).len(), 6, "what is the same is left out");
    assert_eq!(anchors(&planned), ["/root"]);
}

#[test]
fn the_same_inputs_give_the_same_plan() {
    let entries = || vec![file("home/a/x", b"1"), hardlink("home/a/y", "home/a/x"), hardlink("home/a/z", "home/a/x")];
    let (one, two) = (plan(entries(), &Host::default()), plan(entries(), &Host::default()));
    assert_eq!(one.plan.unwrap().hash(), two.plan.unwrap().hash());
}

#[test]
fn missing_directories_are_made_from_true_entries_else_plain() {
    let planned = plan(
        vec![
            staged_dir("home"),
            dir("home/anna", 0o700),
            file("home/anna/x", b"x"),
            dir("etc", 0o711),
            staged_dir("etc/systemd"),
            dir("etc/systemd/system", 0o755),
            file("etc/systemd/system/a.service", b"a"),
        ],
        &Host::default(),
    );
    assert_eq!(mode_of(&planned, "home"), (Origin::Parent, 0o755));
    assert_eq!(mode_of(&planned, "home/anna"), (Origin::Archive, 0o700));
    assert_eq!(mode_of(&planned, "etc"), (Origin::Parent, 0o711));
    assert_eq!(mode_of(&planned, "etc/systemd"), (Origin::Parent, 0o755));
    assert_eq!(anchors(&planned), ["/"]);
}

#[test]
fn a_missing_directory_outside_the_categories_is_not_made_writable_for_others() {
    let host = Host::default();
    let planned = plan(vec![dir("etc", 0o777), dir("etc/ssh", 0o777), file("etc/ssh/a", b"a")], &host);
    assert_eq!(mode_of(&planned, "etc"), (Origin::Parent, 0o755));
    assert_eq!(mode_of(&planned, "etc/ssh"), (Origin::Archive, 0o777), "what the backup has in a category is its own");
}

#[test]
fn staging_directories_change_nothing_that_stands() {
    let host = Host::default().dir("home", 0o711).dir("var/spool/cron", 0o755);
    let planned = plan(
        vec![staged_dir("home"), file("home/x", b"x"), staged_dir("var/spool/cron"), file("var/spool/cron/y", b"")],
        &host,
    );
    assert_eq!(written(&planned), ["/home/x", "/var/spool/cron/y"]);
}

#[test]
fn true_directories_get_metadata_and_their_time_back() {
    let host =
        Host::default().dir("etc/ssh", 0o755).dir("etc/zfs", 0o700).dir("etc/ceph", 0o755).file("etc/ceph/a", b"a");
    let planned = plan(
        vec![
            dir("etc/ssh", 0o755),
            file("etc/ssh/new", b""),
            dir("etc/zfs", 0o755),
            dir("etc/zfs/sub", 0o755),
            dir("etc/ceph", 0o755),
            file("etc/ceph/a", b"a"),
            file("etc/zfs/x", b"x"),
        ],
        &host.dir("etc/zfs/sub", 0o755).file("etc/zfs/x", b"x"),
    );
    assert_eq!(outcome(&planned, "etc/ssh"), changed(&[Aspect::Time]));
    assert_eq!(outcome(&planned, "etc/zfs"), changed(&[Aspect::Mode]));
    assert_eq!(outcome(&planned, "etc/zfs/sub"), Outcome::Same, "nothing in it is written");
    assert_eq!(outcome(&planned, "etc/ceph"), Outcome::Same);
    assert_eq!(written(&planned), ["/etc/ssh", "/etc/ssh/new", "/etc/zfs"]);
    assert_eq!(anchors(&planned), ["/etc", "/etc/ssh"]);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let host = Host::default()
        .dir("root/dir", 0o755)
        .file("root/file", b"")
        .with("root/fifo", present(Kind::Special, 0o644, b""))
        .with("root/way", present(Kind::Symlink, 0o777, b"dir"));
    let mut bad = meta(0o644);
    bad.uid = u32::MAX;
    let planned = plan(
        vec![
            file("root/dir", b""),
            dir("root/file", 0o755),
            file("root/fifo", b""),
            file("root/way/x", b""),
            file("usr/local/bin/proxsave-ui", b"evil"),
            file_with("root/bad", b"", bad),
            link("root/l", "x"),
            file("root/l/below", b""),
        ],
        &host,
    );
    let refused = |text: &str| match outcome(&planned, text) {
        Outcome::Refused(why) => why,
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(refused("root/dir"), RefusedWhy::KindOverKind(Kind::Dir));
    assert_eq!(refused("root/file"), RefusedWhy::KindOverKind(Kind::File));
    assert_eq!(refused("root/fifo"), RefusedWhy::OverSpecial);
    assert_eq!(refused("root/way/x"), RefusedWhy::Unreachable(Blocked::SymlinkOnTheWay));
    assert_eq!(refused("usr/local/bin/proxsave-ui"), RefusedWhy::Guarded);
    assert_eq!(refused("root/bad"), RefusedWhy::Metadata("owner"));
    assert_eq!(refused("root/l/below"), RefusedWhy::BelowNonDirectory);
    assert_eq!(written(&planned), ["/root/l"]);
}

#[test]
fn categories_without_a_grant_are_refused_before_anything_is_asked() {
    let index = index(vec![file("etc/ssh/a", b""), file("root/b", b"")]);
    let planned = plan_with(&index, &Host::default(), full(), Some(&[CategoryId::UserData]));
    assert_eq!(outcome(&planned, "etc/ssh/a"), Outcome::Refused(RefusedWhy::NotGranted));
    assert_eq!(written(&planned), ["/root", "/root/b"]);
}

#[test]
fn exports_are_counted_and_not_written() {
    let planned = plan(
        vec![file("etc/pve/storage.cfg", b"12345"), file("etc/corosync/authkey", b"k"), file("etc/ssh/a", b"")],
        &Host::default(),
    );
    assert_eq!(written(&planned), ["/etc", "/etc/ssh", "/etc/ssh/a"]);
    let exports = &planned.plan.as_ref().unwrap().plan().exports;
    let of = |id| exports.iter().find(|export| export.category == id).map(|export| (export.entries, export.bytes));
    assert_eq!(of(CategoryId::StoragePve), Some((1, 5)));
    assert_eq!(of(CategoryId::Corosync), Some((1, 1)));
    assert_eq!(planned.exports.len(), 2);
}

#[test]
fn all_names_of_a_file_are_written_or_none() {
    let entries = || vec![file("root/a", b"x"), hardlink("root/b", "root/a")];
    let one = proxsave_proto::state::Present { ino: 77, ..present(Kind::File, 0o644, b"x") };
    let joined = Host::default().with("root/a", one.clone()).with("root/b", one);
    assert_eq!(written(&plan(entries(), &joined)), Vec::<String>::new());
    let apart = Host::default().file("root/a", b"x").file("root/b", b"x");
    let planned = plan(entries(), &apart);
    assert_eq!(written(&planned), ["/root/a", "/root/b"]);
    assert_eq!(outcome(&planned, "root/a"), changed(&[Aspect::Names]));
    let entry = planned.plan.as_ref().unwrap().entry(&path("root/b")).unwrap();
    assert_eq!(entry.node, Node::Hardlink { to: path("root/a") });
    let half = Host::default().file("root/a", b"x");
    assert_eq!(written(&plan(entries(), &half)), ["/root/a", "/root/b"], "a file that stands is pulled in");
}

#[test]
fn a_link_to_something_unselected_becomes_a_file() {
    let index = index(vec![
        file("srv/outside", b"data"),
        hardlink("root/one", "srv/outside"),
        hardlink("root/two", "srv/outside"),
        file("root/kept", b"k"),
        hardlink("root/three", "root/kept"),
    ]);
    let exclude = vec![PathGlob::new(b"root/kept").unwrap()];
    let planned = plan_with(&index, &Host::default().dir("root", 0o755), Request { exclude, ..full() }, None);
    let plan = planned.plan.as_ref().unwrap();
    assert_eq!(written(&planned), ["/root/one", "/root/three", "/root/two"]);
    assert!(matches!(plan.entry(&path("root/one")).unwrap().node, Node::File { size: 4, .. }));
    assert_eq!(plan.entry(&path("root/two")).unwrap().node, Node::Hardlink { to: path("root/one") });
    assert!(matches!(plan.entry(&path("root/three")).unwrap().node, Node::File { size: 1, .. }));
    assert_eq!(planned.copies, [path("root/one"), path("root/three")]);
}

#[test]
fn what_aliases_of_usr_lead_to_is_judged_by_its_true_path() {
    let planned = plan(vec![file("var/run/x", b""), file("lib/systemd/x", b""), file("root/a", b"")], &Host::default());
    assert_eq!(written(&planned), ["/root", "/root/a"], "no category holds what the aliases lead to");
}

#[test]
fn set_id_bits_stay_in_the_plan() {
    let planned = plan(vec![file_with("usr/local/bin/su", b"x", meta(0o4755))], &Host::default());
    assert_eq!(mode_of(&planned, "usr/local/bin/su"), (Origin::Archive, 0o4755));
}

#[test]
fn without_an_answer_nothing_can_be_submitted() {
    let index = index(vec![file("root/a", b""), file("root/b", b"")]);
    let selection = Selection::new(&available(&index), full(), Roles::DUAL, Roles::DUAL).unwrap();
    let draft = || Draft::new(&index, &selection, None).unwrap();
    let known = Some(Host::default().probe(&path("root/a")));
    let planned = draft().finish([known.clone(), None], archive()).unwrap();
    assert!(planned.plan.is_none());
    assert_eq!(outcome(&planned, "root/a"), Outcome::New);
    assert_eq!(outcome(&planned, "root/b"), Outcome::Unknown);
    assert!(matches!(draft().finish([known.clone()], archive()), Err(PlanError::Answers { asked: 2, got: 1 })));
    assert!(matches!(draft().finish(vec![known; 3], archive()), Err(PlanError::Answers { asked: 2, got: 3 })));
}

#[test]
fn answers_that_contradict_each_other_stop_it() {
    let index = index(vec![file("root/a", b""), file("root/b", b"")]);
    let selection = Selection::new(&available(&index), full(), Roles::DUAL, Roles::DUAL).unwrap();
    let draft = Draft::new(&index, &selection, None).unwrap();
    let answers = ["x", "root/old"].map(|made| Some(Host::default().dir(made, 0o755).probe(&path("root/a"))));
    assert!(matches!(draft.finish(answers, archive()), Err(PlanError::Moved(_))));
}

#[test]
fn contents_are_asked_once_in_the_archives_order() {
    let index = index(vec![
        file("root/longer-name", b"same"),
        file("root/b", b"same"),
        file("root/c", b"other"),
        file("root/empty", b""),
    ]);
    let planned = plan_with(&index, &Host::default().dir("root", 0o755), full(), None);
    let plan = planned.plan.unwrap().into_plan();
    let found = contents(&plan, &index).unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|content| content.ordinal == 6), "both short names have ordinal 6: {found:?}");
    assert_eq!(found.iter().map(|content| content.record).collect::<Vec<_>>(), [0, 1]);
    let mut other = index.clone();
    other.entries.retain(|entry| entry.path != path("root/c"));
    assert_eq!(contents(&plan, &other), Err(path("root/c")));
}

#[test]
fn what_the_helper_drops_is_no_difference() {
    use proxsave_proto::state::Present;
    let capability = |extra: &[&str]| {
        let names = std::iter::once("security.capability").chain(extra.iter().copied());
        names.map(|name| Xattr { name: name.as_bytes().to_vec(), value: vec![1] }).collect::<Vec<_>>()
    };
    let all = capability(&["user.x"]);
    let index = index(vec![
        file_with("root/set-id", b"", meta(0o4755)),
        file_with("root/set-id-there", b"", meta(0o4755)),
        file_with("root/set-id-only-there", b"", meta(0o755)),
        file_with("root/other-mode", b"", meta(0o4755)),
        file_with("root/capable", b"", Meta { xattrs: all.clone(), ..meta(0o755) }),
        file_with("root/other-xattrs", b"", Meta { xattrs: all.clone(), ..meta(0o755) }),
    ]);
    let there = |mode, xattrs: &[Xattr]| Present { xattrs: Xattr::digest(xattrs), ..present(Kind::File, mode, b"") };
    let host = Host::default()
        .with("root/set-id", there(0o755, &[]))
        .with("root/set-id-there", there(0o4755, &[]))
        .with("root/set-id-only-there", there(0o4755, &[]))
        .with("root/other-mode", there(0o700, &[]))
        .with("root/capable", there(0o755, &all[1..]))
        .with("root/other-xattrs", there(0o755, &[]));
    let selection = Selection::new(&available(&index), full(), Roles::DUAL, Roles::DUAL).unwrap();
    let outcomes = |privileged_bits: bool| {
        let draft = Draft::new(&index, &selection, None).unwrap().with_privileged_bits(privileged_bits);
        let answers: Vec<_> = draft.questions().map(|item| Some(host.probe(&item.path))).collect();
        let planned = draft.finish(answers, archive()).unwrap();
        let all = ["set-id", "set-id-there", "set-id-only-there", "other-mode", "capable", "other-xattrs"];
        all.map(|name| outcome(&planned, &format!("root/{name}")))
    };
    let (mode, xattrs) = (changed(&[Aspect::Mode]), changed(&[Aspect::Xattrs]));
    assert_eq!(outcomes(true), [mode, Outcome::Same, mode, mode, xattrs, xattrs]);
    assert_eq!(outcomes(false), [Outcome::Same, Outcome::Same, mode, mode, Outcome::Same, xattrs]);
}
