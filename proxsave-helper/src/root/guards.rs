//! What guarded paths resolve to: a bind mount of a guarded directory is as guarded as the directory.

use super::mounts::{Mounts, below, join};
use proxsave_proto::plan::GUARDED;

/// Whatever is mounted below these belongs to the kernel or to pmxcfs, under any other name too.
const GUARDED_DEVICES: [&str; 4] = ["etc/pve", "proc", "sys", "dev"];

/// Trees that are guarded, as places within file systems, so that the name they are reached by does not matter.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    trees: Vec<Tree>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tree {
    device: (u32, u32),
    path: Vec<u8>,
}

impl Guards {
    /// Works out where the guarded paths of a root lie. Goes by the mount table alone: nothing is looked up, so
    /// nothing can hang.
    pub fn new(root: &[u8], mounts: &Mounts, extra: &[Vec<u8>]) -> Self {
        let mut trees = Vec::new();
        let named = GUARDED.iter().map(|path| join(root, path.as_bytes()));
        for path in named.chain(extra.iter().cloned()) {
            if let Some(mount) = mounts.covering(&path)
                && let Some(inner) = mount.inner_path(&path)
            {
                trees.push(Tree { device: mount.device, path: inner });
            }
        }
        let own = mounts.covering(root).map(|mount| mount.device);
        for path in GUARDED_DEVICES.map(|path| join(root, path.as_bytes())) {
            // A bind of the root's own file system there must not guard the whole of it.
            for mount in mounts.within(&path).filter(|mount| Some(mount.device) != own) {
                trees.push(Tree { device: mount.device, path: mount.root.clone() });
            }
        }
        Self { trees }
    }

    /// Whether a place in a file system is in a guarded tree.
    #[must_use]
    pub fn hold(&self, device: (u32, u32), inner: &[u8]) -> bool {
        self.trees.iter().any(|tree| tree.device == device && below(inner, &tree.path).is_some())
    }
}
