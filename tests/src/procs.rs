//! What `/proc` says about processes.

use std::collections::BTreeMap;
use std::fs;

/// One process, as `/proc/PID/status` has it.
#[derive(Debug, Clone)]
pub struct Proc {
    /// Its id.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// The fields of `status`.
    pub status: BTreeMap<String, String>,
    /// The names of its threads.
    pub threads: Vec<String>,
    /// Its executable's path.
    pub exe: String,
}

impl Proc {
    /// Looks at a process; `None` when it is gone.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let status: BTreeMap<String, String> =
            text.lines().filter_map(|line| line.split_once(":\t")).map(|(k, v)| (k.into(), v.trim().into())).collect();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let threads = tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .map(|name| name.trim().to_owned())
            .collect();
        let exe = fs::read_link(format!("/proc/{pid}/exe")).map(|p| p.display().to_string()).unwrap_or_default();
        Some(Self { pid, parent: status.get("PPid")?.parse().ok()?, status, threads, exe })
    }

    /// The real, effective, saved and file-system user ids.
    #[must_use]
    pub fn uids(&self) -> Vec<u32> {
        self.status["Uid"].split_whitespace().filter_map(|id| id.parse().ok()).collect()
    }

    /// One of the capability sets: `CapInh`, `CapPrm`, `CapEff`, `CapBnd`, `CapAmb`.
    #[must_use]
    pub fn caps(&self, set: &str) -> u64 {
        u64::from_str_radix(&self.status[set], 16).expect("a capability set in hex")
    }

    /// Whether it is a zombie.
    #[must_use]
    pub fn is_zombie(&self) -> bool {
        self.status.get("State").is_some_and(|state| state.starts_with('Z'))
    }
}

/// All processes now.
#[must_use]
pub fn all() -> Vec<Proc> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter_map(Proc::of).collect()
}

/// A process and all that descend from it, now.
#[must_use]
pub fn family(root: u32) -> Vec<Proc> {
    let all = all();
    let mut ids = vec![root];
    loop {
        let before = ids.len();
        for process in &all {
            if ids.contains(&process.parent) && !ids.contains(&process.pid) {
                ids.push(process.pid);
            }
        }
        if ids.len() == before {
            break;
        }
    }
    all.into_iter().filter(|process| ids.contains(&process.pid)).collect()
}
