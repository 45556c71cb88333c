//! What is chosen, and why.

use super::*;
use crate::planner::testing::{dir, file, index};

const PVE: Roles = Roles { pve: true, pbs: false };
const PBS: Roles = Roles { pve: false, pbs: true };

fn path(text: &str) -> RelPath {
    RelPath::from_archive(text.as_bytes()).unwrap()
}

fn request(mode: Mode) -> Request {
    Request { mode, categories: vec![], include: vec![], exclude: vec![] }
}

fn keys(selection: &Selection) -> Vec<&'static str> {
    selection.chosen().iter().map(|id| id.row().key).collect()
}

fn mixed() -> Index {
    index(vec![
        dir("etc/zfs", 0o755),
        dir("etc/ceph", 0o755),
        file("etc/ceph/ceph.conf", b"ceph"),
        file("etc/fstab", b"fstab"),
        file("etc/proxmox-backup/proxy.pem", b"pem"),
        file("etc/proxmox-backup/maintenance.cfg", b"m"),
        file("etc/pve/jobs.cfg", b"jobs"),
        file("etc/ssh/sshd_config", b"sshd"),
        file("root/.ssh/id", b"key"),
        file("root/notes", b"n"),
    ])
}

#[test]
fn a_category_is_available_only_when_something_in_it_is() {
    let tallies = available(&mixed());
    assert!(!tallies.iter().any(|tally| tally.category == CategoryId::Zfs), "a bare directory shows nothing");
    let ceph = tallies.iter().find(|tally| tally.category == CategoryId::Ceph).unwrap();
    assert_eq!((ceph.entries, ceph.bytes), (2, 4));
}

#[test]
fn full_takes_only_what_fits_host_and_backup() {
    let held = available(&mixed());
    let full = Selection::new(&held, request(Mode::Full), PVE, Roles::DUAL).unwrap();
    assert!(keys(&full).contains(&"ceph") && !keys(&full).contains(&"maintenance_pbs"));
    assert!(full.left_out.contains(&LeftOut { category: CategoryId::MaintenancePbs, why: LeftOutWhy::Host }));
    let full = Selection::new(&held, request(Mode::Full), Roles::DUAL, PBS).unwrap();
    assert!(!keys(&full).contains(&"ceph") && keys(&full).contains(&"maintenance_pbs"));
    assert!(full.left_out.contains(&LeftOut { category: CategoryId::Ceph, why: LeftOutWhy::Backup }));
    let full = Selection::new(&held, request(Mode::Full), Roles::UNKNOWN, PVE).unwrap();
    assert!(full.chosen().iter().all(|id| id.row().scope == proxsave_proto::category::Scope::Common));
}

#[test]
fn modes_choose_their_categories() {
    let held = available(&mixed());
    let base = Selection::new(&held, request(Mode::Base), PVE, PVE).unwrap();
    assert_eq!(keys(&base), ["filesystem", "ssl", "ssh"]);
    let storage = Selection::new(&held, request(Mode::Storage), PBS, Roles::DUAL).unwrap();
    assert_eq!(keys(&storage), ["maintenance_pbs", "filesystem"]);
    assert_eq!(
        Selection::new(&held, request(Mode::Storage), Roles::UNKNOWN, PVE),
        Err(SelectionError::StorageOnUnknownHost)
    );
}

#[test]
fn a_path_in_two_categories_is_taken_once_and_written_if_any_of_them_is() {
    let held = available(&mixed());
    let both = Selection::new(&held, request(Mode::Full), Roles::DUAL, Roles::DUAL).unwrap();
    assert_eq!(both.route(&path("root/.ssh/id")), Some(Route::Write(CategoryId::Ssh)));
    assert_eq!(both.route(&path("root/notes")), Some(Route::Write(CategoryId::UserData)));
    // pbs_config, which is exported, comes before ssl in the table.
    assert_eq!(both.route(&path("etc/proxmox-backup/proxy.pem")), Some(Route::Write(CategoryId::Ssl)));
    // The export copy of everything holds it too, but does not say what it is.
    assert_eq!(both.route(&path("etc/pve/jobs.cfg")), Some(Route::Export(CategoryId::PveJobs)));
    assert_eq!(both.route(&path("srv/other")), None);
    let counted: u64 = both.tallies(&mixed()).iter().map(|tally| tally.entries).sum();
    assert_eq!(counted, 9, "each path once, the bare etc/zfs not at all");
}

#[test]
fn custom_names_what_is_wrong_with_a_choice() {
    let held = available(&mixed());
    let custom = |id, host, backup| {
        Selection::new(&held, Request { categories: vec![id], ..request(Mode::Custom) }, host, backup)
    };
    assert_eq!(keys(&custom(CategoryId::Ssh, PVE, PVE).unwrap()), ["ssh"]);
    assert_eq!(custom(CategoryId::Zfs, PVE, PVE), Err(SelectionError::NotInBackup(CategoryId::Zfs)));
    assert!(matches!(custom(CategoryId::Ceph, PBS, Roles::DUAL), Err(SelectionError::NotForHost { .. })));
    assert!(matches!(custom(CategoryId::Ceph, Roles::DUAL, PBS), Err(SelectionError::NotForBackup { .. })));
    let wrong = Request { categories: vec![CategoryId::Ssh], ..request(Mode::Full) };
    assert_eq!(Selection::new(&held, wrong, PVE, PVE), Err(SelectionError::CategoriesInMode(Mode::Full)));
    let only = available(&index(vec![file("etc/pve/jobs.cfg", b"")]));
    assert!(matches!(Selection::new(&only, request(Mode::Base), PVE, PVE), Err(SelectionError::Nothing { .. })));
}

#[test]
fn globs_narrow_and_exclusion_wins() {
    let held = available(&mixed());
    let globs = |texts: &[&str]| texts.iter().map(|text| PathGlob::new(text.as_bytes()).unwrap()).collect();
    let wanted =
        Request { include: globs(&["root", "etc/ssh"]), exclude: globs(&["root/.ssh"]), ..request(Mode::Full) };
    let selection = Selection::new(&held, wanted, PVE, PVE).unwrap();
    assert!(selection.route(&path("root/notes")).is_some());
    assert!(selection.route(&path("etc/ssh/sshd_config")).is_some());
    assert_eq!(selection.route(&path("root/.ssh/id")), None);
    assert_eq!(selection.route(&path("etc/fstab")), None);
}

#[test]
fn verdicts_follow_the_roles_and_say_why() {
    let judge = |host, backup| Compatibility::judge(host, &["saw\x1b".to_owned()], backup, &[]);
    for (host, backup, verdict, consent) in [
        (PVE, PVE, Verdict::Same, false),
        (Roles::DUAL, PVE, Verdict::Partial, true),
        (PVE, Roles::DUAL, Verdict::Partial, true),
        (PVE, PBS, Verdict::Incompatible, true),
        (Roles::UNKNOWN, PVE, Verdict::UnknownHost, true),
        (Roles::UNKNOWN, Roles::UNKNOWN, Verdict::UnknownHost, true),
        (PVE, Roles::UNKNOWN, Verdict::UnknownBackup, false),
    ] {
        let found = judge(host, backup);
        assert_eq!((found.verdict, found.needs_consent()), (verdict, consent), "{host} {backup}");
        assert!(found.reasons.contains(&"Host: saw\\x1b".to_owned()));
    }
    assert!(judge(PVE, Roles::DUAL).reasons.iter().any(|text| text.contains("Proxmox Backup Server")));
}
