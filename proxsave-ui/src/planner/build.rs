//! From the routed selection and the answers about the live state to the plan.

use super::diff::{Aspect, Aspects, Goal};
use super::links::settle;
use super::{Draft, Outcome, PlanError, Planned, RefusedWhy, Wanted, node};
use crate::decoder::{Index, IndexNode};
use crate::selection::content_len;
use proxsave_proto::plan::{AnchorBinding, ArchiveRef, Entry, Export, Meta, Node, Origin};
use proxsave_proto::state::{Anchor, Kind, Target};
use proxsave_proto::{CategoryId, Plan, RelPath};
use std::collections::{BTreeMap, HashMap};

impl Draft<'_> {
    /// Makes the plan. `answers` holds one target for each of [`Draft::questions`], in order; `None` where it could
    /// not be looked at.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn finish(
        mut self,
        answers: impl IntoIterator<Item = Option<Target>>,
        archive: ArchiveRef,
    ) -> Result<Planned, PlanError> {
        let asked = self.question_count();
        let mut answers = answers.into_iter();
        let mut targets: Vec<Option<Target>> = Vec::with_capacity(self.wanted.len());
        let mut got = 0;
        for want in &mut self.wanted {
            if want.outcome != Outcome::Unknown {
                targets.push(None);
                continue;
            }
            let answer = answers.next().ok_or(PlanError::Answers { asked, got })?;
            got += 1;
            want.outcome =
                answer.as_ref().map_or(Outcome::Unknown, |target| look(self.index, want, target, self.privileged_bits));
            targets.push(answer);
        }
        if answers.next().is_some() {
            return Err(PlanError::Answers { asked, got: got + 1 });
        }
        let (names, copied) = settle(self.index, &mut self.wanted, &targets);
        let parents = missing_parents(self.index, &self.wanted, &targets)?;
        put_times_back(self.index, &mut self.wanted, &parents);
        let copies = copied.iter().filter_map(|at| self.wanted.get(*at)).map(|want| want.path.clone()).collect();
        let made = parents.iter().map(|(path, parent)| (path.clone(), parent.category)).collect();
        let plan = if self.wanted.iter().any(|want| want.outcome == Outcome::Unknown) {
            None
        } else {
            let plan = self.assemble(targets, &names, parents, archive)?;
            Some(plan.validate().map_err(PlanError::Invalid)?)
        };
        Ok(Planned { plan, wanted: self.wanted, exports: self.exports, parents: made, copies })
    }

    fn assemble(
        &self,
        targets: Vec<Option<Target>>,
        names: &HashMap<usize, usize>,
        parents: BTreeMap<RelPath, Parent>,
        archive: ArchiveRef,
    ) -> Result<Plan, PlanError> {
        let anchors = anchors(&self.wanted, &targets, &parents)?;
        let mut entries = Vec::with_capacity(self.wanted.len() + parents.len());
        for (at, (want, target)) in self.wanted.iter().zip(targets).enumerate() {
            if !is_written(want) {
                continue;
            }
            let Some(made) = node_for(self.index, &self.wanted, want, names.get(&at)) else { continue };
            let before = match target {
                Some(Target::Present(_, present)) => Some(present),
                _ => None,
            };
            entries.push(Entry {
                path: want.path.clone(),
                category: want.category,
                origin: Origin::Archive,
                node: made,
                before,
            });
        }
        entries.extend(parents.into_iter().map(|(path, parent)| Entry {
            path,
            category: parent.category,
            origin: Origin::Parent,
            node: Node::Dir { meta: parent.meta },
            before: None,
        }));
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut exports: BTreeMap<CategoryId, (u64, u64)> = BTreeMap::new();
        for export in &self.exports {
            let slot = exports.entry(export.category).or_default();
            slot.0 += 1;
            slot.1 += self.index.entries.get(export.entry as usize).map_or(0, content_len);
        }
        Ok(Plan {
            archive,
            mode: self.selection.request.mode,
            host: self.selection.host,
            anchors,
            entries,
            exports: exports
                .into_iter()
                .map(|(category, (entries, bytes))| Export { category, entries, bytes })
                .collect(),
            services: Vec::new(),
            mounts: Vec::new(),
            applies: Vec::new(),
        })
    }
}

/// A directory that the plan makes on the way to something.
struct Parent {
    meta: Meta,
    category: CategoryId,
}

fn is_written(want: &Wanted) -> bool {
    matches!(want.outcome, Outcome::New | Outcome::Changed(_))
}

/// The outcome of one entry by itself.
fn look(index: &Index, want: &Wanted, target: &Target, privileged_bits: bool) -> Outcome {
    let goal = node(index, want.file.unwrap_or(want.entry)).and_then(Goal::of_index);
    let Some(goal) = goal else { return Outcome::Refused(RefusedWhy::Metadata("hard link's file")) };
    match target {
        Target::Blocked(why) => Outcome::Refused(RefusedWhy::Unreachable(*why)),
        Target::Absent(_) => Outcome::New,
        Target::Present(_, there) => match there.kind {
            Kind::Special => Outcome::Refused(RefusedWhy::OverSpecial),
            kind if (kind == Kind::Dir) != (goal.kind == Kind::Dir) => Outcome::Refused(RefusedWhy::KindOverKind(kind)),
            _ => match goal.differs(there, privileged_bits) {
                how if how.is_empty() => Outcome::Same,
                how => Outcome::Changed(how),
            },
        },
    }
}

fn node_for(index: &Index, wanted: &[Wanted], want: &Wanted, name_of: Option<&usize>) -> Option<Node> {
    if let Some(main) = name_of {
        return wanted.get(*main).map(|main| Node::Hardlink { to: main.path.clone() });
    }
    Some(match node(index, want.file.unwrap_or(want.entry))? {
        IndexNode::File { size, sha256, sparse, meta, .. } => {
            Node::File { size: *size, sha256: *sha256, sparse: *sparse, meta: meta.clone() }
        }
        IndexNode::Dir { meta, .. } => Node::Dir { meta: meta.clone() },
        IndexNode::Symlink { target, meta } => {
            Node::Symlink { target: target.clone(), meta: Meta { mode: 0o777, ..meta.clone() } }
        }
        IndexNode::Hardlink { .. } => return None,
    })
}

fn find(wanted: &[Wanted], path: &RelPath) -> Option<usize> {
    // A path that is wanted twice has its first, the one that counts, at the partition point.
    let at = wanted.partition_point(|want| want.path < *path);
    wanted.get(at).is_some_and(|want| want.path == *path).then_some(at)
}

/// The directories that the root lacks on the way to what is written and that are not written for their own sake.
fn missing_parents(
    index: &Index,
    wanted: &[Wanted],
    targets: &[Option<Target>],
) -> Result<BTreeMap<RelPath, Parent>, PlanError> {
    let mut parents: BTreeMap<RelPath, Parent> = BTreeMap::new();
    for (want, target) in wanted.iter().zip(targets) {
        let Some(Target::Absent(anchor)) = target else { continue };
        if !is_written(want) {
            continue;
        }
        let mut way = want.path.parent();
        while let Some(dir) = way {
            if dir.depth() <= usize::from(anchor.depth) || parents.contains_key(&dir) {
                break;
            }
            match find(wanted, &dir).and_then(|at| wanted.get(at).zip(targets.get(at))) {
                Some((want, _)) if want.outcome == Outcome::New => {}
                Some((want, Some(Target::Present(..)))) => return Err(PlanError::Moved(want.path.clone())),
                _ => {
                    let meta = match index.get(&dir).map(|entry| &entry.node) {
                        Some(IndexNode::Dir { meta, true_entry: true }) if super::unsettable(meta).is_none() => {
                            if want.category.matches(&dir) { meta.clone() } else { meta.clone().for_parent() }
                        }
                        _ => Meta { mode: 0o755, uid: 0, gid: 0, mtime: None, xattrs: Vec::new() },
                    };
                    parents.insert(dir.clone(), Parent { meta, category: want.category });
                }
            }
            way = dir.parent();
        }
    }
    Ok(parents)
}

/// An existing directory that is as the backup has it gets its time back when a name in it is made or replaced.
fn put_times_back(index: &Index, wanted: &mut [Wanted], parents: &BTreeMap<RelPath, Parent>) {
    let touched: Vec<usize> = wanted
        .iter()
        .filter(|want| is_written(want) && !matches!(node(index, want.entry), Some(IndexNode::Dir { .. })))
        .map(|want| &want.path)
        .chain(wanted.iter().filter(|want| want.outcome == Outcome::New).map(|want| &want.path))
        .chain(parents.keys())
        .filter_map(RelPath::parent)
        .filter_map(|dir| find(wanted, &dir))
        .collect();
    for at in touched {
        if let Some(want) = wanted.get_mut(at)
            && want.outcome == Outcome::Same
            && node(index, want.entry).and_then(Goal::of_index).is_some_and(|goal| goal.has_time())
        {
            want.outcome = Outcome::Changed(Aspects::default().with(Aspect::Time));
        }
    }
}

/// The existing directories that have to be bound: those of everything written but for what the plan makes.
fn anchors(
    wanted: &[Wanted],
    targets: &[Option<Target>],
    parents: &BTreeMap<RelPath, Parent>,
) -> Result<Vec<AnchorBinding>, PlanError> {
    let mut bound: BTreeMap<RelPath, AnchorBinding> = BTreeMap::new();
    for (want, target) in wanted.iter().zip(targets) {
        if !is_written(want) {
            continue;
        }
        let (Some(parent), Some(anchor)) = (want.path.parent(), target.as_ref().and_then(Target::anchor)) else {
            continue;
        };
        let depth = usize::from(anchor.depth);
        let mut dir = parent;
        while dir.depth() > depth {
            dir = dir.parent().ok_or_else(|| PlanError::Moved(want.path.clone()))?;
        }
        if dir.depth() < depth
            || matches!(target, Some(Target::Present(..))) && Some(&dir) != want.path.parent().as_ref()
        {
            return Err(PlanError::Moved(want.path.clone()));
        }
        let made = parents.contains_key(&dir)
            || find(wanted, &dir).and_then(|at| wanted.get(at)).is_some_and(|want| want.outcome == Outcome::New);
        if made {
            return Err(PlanError::Moved(dir));
        }
        let Anchor { dev, ino, mount, .. } = anchor;
        let binding = AnchorBinding { path: dir.clone(), dev, ino, mount };
        if *bound.entry(dir).or_insert_with(|| binding.clone()) != binding {
            return Err(PlanError::Moved(binding.path));
        }
    }
    Ok(bound.into_values().collect())
}
